//! The scheduler: chooses the thread that runs.
//!
//! Each simulated thread is a thread of the system that runs only while it is chosen. A thread gives up its turn when
//! it waits; between two waits it runs without interruption.

use std::cell::Cell;

use super::host::{HostId, HostState, ProcessId};
use super::timer::Timer;
use super::{Kernel, KernelGuard, Outcome};
use crate::libc::turn::{self, Turn};

/// A simulated thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ThreadId(pub(crate) usize);

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// Another thread or an event of the world woke the thread.
    Woken,
    /// The deadline has passed.
    Deadline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadState {
    Runnable,
    Waiting,
    Exited,
    /// Its process was killed. The system's thread stays blocked.
    Killed,
}

pub(super) struct Thread {
    pub(super) process: ProcessId,
    pub(super) state: ThreadState,
    /// Number of waits, which tells a deadline of an earlier wait from one of this wait.
    waits: u64,
    /// The deadline on the monotonic clock of the host.
    deadline: Option<u64>,
    reason: WakeReason,
    turn: &'static Turn,
    joiners: Vec<ThreadId>,
}

/// Time that passes with each turn of a thread: a program that never waits does not stop the time.
const TURN_NS: u64 = 1_000;

/// No thread of the simulation.
const OUTSIDE: usize = usize::MAX;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(OUTSIDE) };
    /// The process of the next thread that this thread starts, instead of its own.
    static SPAWN_IN: Cell<Option<ProcessId>> = const { Cell::new(None) };
}

/// The simulated thread that calls; `None` for a thread outside the simulation.
pub fn current_thread() -> Option<ThreadId> {
    let current = CURRENT.get();
    (current != OUTSIDE).then_some(ThreadId(current))
}

/// Starts a process on a host, whose first thread runs `main`.
pub fn spawn_on(host: HostId, main: impl FnOnce() + Send + 'static) -> ProcessId {
    let process = super::with(|kernel| kernel.begin_process(host));
    SPAWN_IN.set(Some(process));
    let spawned = std::thread::Builder::new().stack_size(8 << 20).spawn(main);
    SPAWN_IN.set(None);
    spawned.expect("the system has room for a thread");
    process
}

/// Registers a thread that the current thread starts; `None` outside the simulation.
pub(crate) fn register_thread() -> Option<ThreadId> {
    let process = SPAWN_IN.get();
    if process.is_none() && current_thread().is_none() {
        return None;
    }
    let mut kernel = KernelGuard::acquire();
    let process = process.unwrap_or_else(|| kernel.threads[CURRENT.get()].process);
    let id = ThreadId(kernel.threads.len());
    let turn = Box::leak(Box::new(Turn::new()));
    kernel.threads.push(Thread {
        process,
        state: ThreadState::Runnable,
        waits: 0,
        deadline: None,
        reason: WakeReason::Woken,
        turn,
        joiners: Vec::new(),
    });
    kernel.runnable.push(id);
    Some(id)
}

/// The turn of a thread.
pub(crate) fn turn_of(id: ThreadId) -> &'static Turn {
    KernelGuard::acquire().threads[id.0].turn
}

/// Makes the calling thread of the system the simulated thread `id`.
pub(crate) fn adopt_thread(id: ThreadId) {
    CURRENT.set(id.0);
}

/// Ends the current thread. The next one runs at once.
pub(crate) fn exit_thread(id: ThreadId) {
    let mut kernel = KernelGuard::acquire();
    kernel.threads[id.0].state = ThreadState::Exited;
    for joiner in std::mem::take(&mut kernel.threads[id.0].joiners) {
        kernel.wake(joiner);
    }
    CURRENT.set(OUTSIDE);
    pass_turn(kernel, None);
}

/// Waits until a thread has ended.
pub(crate) fn join_thread(me: ThreadId, other: ThreadId) {
    loop {
        {
            let mut kernel = KernelGuard::acquire();
            let other = &mut kernel.threads[other.0];
            if other.state == ThreadState::Exited {
                return;
            }
            other.joiners.push(me);
        }
        wait(me, None);
    }
}

/// Lets other threads run.
pub(crate) fn yield_turn(me: ThreadId) {
    let mut kernel = KernelGuard::acquire();
    kernel.runnable.push(me);
    pass_turn(kernel, Some(me));
}

/// Waits until the thread is woken, or until `deadline` on the monotonic clock of its host.
pub fn wait(me: ThreadId, deadline: Option<u64>) -> WakeReason {
    let mut kernel = KernelGuard::acquire();
    let thread = &mut kernel.threads[me.0];
    thread.waits += 1;
    thread.state = ThreadState::Waiting;
    thread.deadline = deadline;
    if deadline.is_some() {
        kernel.set_deadline(me);
    }
    pass_turn(kernel, Some(me));
    KernelGuard::acquire().threads[me.0].reason
}

/// Runs the simulation until it ends.
pub fn run() -> Outcome {
    let first = choose_next(&mut KernelGuard::acquire());
    if let Some(first) = first {
        turn::run(first);
    }
    super::with(|kernel| kernel.outcome.clone()).unwrap_or(Outcome::Deadlock)
}

/// Ends the simulation. The calling thread never continues.
pub fn finish() -> ! {
    super::with(|kernel| kernel.outcome = Some(Outcome::Finished));
    turn::end()
}

/// Ends the turn of a thread of a killed process.
pub(crate) fn end_turn_of_killed() -> ! {
    pass_turn(KernelGuard::acquire(), None);
    turn::block_forever()
}

/// Gives the turn to the next thread. Returns when `me` has it again.
fn pass_turn(mut kernel: KernelGuard, me: Option<ThreadId>) {
    let next = choose_next(&mut kernel);
    let me = me.map(|me| kernel.threads[me.0].turn);
    drop(kernel);
    match (next, me) {
        (Some(next), Some(me)) if std::ptr::eq(next, me) => {}
        (Some(next), me) => turn::pass(me, next),
        (None, _) => turn::end(),
    }
}

/// The turn of the next thread; `None` when the simulation has ended.
fn choose_next(kernel: &mut Kernel) -> Option<&'static Turn> {
    kernel.running = kernel.choose_next();
    let Some(next) = kernel.running else {
        kernel.outcome.get_or_insert(Outcome::Deadlock);
        return None;
    };
    kernel.record(1, next.0 as u64);
    Some(kernel.threads[next.0].turn)
}

impl Kernel {
    /// The process of a thread.
    pub(crate) fn process_of(&self, thread: ThreadId) -> ProcessId {
        self.threads[thread.0].process
    }

    /// The process of the thread that runs.
    pub(super) fn running_process(&self) -> ProcessId {
        self.process_of(self.running.expect("a simulated thread calls"))
    }

    fn choose_next(&mut self) -> Option<ThreadId> {
        self.now += TURN_NS;
        loop {
            self.process_timers();
            if self.now > self.limit {
                self.outcome = Some(Outcome::TimedOut);
                return None;
            }
            if self.runnable.is_empty() {
                return None;
            }
            let index = self.random.below(self.runnable.len() as u64) as usize;
            let chosen = self.runnable.remove(index);
            let host = self.threads[chosen.0].process.host;
            if self.host(host).state == HostState::Running {
                return Some(chosen);
            }
            // Runs when its host does.
        }
    }

    /// Makes a waiting thread runnable.
    pub(super) fn wake(&mut self, thread: ThreadId) {
        self.end_wait(thread, WakeReason::Woken);
    }

    fn end_wait(&mut self, id: ThreadId, reason: WakeReason) {
        let thread = &mut self.threads[id.0];
        if thread.state == ThreadState::Waiting {
            thread.state = ThreadState::Runnable;
            thread.reason = reason;
            thread.deadline = None;
            self.runnable.push(id);
        }
    }

    fn set_deadline(&mut self, id: ThreadId) {
        let thread = &self.threads[id.0];
        let Some(deadline) = thread.deadline else { return };
        let at = self.host(thread.process.host).clock.world_time_of(deadline, self.now);
        self.timers.set(at, Timer::Deadline(id, thread.waits));
    }

    pub(super) fn on_deadline(&mut self, id: ThreadId, wait: u64) {
        let thread = &self.threads[id.0];
        let Some(deadline) = thread.deadline.filter(|_| thread.waits == wait) else { return };
        let host = self.host(thread.process.host);
        if host.clock.monotonic(self.now) >= deadline {
            self.end_wait(id, WakeReason::Deadline);
        } else if host.state != HostState::Suspended {
            // The clock has become slower, or stood still.
            self.set_deadline(id);
        }
    }

    /// Schedules the threads of a host that runs again.
    pub(super) fn resume_threads(&mut self, host: HostId) {
        for index in 0..self.threads.len() {
            let (id, thread) = (ThreadId(index), &self.threads[index]);
            if thread.process.host != host {
                continue;
            }
            match thread.state {
                ThreadState::Runnable if !self.runnable.contains(&id) => self.runnable.push(id),
                ThreadState::Waiting => self.set_deadline(id),
                _ => {}
            }
        }
    }
}

//! The tasks and the sockets of the sessions of a lane.
//!
//! Nearly all sessions are idle at any time. A task of the runtime and the registration of a socket with it take 512
//! bytes, half of an idle session. Here both are one entry of a table, and one poll of the system (epoll, kqueue)
//! for each lane waits for the sockets of all its sessions. The runtime waits for that one.

mod socket;
mod wake_queue;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Registry};
use pushonce_fanout::ChunkedSlab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use socket::SessionTcp;
use wake_queue::{TaskWaker, WakeQueue};

/// Maximum number of tasks that run before the driver yields to the runtime: as many as the fan-out has offers in a
/// turn, so that the two alternate.
const TASKS_PER_TURN: usize = 256;

/// Maximum number of events that are taken from the system at once.
const EVENTS_PER_POLL: usize = 256;

/// The sessions of a lane that have a socket. It stays on the thread of the lane.
pub(crate) struct Reactor {
    registry: Registry,
    slots: RefCell<ChunkedSlab<Slot>>,
    woken: Arc<WakeQueue>,
}

/// The key of a session in a [`Reactor`]. A later session may get the same key. A late event or waker of the earlier
/// session then causes one superfluous poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotKey(usize);

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    /// `None` before the task is spawned, while it runs, and after its end.
    task: Option<Task>,
    is_readable: bool,
    is_writable: bool,
    /// Whether the task will run: it is in the queue, once at least.
    is_woken: bool,
}

/// Runs the tasks of a [`Reactor`]. Exactly one for each.
pub(crate) struct ReactorDriver {
    reactor: Rc<Reactor>,
    poll: AsyncFd<Poll>,
    events: Events,
    queue: VecDeque<SlotKey>,
}

impl Reactor {
    /// Must be called on a runtime with I/O.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub(crate) fn new() -> io::Result<(Rc<Reactor>, ReactorDriver)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        #[expect(
            deprecated,
            reason = "the replacement is unsafe: it asks for a descriptor that stays open, which `Poll` owns"
        )]
        let poll = AsyncFd::with_interest(poll, Interest::READABLE)?;
        let reactor =
            Rc::new(Reactor { registry, slots: RefCell::default(), woken: Arc::default() });
        let driver = ReactorDriver {
            reactor: reactor.clone(),
            poll,
            events: Events::with_capacity(EVENTS_PER_POLL),
            queue: VecDeque::new(),
        };
        Ok((reactor, driver))
    }

    /// Runs the task of a session until its end or that of its socket. A panic ends this session alone.
    pub(crate) fn spawn(&self, key: SlotKey, task: impl Future<Output = ()> + 'static) {
        self.change(key, |slot| slot.task = Some(Box::pin(task)));
        self.wake(key);
    }

    /// Schedules the task of a session.
    fn wake(&self, key: SlotKey) {
        let was_woken = self.change(key, |slot| std::mem::replace(&mut slot.is_woken, true));
        if was_woken == Some(false) {
            self.woken.push(key);
        }
    }

    fn change<T>(&self, key: SlotKey, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.slots.borrow_mut().get_mut(key.0).map(change)
    }

    fn on_event(&self, event: &Event) {
        let key = SlotKey(event.token().0);
        let is_error = event.is_error();
        self.change(key, |slot| {
            slot.is_readable |= event.is_readable() || event.is_read_closed() || is_error;
            slot.is_writable |= event.is_writable() || event.is_write_closed() || is_error;
        });
        self.wake(key);
    }

    fn run_task(&self, key: SlotKey) {
        let begin = |slot: &mut Slot| {
            slot.is_woken = false;
            slot.task.take()
        };
        let Some(mut task) = self.change(key, begin).flatten() else { return };
        let waker = Waker::from(Arc::new(TaskWaker { key, queue: self.woken.clone() }));
        let poll = AssertUnwindSafe(|| {
            let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
            // Dropped here at its end, in case that this panics.
            polled.is_pending().then_some(task)
        });
        // The hook of the process has logged a panic.
        if let Ok(Some(task)) = catch_unwind(poll) {
            self.change(key, |slot| slot.task = Some(task));
        }
    }

    /// Ends all tasks. Sessions and their lane refer to each other.
    fn clear(&self) {
        // Dropped after the borrow: the end of a session frees its slot.
        let tasks: Vec<_> =
            self.slots.borrow_mut().values_mut().filter_map(|slot| slot.task.take()).collect();
        drop(tasks);
    }
}

impl ReactorDriver {
    /// Runs the tasks. When the future is dropped, all sessions end.
    ///
    /// # Errors
    /// When the system cannot wait for sockets.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let woken = self.reactor.woken.clone();
        loop {
            tokio::select! {
                biased;
                guard = self.poll.readable_mut() => {
                    let mut guard = guard?;
                    take_events(guard.get_inner_mut(), &mut self.events)?;
                    if self.events.iter().count() < EVENTS_PER_POLL {
                        guard.clear_ready();
                    }
                    self.events.iter().for_each(|event| self.reactor.on_event(event));
                }
                () = woken.wait() => {}
            }
            if self.run_turn() {
                woken.notify();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Runs the tasks that were woken. Returns whether more are waiting.
    fn run_turn(&mut self) -> bool {
        self.reactor.woken.drain_into(&mut self.queue);
        let count = self.queue.len().min(TASKS_PER_TURN);
        for key in self.queue.drain(..count) {
            self.reactor.run_task(key);
        }
        // Tasks that woke themselves wait, too.
        self.reactor.woken.drain_into(&mut self.queue);
        !self.queue.is_empty()
    }
}

impl Drop for ReactorDriver {
    fn drop(&mut self) {
        self.reactor.clear();
    }
}

/// Reads the pending events.
fn take_events(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    loop {
        match poll.poll(events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
#[path = "reactor/reactor_test.rs"]
mod reactor_test;

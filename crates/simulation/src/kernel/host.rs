//! Hosts and the processes that run on them.

use std::net::Ipv4Addr;

use super::clock::{ClockKind, HostClock};
use super::descriptor::ObjectId;
use super::disk::Disk;
use super::random::Random;
use super::scheduler::{ThreadId, ThreadState, current_thread, end_turn_of_killed, wait};
use super::{Kernel, KernelGuard, with};
use crate::libc::file;

/// A host, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// A process on a host: the number of processes that were started there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    /// The host.
    pub host: HostId,
    /// The number of the process on its host.
    pub number: u32,
}

/// Whether the threads of a host run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// They run.
    Running,
    /// The process is stopped. The host still answers the network.
    Paused,
    /// The machine is suspended.
    Suspended,
    /// The machine has no power.
    Off,
}

pub(super) struct Host {
    pub(super) address: Ipv4Addr,
    pub(super) state: HostState,
    pub(super) clock: HostClock,
    pub(super) random: Random,
    /// The process that runs, or ran last.
    pub(super) process: u32,
    pub(super) is_process_alive: bool,
    pub(super) exit_status: Option<i32>,
    /// The newest cluster version that the build on the host supports.
    build: u16,
    pub(super) next_port: u16,
    /// Those of the process.
    pub(super) descriptors: Vec<Option<ObjectId>>,
    pub(super) disk: Disk,
    /// The request to shut down was sent, and the thread that waits for it.
    is_signalled: bool,
    signal_waiter: Option<ThreadId>,
}

/// The first port of connections to other hosts.
const EPHEMERAL_PORT_MIN: u16 = 32_768;

impl Kernel {
    /// Adds a host with this address.
    pub fn add_host(&mut self, address: Ipv4Addr) -> HostId {
        let id = HostId(self.hosts.len());
        let (clock, random) = (HostClock::new(self.now), self.random.fork());
        self.hosts.push(Host {
            address,
            state: HostState::Running,
            clock,
            random,
            process: 0,
            is_process_alive: false,
            exit_status: None,
            build: u16::MAX,
            next_port: EPHEMERAL_PORT_MIN,
            descriptors: Vec::new(),
            disk: Disk::default(),
            is_signalled: false,
            signal_waiter: None,
        });
        self.network.add_host();
        id
    }

    pub(super) fn host(&self, id: HostId) -> &Host {
        &self.hosts[id.0]
    }

    pub(super) fn host_mut(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[id.0]
    }

    pub(super) fn host_address(&self, id: HostId) -> &Ipv4Addr {
        &self.host(id).address
    }

    /// The host with an address.
    pub(super) fn host_at(&self, address: Ipv4Addr) -> Option<HostId> {
        self.hosts.iter().position(|host| host.address == address).map(HostId)
    }

    /// Begins a process on a host, whose last one has ended.
    pub(super) fn begin_process(&mut self, host: HostId) -> ProcessId {
        let entry = self.host_mut(host);
        entry.process += 1;
        entry.is_process_alive = true;
        entry.exit_status = None;
        (entry.is_signalled, entry.signal_waiter) = (false, None);
        ProcessId { host, number: entry.process }
    }

    /// Whether a process runs, or could run if its host were not paused.
    pub fn is_alive(&self, process: ProcessId) -> bool {
        let host = self.host(process.host);
        host.is_process_alive && host.process == process.number
    }

    /// Whether the host has a process that was requested to shut down.
    pub fn is_stopping(&self, host: HostId) -> bool {
        self.has_process(host) && self.host(host).is_signalled
    }

    /// Whether the host has a process.
    pub fn has_process(&self, host: HostId) -> bool {
        self.host(host).is_process_alive
    }

    /// The status with which the last process of a host exited; `None` while it runs, and after a kill.
    pub fn exit_status(&self, host: HostId) -> Option<i32> {
        self.host(host).exit_status
    }

    /// Ends the process of a host. Its threads never run again. Returns the files of the system that it had open.
    fn end_process(&mut self, host: HostId) -> Vec<i32> {
        if !std::mem::take(&mut self.host_mut(host).is_process_alive) {
            return Vec::new();
        }
        let process = ProcessId { host, number: self.host(host).process };
        for thread in &mut self.threads {
            if thread.process == process && thread.state != ThreadState::Exited {
                thread.state = ThreadState::Killed;
            }
        }
        let threads = &self.threads;
        self.runnable.retain(|thread| threads[thread.0].process != process);
        for waiting in self.futexes.values_mut() {
            waiting.retain(|thread| threads[thread.0].process != process);
        }
        self.close_all(process);
        self.host_mut(host).disk.take_open()
    }

    /// Stops a host, or lets it run again.
    pub fn set_host_state(&mut self, id: HostId, state: HostState) {
        let now = self.now;
        let host = self.host_mut(id);
        let before = std::mem::replace(&mut host.state, state);
        if before == HostState::Suspended {
            host.clock.resume(now);
        }
        match state {
            HostState::Suspended => host.clock.suspend(now),
            HostState::Running => self.resume_threads(id),
            HostState::Paused | HostState::Off => {}
        }
    }

    /// What a clock of a host shows.
    pub fn read_clock(&self, host: HostId, kind: ClockKind) -> std::time::Duration {
        self.host(host).clock.read(kind, self.now)
    }

    /// Moves the date of a host by a number of nanoseconds.
    pub fn step_date(&mut self, host: HostId, by: i64) {
        self.host_mut(host).clock.step_date(by);
    }

    /// Makes the clocks of a host run faster or slower, in parts per million.
    pub fn set_drift(&mut self, host: HostId, drift_ppm: i64) {
        let now = self.now;
        self.host_mut(host).clock.set_drift(drift_ppm, now);
    }

    /// Installs another build on a host, which its next process runs.
    pub fn set_build(&mut self, host: HostId, build: u16) {
        self.host_mut(host).build = build;
    }

    /// Random bytes of a host.
    pub(crate) fn fill_random(&mut self, host: HostId, bytes: &mut [u8]) {
        self.host_mut(host).random.fill(bytes);
    }
}

/// What a clock of the current thread's host shows.
pub(crate) fn read_clock_here(thread: ThreadId, kind: ClockKind) -> std::time::Duration {
    let kernel = KernelGuard::acquire();
    let host = kernel.threads[thread.0].process.host;
    kernel.read_clock(host, kind)
}

/// Ends the process of a host at once. The host closes its connections, and keeps the bytes that it wrote.
pub fn kill(host: HostId) {
    let open = with(|kernel| kernel.end_process(host));
    open.into_iter().for_each(file::close_real);
}

/// Cuts the power of a host. Its connections vanish without notice, and so do some of its unsynced changes.
pub fn cut_power(host: HostId) {
    let (open, repairs) = with(|kernel| {
        kernel.set_host_state(host, HostState::Off);
        kernel.objects.retain(|_, object| object.process().host != host);
        let open = kernel.end_process(host);
        let host = kernel.host_mut(host);
        let mut random = host.random.fork();
        (open, host.disk.cut_power(&mut random))
    });
    open.into_iter().for_each(file::close_real);
    repairs.iter().for_each(file::apply);
}

/// Ends the process of the current thread with a status.
pub(crate) fn exit(thread: ThreadId, status: i32) -> ! {
    let host = with(|kernel| kernel.process_of(thread).host);
    kill(host);
    with(|kernel| kernel.host_mut(host).exit_status = Some(status));
    end_turn_of_killed()
}

/// Ends the process that calls with a status.
pub fn exit_here(status: i32) -> ! {
    exit(current_thread().expect("a simulated thread calls"), status)
}

/// The build on the host of the current thread; `None` outside the simulation.
pub fn build_here() -> Option<u16> {
    let thread = current_thread()?;
    Some(with(|kernel| kernel.host(kernel.process_of(thread).host).build))
}

/// Requests the process of a host to shut down.
pub fn raise_signal(host: HostId) {
    with(|kernel| {
        let entry = kernel.host_mut(host);
        entry.is_signalled = true;
        if let Some(waiter) = entry.signal_waiter.take() {
            kernel.wake(waiter);
        }
    });
}

/// Waits until the process of the current thread is requested to shut down.
pub fn wait_for_signal() {
    let Some(thread) = current_thread() else { return };
    loop {
        let is_signalled = with(|kernel| {
            let host = kernel.process_of(thread).host;
            let entry = kernel.host_mut(host);
            entry.signal_waiter = Some(thread);
            entry.is_signalled
        });
        if is_signalled {
            return;
        }
        wait(thread, None);
    }
}

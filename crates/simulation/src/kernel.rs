//! The simulated operating system of all hosts: threads, time, descriptors, the network.
//!
//! Exactly one simulated thread runs at a time. The others wait until the scheduler chooses them, so
//! nothing here is ever accessed concurrently, and the order of everything that happens follows from the seed.

mod clock;
mod connect;
mod descriptor;
mod disk;
mod epoll;
mod futex;
mod host;
mod network;
mod random;
mod scheduler;
mod storage;
mod tcp;
mod timer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

pub use clock::ClockKind;
pub use descriptor::{DESCRIPTOR_MIN, DescriptorError, Readiness};
pub(crate) use disk::{Change, Repair, SyncStart};
pub use epoll::{EpollEvent, Interest};
pub(crate) use futex::wait_futex;
pub use host::{
    HostId, HostState, ProcessId, build_here, cut_power, exit_here, kill, raise_signal,
    wait_for_signal,
};
pub(crate) use host::{exit, read_clock_here};
pub use network::LinkState;
pub use scheduler::{ThreadId, WakeReason, current_thread, finish, run, spawn_on, wait};
pub(crate) use scheduler::{
    adopt_thread, exit_thread, join_thread, register_thread, turn_of, yield_turn,
};
pub(crate) use storage::{
    DiskVerdict, before_change, is_disk_full, on_change, on_close, on_open, on_remove, on_rename,
    sync, tracked_file,
};
pub use tcp::StreamError;

use descriptor::{Object, ObjectId};
use host::Host;
use network::Network;
use random::Random;
use scheduler::Thread;
use timer::Timers;

/// Nanoseconds since the start of the simulation.
pub type WorldTime = u64;

/// All state of the simulated world.
pub struct Kernel {
    now: WorldTime,
    random: Random,
    timers: Timers,
    hosts: Vec<Host>,
    threads: Vec<Thread>,
    runnable: Vec<ThreadId>,
    running: Option<ThreadId>,
    futexes: BTreeMap<usize, VecDeque<ThreadId>>,
    objects: BTreeMap<ObjectId, Object>,
    next_object: u64,
    network: Network,
    /// Why the simulation ended.
    outcome: Option<Outcome>,
    /// The longest time that is simulated.
    limit: WorldTime,
    trace: u64,
}

/// Why a simulation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// [`finish`] was called.
    Finished,
    /// Every thread waits for another.
    Deadlock,
    /// The longest time is over.
    TimedOut,
}

static KERNEL: Mutex<Option<Kernel>> = Mutex::new(None);

/// Creates the world. Its random choices follow from `seed`.
pub fn create(seed: u64) {
    let kernel = Kernel {
        now: 0,
        random: Random::new(seed),
        timers: Timers::default(),
        hosts: Vec::new(),
        threads: Vec::new(),
        runnable: Vec::new(),
        running: None,
        futexes: BTreeMap::new(),
        objects: BTreeMap::new(),
        next_object: 0,
        network: Network::default(),
        outcome: None,
        limit: WorldTime::MAX,
        trace: 0,
    };
    *KERNEL.lock().expect("no panic in the kernel") = Some(kernel);
}

/// Access to the world. Only the thread that runs calls it, and never twice at a time.
struct KernelGuard(MutexGuard<'static, Option<Kernel>>);

impl KernelGuard {
    fn acquire() -> KernelGuard {
        KernelGuard(KERNEL.try_lock().expect("the kernel is used by one thread, and not by itself"))
    }
}

impl std::ops::Deref for KernelGuard {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().expect("the world was created")
    }
}

impl std::ops::DerefMut for KernelGuard {
    fn deref_mut(&mut self) -> &mut Kernel {
        self.0.as_mut().expect("the world was created")
    }
}

/// Calls `f` with the world. For the simulated thread that runs.
pub fn with<R>(f: impl FnOnce(&mut Kernel) -> R) -> R {
    f(&mut KernelGuard::acquire())
}

/// Sets the longest time that is simulated.
pub fn limit(time: Duration) {
    with(|kernel| kernel.limit = time.as_nanos() as WorldTime);
}

impl Kernel {
    /// The time of the world.
    pub fn now(&self) -> WorldTime {
        self.now
    }

    /// A hash of every event so far.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Adds an event to the trace: what happened, with its numbers.
    fn record(&mut self, event: u64, number: u64) {
        for word in [self.now, event, number] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
    }
}

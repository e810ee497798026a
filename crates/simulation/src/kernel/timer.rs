//! What happens at a later time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::descriptor::ObjectId;
use super::scheduler::ThreadId;
use super::{Kernel, WorldTime};

/// An event of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The deadline of the wait with this number.
    Deadline(ThreadId, u64),
    /// The first segment that a stream sends arrives.
    Transmit(ObjectId),
    /// A request for a connection arrives.
    Connect(ObjectId),
    /// The answer to a request for a connection arrives.
    Connected(ObjectId),
    /// A reset arrives.
    Reset(ObjectId),
}

/// Pending events, by time, then by the order in which they were set.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(WorldTime, u64, Timer)>>,
    set_total: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: WorldTime, timer: Timer) {
        self.set_total += 1;
        self.heap.push(Reverse((at, self.set_total, timer)));
    }

    /// The time of the next event.
    fn next_at(&self) -> Option<WorldTime> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    fn pop(&mut self) -> Option<Timer> {
        self.heap.pop().map(|Reverse((_, _, timer))| timer)
    }
}

impl Kernel {
    /// Processes the events that are due. Without a runnable thread, the time advances to the next event.
    pub(super) fn process_timers(&mut self) {
        while let Some(at) = self.timers.next_at() {
            if at > self.now {
                if !self.runnable.is_empty() {
                    return;
                }
                self.now = at;
            }
            let Some(timer) = self.timers.pop() else { return };
            match timer {
                Timer::Deadline(thread, wait) => self.on_deadline(thread, wait),
                Timer::Transmit(stream) => self.on_transmit(stream),
                Timer::Connect(stream) => self.on_connect(stream),
                Timer::Connected(stream) => self.on_connected(stream),
                Timer::Reset(stream) => self.on_reset(stream),
            }
        }
    }
}

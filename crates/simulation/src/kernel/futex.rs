//! Waiting for a word in memory: what locks and condition variables are made of.

use super::scheduler::ThreadId;
use super::{Kernel, WakeReason, WorldTime, wait, with};

impl Kernel {
    /// Wakes up to `count` threads that wait at an address; returns how many.
    pub(crate) fn wake_futex(&mut self, address: usize, count: usize) -> usize {
        let mut woken = 0;
        while woken < count {
            let Some(waiting) = self.futexes.get_mut(&address) else { break };
            let Some(thread) = waiting.pop_front() else {
                self.futexes.remove(&address);
                break;
            };
            self.wake(thread);
            woken += 1;
        }
        woken
    }
}

/// Waits at an address until another thread wakes it. The caller has compared the word, and no other thread has run
/// since.
pub(crate) fn wait_futex(
    thread: ThreadId,
    address: usize,
    deadline: Option<WorldTime>,
) -> WakeReason {
    with(|kernel| kernel.futexes.entry(address).or_default().push_back(thread));
    let reason = wait(thread, deadline);
    if reason == WakeReason::Deadline {
        with(|kernel| {
            if let Some(waiting) = kernel.futexes.get_mut(&address) {
                waiting.retain(|&other| other != thread);
            }
        });
    }
    reason
}

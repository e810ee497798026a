//! The sessions whose tasks have to run.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use tokio::sync::Notify;

use super::SlotKey;

/// A queue that wakes its one reader.
#[derive(Default)]
pub(super) struct WakeQueue {
    keys: Mutex<VecDeque<SlotKey>>,
    notify: Notify,
}

/// The waker of one poll of a task. It exists as long as something that the task waits for holds it, mostly a timer:
/// the tasks of idle sessions have none.
pub(super) struct TaskWaker {
    pub(super) key: SlotKey,
    pub(super) queue: Arc<WakeQueue>,
}

impl WakeQueue {
    pub(super) fn push(&self, key: SlotKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.push_back(key);
        let is_first = keys.len() == 1;
        drop(keys);
        if is_first {
            self.notify();
        }
    }

    /// Moves all entries to the end of `out`.
    pub(super) fn drain_into(&self, out: &mut VecDeque<SlotKey>) {
        out.append(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Wakes the reader.
    pub(super) fn notify(&self) {
        self.notify.notify_one();
    }

    /// Waits for [`WakeQueue::push`] or [`WakeQueue::notify`]; a call before the wait counts too.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.queue.push(self.key);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.queue.push(self.key);
    }
}

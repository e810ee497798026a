//! The connections of a lane that have packets to send, or whose handler is to run.

use std::cell::RefCell;
use std::collections::VecDeque;

use quinn_proto::ConnectionHandle;
use tokio::sync::Notify;

/// Each connection is in it at most once.
#[derive(Default)]
pub(crate) struct ReadyQueue {
    handles: RefCell<VecDeque<ConnectionHandle>>,
    notify: Notify,
}

impl ReadyQueue {
    pub(crate) fn pop(&self) -> Option<ConnectionHandle> {
        self.handles.borrow_mut().pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.handles.borrow().is_empty()
    }

    /// Waits until a connection is ready. Returns at once if one became ready before the call.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn push(&self, handle: ConnectionHandle) {
        let mut handles = self.handles.borrow_mut();
        handles.push_back(handle);
        if handles.len() == 1 {
            self.notify.notify_one();
        }
    }
}

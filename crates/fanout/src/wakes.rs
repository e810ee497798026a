//! How a lane's thread learns that topics have something for it.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::feed::lock;

/// The lane's queue of topics, by the lane's own index. A topic stands in it at most once, because
/// a topic tells a lane only once until the lane has looked; so it is bounded by the number of the
/// lane's topics, and never full.
#[derive(Default)]
pub(crate) struct Wakes {
    due: Mutex<VecDeque<usize>>,
    notify: Notify,
}

impl Wakes {
    /// A topic has something.
    pub(crate) fn push(&self, topic: usize) {
        let first = {
            let mut due = lock(&self.due);
            due.push_back(topic);
            due.len() == 1
        };
        if first {
            self.notify.notify_one();
        }
    }

    /// Moves everything that is due to the end of `into`.
    pub(crate) fn take(&self, into: &mut VecDeque<usize>) {
        into.append(&mut lock(&self.due));
    }

    /// The lane's own thread has something to do.
    pub(crate) fn nudge(&self) {
        self.notify.notify_one();
    }

    /// Waits for [`Wakes::push`] or [`Wakes::nudge`], also for one that came before the call.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}

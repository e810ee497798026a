//! How a lane's thread learns that topics have something for it.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::topic_buffer::lock;

/// The lane's queue of topics, by the lane's own index. A topic stands in it at most once, because
/// a topic tells a lane only once until the lane has looked; so it is bounded by the number of the
/// lane's topics, and never full.
#[derive(Default)]
pub(crate) struct DirtyTopics {
    topics: Mutex<VecDeque<usize>>,
    notify: Notify,
}

impl DirtyTopics {
    /// A topic has something.
    pub(crate) fn push(&self, topic_index: usize) {
        let was_empty = {
            let mut topics = lock(&self.topics);
            topics.push_back(topic_index);
            topics.len() == 1
        };
        if was_empty {
            self.notify.notify_one();
        }
    }

    /// Moves everything that is due to the end of `out`.
    pub(crate) fn drain_into(&self, out: &mut VecDeque<usize>) {
        out.append(&mut lock(&self.topics));
    }

    /// The lane's own thread has something to do.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits for [`DirtyTopics::push`] or [`DirtyTopics::wake`], also for one that came before the call.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}

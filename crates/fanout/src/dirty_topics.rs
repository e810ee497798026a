//! Queue that notifies the thread of a lane of topics with changes.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::topic_buffer::lock;

/// Queue of topics with changes, by their index in the lane. A topic is in the queue at most once, because
/// it does not notify a lane again until the lane has processed it. So the queue is bounded by the number
/// of the lane's topics and never full.
#[derive(Default)]
pub(crate) struct DirtyTopics {
    topics: Mutex<VecDeque<usize>>,
    notify: Notify,
}

impl DirtyTopics {
    /// Adds a topic with changes.
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

    /// Moves all entries to the end of `out`.
    pub(crate) fn drain_into(&self, out: &mut VecDeque<usize>) {
        out.append(&mut lock(&self.topics));
    }

    /// Wakes the lane for other work.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits for [`DirtyTopics::push`] or [`DirtyTopics::wake`]; a call before the wait counts too.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}

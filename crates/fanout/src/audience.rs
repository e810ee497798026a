//! How many watch a topic: on this node, as lanes and readers count, and in the whole cluster, as
//! upstream says.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use pushonce_core::{SubscriberCount, Topic};

use crate::frames::{EncodedForm, FrameCache};
use crate::topic_buffer::lock;
use crate::{FrameEncoder, WireFormat};

/// The sessions of one topic. To come or to go costs two additions, and a lock once for all who do so
/// until upstream has looked.
#[derive(Default)]
pub(crate) struct SubscriberCounter {
    sessions: AtomicU64,
    /// Those of them that want to be told how many there are in the whole cluster.
    audience_requests: AtomicU64,
    /// Stands among the changed.
    is_marked: AtomicBool,
}

/// The topics whose seats changed since upstream looked.
#[derive(Default)]
pub(crate) struct ChangedTopics(Mutex<HashSet<Topic>>);

/// How many watch in the whole cluster, and the frames that say so.
pub(crate) struct ClusterAudience {
    pub(crate) sessions: u64,
    /// Made on first need, for all who asked.
    frame_cache: FrameCache,
}

impl SubscriberCounter {
    pub(crate) fn add(
        &self,
        count: SubscriberCount,
        topic: &Topic,
        changed_topics: &ChangedTopics,
    ) {
        self.sessions.fetch_add(count.sessions, Ordering::SeqCst);
        self.audience_requests.fetch_add(count.wants_audience.into(), Ordering::SeqCst);
        self.mark_changed(topic, changed_topics);
    }

    pub(crate) fn remove(
        &self,
        count: SubscriberCount,
        topic: &Topic,
        changed_topics: &ChangedTopics,
    ) {
        self.sessions.fetch_sub(count.sessions, Ordering::SeqCst);
        self.audience_requests.fetch_sub(count.wants_audience.into(), Ordering::SeqCst);
        self.mark_changed(topic, changed_topics);
    }

    /// After the change: whoever takes the mark off then sees it.
    fn mark_changed(&self, topic: &Topic, changed_topics: &ChangedTopics) {
        if !self.is_marked.swap(true, Ordering::SeqCst) {
            lock(&changed_topics.0).insert(topic.clone());
        }
    }

    /// What upstream is to know. The mark goes before the look: what changes later is marked again.
    pub(crate) fn take_count(&self) -> SubscriberCount {
        self.is_marked.store(false, Ordering::SeqCst);
        let sessions = self.sessions.load(Ordering::SeqCst);
        SubscriberCount {
            sessions,
            wants_audience: self.audience_requests.load(Ordering::SeqCst) > 0,
        }
    }
}

impl ChangedTopics {
    /// At most so many, in no order.
    pub(crate) fn take(&self, topics_max: usize) -> Vec<Topic> {
        let mut changed = lock(&self.0);
        if changed.len() <= topics_max {
            return changed.drain().collect();
        }
        let taken: Vec<Topic> = changed.iter().take(topics_max).cloned().collect();
        taken.iter().for_each(|topic| drop(changed.take(topic)));
        taken
    }
}

impl ClusterAudience {
    pub(crate) fn new(sessions: u64) -> ClusterAudience {
        ClusterAudience { sessions, frame_cache: FrameCache::default() }
    }

    /// The frame that says it, made at the first call for each wire.
    pub(crate) fn frame(
        &self,
        wire: WireFormat,
        topic: &Topic,
        encoder: &dyn FrameEncoder,
    ) -> Bytes {
        self.frame_cache
            .get(EncodedForm::Full(wire), || encoder.encode_audience(wire, topic, self.sessions))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn no_change_is_missed_while_counts_are_taken() {
        let (counter, changed_topics) = (SubscriberCounter::default(), ChangedTopics::default());
        let topic = Topic::new("a").expect("valid");
        let subscriber = SubscriberCount { sessions: 1, wants_audience: true };
        let mut last_count = SubscriberCount::default();
        let mut take_count = || {
            if !changed_topics.take(1).is_empty() {
                last_count = counter.take_count();
            }
            last_count
        };
        thread::scope(|scope| {
            let add_and_remove = || {
                for _ in 0..20_000 {
                    counter.add(subscriber, &topic, &changed_topics);
                    counter.remove(subscriber, &topic, &changed_topics);
                }
                counter.add(subscriber, &topic, &changed_topics);
            };
            let threads = [scope.spawn(add_and_remove), scope.spawn(add_and_remove)];
            while threads.iter().any(|thread| !thread.is_finished()) {
                assert!(take_count().sessions <= 2);
            }
        });
        assert_eq!(take_count(), SubscriberCount { sessions: 2, wants_audience: true });
    }
}

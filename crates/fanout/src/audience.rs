//! The number of subscribers of a topic: on this node, and in the whole cluster as reported by upstream.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use pushonce_core::{SubscriberCount, Topic};

use crate::frames::{EncodedForm, FrameCache};
use crate::topic_buffer::lock;
use crate::{FrameEncoder, WireFormat};

/// Number of sessions subscribed to one topic. A change costs two additions, and the lock of
/// [`ChangedTopics`] only for the first change since upstream took the count.
#[derive(Default)]
pub(crate) struct SubscriberCounter {
    sessions: AtomicU64,
    /// Number of sessions that requested the cluster-wide number.
    audience_requests: AtomicU64,
    /// The topic is in [`ChangedTopics`].
    is_marked: AtomicBool,
}

/// Topics whose count changed since upstream took it.
#[derive(Default)]
pub(crate) struct ChangedTopics(Mutex<HashSet<Topic>>);

/// The cluster-wide number of subscribers, with its encoded frames.
pub(crate) struct ClusterAudience {
    pub(crate) sessions: u64,
    /// Encoded on first use, shared by all sessions.
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

    /// Called after the change, so that the reader that clears the mark sees the change.
    fn mark_changed(&self, topic: &Topic, changed_topics: &ChangedTopics) {
        if !self.is_marked.swap(true, Ordering::SeqCst) {
            lock(&changed_topics.0).insert(topic.clone());
        }
    }

    /// Takes the count for upstream. The mark is cleared before the counts are read, so that a later change
    /// sets it again.
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
    /// Takes at most `topics_max` topics, in no particular order.
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

    /// The frame with the number, encoded at the first call for each wire format.
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

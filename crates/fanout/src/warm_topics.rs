//! Topics that are read often but have no subscriber on this node.
//!
//! A single read asks the topic's owner. From the second read within a second on, the node watches the topic as
//! for a subscriber and answers from its own buffer, so that a page that everyone reloads costs the owner the
//! delivery of each message and nothing else. The topic is watched until nobody has read it for some seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_core::{StartFrom, Topic};
use tokio::time::Instant;

use crate::registry::TopicRegistry;
use crate::start_position::prepare;
use crate::topic_buffer::lock;

/// Two misses within this time begin the watch of a topic. A topic that is read less often costs less as one
/// request for each read than with all its messages.
const MISS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a topic stays watched after its last read: longer than the pauses between the reloads of one page.
const KEPT_AFTER_READ: Duration = Duration::from_secs(10);

/// Maximum number of topics that are tracked or watched: with a ring of 1 MiB each at most 1 GiB, and with one
/// message each about 1 MiB. Reads of further topics ask their owners.
const TOPICS_MAX: usize = 1_024;

/// The topics that were read lately and were not in a buffer then.
#[derive(Default)]
pub(crate) struct WarmTopics(Mutex<HashMap<Topic, TopicReads>>);

struct TopicReads {
    last_read: Instant,
    /// Whether a task keeps the topic watched.
    is_watched: bool,
}

impl WarmTopics {
    /// Records a read that was answered from the buffer.
    pub(crate) fn on_hit(&self, topic: &Topic, now: Instant) {
        if let Some(reads) = lock(&self.0).get_mut(topic) {
            reads.last_read = now;
        }
    }

    /// Records a read that was not in the buffer. Returns whether the caller must start to watch the topic.
    fn on_miss(&self, topic: &Topic, now: Instant) -> bool {
        let mut topics = lock(&self.0);
        if let Some(reads) = topics.get_mut(topic) {
            let starts = !reads.is_watched && now - reads.last_read <= MISS_INTERVAL;
            reads.is_watched |= starts;
            reads.last_read = now;
            return starts;
        }
        if topics.len() >= TOPICS_MAX {
            topics.retain(|_, reads| reads.is_watched || now - reads.last_read <= MISS_INTERVAL);
        }
        if topics.len() < TOPICS_MAX {
            topics.insert(topic.clone(), TopicReads { last_read: now, is_watched: false });
        }
        false
    }

    /// How long nobody has read the topic.
    fn idle_time(&self, topic: &Topic, now: Instant) -> Duration {
        lock(&self.0).get(topic).map_or(Duration::MAX, |reads| now - reads.last_read)
    }

    fn remove(&self, topic: &Topic) {
        lock(&self.0).remove(topic);
    }
}

/// Records a read of a topic that was not in a buffer, and starts to watch the topic if it is read often.
pub(crate) fn on_miss(registry: &Arc<TopicRegistry>, topic: &Topic, timeout: Duration) {
    if registry.warm_topics.on_miss(topic, Instant::now()) {
        let watch = WatchedTopic { registry: Arc::clone(registry), topic: topic.clone() };
        tokio::spawn(watch.run(timeout));
    }
}

/// A topic that a task keeps watched.
struct WatchedTopic {
    registry: Arc<TopicRegistry>,
    topic: Topic,
}

impl WatchedTopic {
    /// Keeps the topic watched until nobody reads it any more.
    async fn run(self, timeout: Duration) {
        let prepared = prepare(&self.registry, &self.topic, StartFrom::Last(1));
        let Ok(Ok(prepared)) = tokio::time::timeout(timeout, prepared).await else { return };
        // The interest alone is kept: the ring has its usual bounds.
        let _interest = prepared.interest;
        drop(prepared.retention_guard);
        loop {
            let idle = self.registry.warm_topics.idle_time(&self.topic, Instant::now());
            let Some(remaining) = KEPT_AFTER_READ.checked_sub(idle).filter(|time| !time.is_zero())
            else {
                return;
            };
            tokio::time::sleep(remaining).await;
        }
    }
}

/// Also when the runtime drops the task.
impl Drop for WatchedTopic {
    fn drop(&mut self) {
        self.registry.warm_topics.remove(&self.topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).expect("valid")
    }

    #[test]
    fn topic_is_watched_from_the_second_miss_within_a_second() {
        let (topics, start) = (WarmTopics::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert!(!topics.on_miss(&topic("a"), after(0)));
        assert!(!topics.on_miss(&topic("a"), after(2_000)), "two seconds later");
        assert!(!topics.on_miss(&topic("b"), after(2_001)), "another topic");
        assert!(topics.on_miss(&topic("a"), after(2_500)));
        assert!(!topics.on_miss(&topic("a"), after(2_501)), "the topic is watched already");
        topics.on_hit(&topic("a"), after(3_000));
        assert_eq!(topics.idle_time(&topic("a"), after(3_500)), Duration::from_millis(500));
    }

    #[test]
    fn number_of_tracked_topics_is_bounded_and_old_ones_make_room() {
        let (topics, start) = (WarmTopics::default(), Instant::now());
        for n in 0..2 * TOPICS_MAX {
            topics.on_miss(&topic(&n.to_string()), start);
        }
        assert_eq!(lock(&topics.0).len(), TOPICS_MAX);
        topics.on_miss(&topic("new"), start + Duration::from_secs(2));
        assert_eq!(lock(&topics.0).len(), 1);
    }
}

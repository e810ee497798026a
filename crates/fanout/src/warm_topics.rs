//! Topics that are read often but have no subscriber on this node.
//!
//! A single read asks the topic's owner. From the second read within a second on, the node watches the topic as
//! for a subscriber and answers from its own buffer, so that a page that everyone reloads costs the owner the
//! delivery of each message and nothing else. The topic is watched until nobody has read it for some seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pushonce_core::{Position, Topic};
use tokio::time::Instant;

use crate::registry::TopicRegistry;
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
    /// The newest position that a read has returned. The owner may have answered with a message that is still on its
    /// way to the buffer: no later read may return an older one.
    head: Position,
    /// Whether a task keeps the topic watched.
    is_watched: bool,
}

impl WarmTopics {
    /// Records a read that the buffer can answer, with the newest position of the buffer. Returns false if an earlier
    /// read has returned a newer one.
    pub(crate) fn on_hit(&self, topic: &Topic, head: Position, now: Instant) -> bool {
        let mut topics = lock(&self.0);
        let Some(reads) = topics.get_mut(topic) else { return true };
        reads.last_read = now;
        let is_newest = head >= reads.head;
        reads.head = reads.head.max(head);
        is_newest
    }

    /// Records the newest position that the owner has returned.
    pub(crate) fn on_fetched(&self, topic: &Topic, head: Position) {
        if let Some(reads) = lock(&self.0).get_mut(topic) {
            reads.head = reads.head.max(head);
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
            let reads = TopicReads { last_read: now, head: Position::ZERO, is_watched: false };
            topics.insert(topic.clone(), reads);
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
pub(crate) fn on_miss(registry: &Arc<TopicRegistry>, topic: &Topic) {
    if registry.warm_topics.on_miss(topic, Instant::now()) {
        let watch = WatchedTopic { registry: Arc::clone(registry), topic: topic.clone() };
        tokio::spawn(watch.run());
    }
}

/// A topic that a task keeps watched.
struct WatchedTopic {
    registry: Arc<TopicRegistry>,
    topic: Topic,
}

impl WatchedTopic {
    /// Keeps the topic watched until nobody reads it any more. The reads themselves fill the buffer.
    async fn run(self) {
        let _interest = self.registry.acquire_interest(&self.topic);
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
        assert!(topics.on_hit(&topic("a"), Position::new(7, 1), after(3_000)));
        assert_eq!(topics.idle_time(&topic("a"), after(3_500)), Duration::from_millis(500));
    }

    #[test]
    fn buffer_that_is_behind_an_earlier_read_does_not_answer() {
        let (topics, now) = (WarmTopics::default(), Instant::now());
        let hit = |offset| topics.on_hit(&topic("a"), Position::new(7, offset), now);
        assert!(hit(1), "a topic that is not tracked");
        topics.on_miss(&topic("a"), now);
        topics.on_fetched(&topic("a"), Position::new(7, 3));
        assert!(!hit(2));
        assert!(hit(3) && hit(4));
        assert!(!hit(3));
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

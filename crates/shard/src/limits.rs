//! Limits on the number of topics, of a namespace in a shard and on a node, and on the memory of a node.
//!
//! A namespace may have as many topics on a node as are free after them: one namespace fills half of a node, and
//! a new one always finds room.
//!
//! Near the memory limit of its node an owner first refuses new topics and then publishes: the one who sends pays,
//! before any subscriber loses its session.
//!
//! The owner checks a publish before it queues it, and rejects it if its topic would exceed a limit. Queued
//! publishes are not counted, so a limit can be exceeded by as many topics as wait in the queue of a shard
//! at one moment. Replicas apply every entry regardless of their limits: a limit checked by replicas would
//! make their states differ.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use pushonce_core::{FailPoint, Namespace, OverloadReason, ShardCount, Topic, TopicLimit};
use pushonce_telemetry::Counter;

use crate::metrics;

/// The topics that the replicas of one node hold, and the node's limit.
#[derive(Debug)]
pub struct NodeTopics {
    topic_count: AtomicU64,
    history_bytes: AtomicU64,
    /// Zero for no limit.
    max: u64,
    /// The used share of the process's memory limit, in thousandths.
    memory_permille: AtomicU32,
    /// The number of replicas, over which the topics of a namespace on this node are spread evenly.
    replicas: AtomicU64,
    /// The number of shards over which a namespace is spread.
    shard_count: AtomicU16,
}

/// Memory of a topic beside the payloads of its history, in bytes.
const TOPIC_BYTES: u64 = 512;

/// The used share of the memory limit, in thousandths, from which an owner accepts no new topics. Each takes memory
/// until it expires.
const NEW_TOPICS_MEMORY_PERMILLE: u32 = 900;

/// The same from which an owner accepts no publishes. A publish to a full history replaces an older message and takes
/// no memory, so this is later; it is below the limit at which sessions are closed.
const PUBLISHES_MEMORY_PERMILLE: u32 = 975;

/// The part of one replica in the sums of the node; returned when it is dropped.
#[derive(Debug)]
pub(crate) struct TopicQuota {
    node: Arc<NodeTopics>,
    topic_count: AtomicU64,
    history_bytes: AtomicU64,
    refused_topics: Counter,
    refused_publishes: Counter,
}

/// The number of topics by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicCounts(BTreeMap<String, usize>);

impl NodeTopics {
    /// A node whose owners accept no further topics while its replicas hold `max`; zero for no limit.
    pub fn new(max: u64) -> NodeTopics {
        let shards = AtomicU16::new(ShardCount::DEFAULT.get());
        NodeTopics {
            topic_count: AtomicU64::new(0),
            history_bytes: AtomicU64::new(0),
            max,
            memory_permille: AtomicU32::new(0),
            replicas: AtomicU64::new(0),
            shard_count: shards,
        }
    }

    /// Sets the used share of the process's memory limit, in thousandths.
    pub fn set_memory_use(&self, permille: u32) {
        self.memory_permille.store(permille, Ordering::Relaxed);
    }

    /// Estimated memory of the topics and histories of the node's replicas, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.history_bytes().saturating_add(self.topic_count().saturating_mul(TOPIC_BYTES))
    }

    /// Sets the number of shards over which the topics of a namespace are spread.
    pub fn set_shard_count(&self, shards: ShardCount) {
        self.shard_count.store(shards.get(), Ordering::Relaxed);
    }

    /// The number of topics that the node's replicas hold.
    pub fn topic_count(&self) -> u64 {
        self.topic_count.load(Ordering::Relaxed)
    }

    /// The payload bytes of the histories of these topics.
    pub fn history_bytes(&self) -> u64 {
        self.history_bytes.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.max > 0 && self.topic_count() >= self.max
    }

    /// Whether every namespace may have more topics, whatever it has.
    fn is_below_half(&self) -> bool {
        self.max == 0 || self.topic_count() < self.max / 2
    }

    /// Whether a namespace with `count` topics in one shard may have no more on this node.
    fn has_share(&self, count: usize) -> bool {
        let free = self.max.saturating_sub(self.topic_count());
        let held = (count as u64).saturating_mul(self.replicas.load(Ordering::Relaxed));
        self.max > 0 && held > free
    }

    fn shard_count(&self) -> ShardCount {
        ShardCount::new(self.shard_count.load(Ordering::Relaxed)).unwrap_or(ShardCount::DEFAULT)
    }
}

impl TopicQuota {
    pub(crate) fn new(node: Arc<NodeTopics>) -> TopicQuota {
        node.replicas.fetch_add(1, Ordering::Relaxed);
        TopicQuota {
            node,
            topic_count: AtomicU64::new(0),
            history_bytes: AtomicU64::new(0),
            refused_topics: metrics::MEMORY_REJECTIONS.register_counter(&["new_topic"]),
            refused_publishes: metrics::MEMORY_REJECTIONS.register_counter(&["publish"]),
        }
    }

    /// Sets the number of topics that this replica holds.
    pub(crate) fn set_count(&self, count: usize) {
        replace_part(&self.node.topic_count, &self.topic_count, count as u64);
    }

    /// Sets the payload bytes of the histories on this replica.
    pub(crate) fn set_history_bytes(&self, bytes: u64) {
        replace_part(&self.node.history_bytes, &self.history_bytes, bytes);
    }

    /// Whether one more topic is within every limit, whatever its name. Costs two loads, so that a publish
    /// pays for the exact check only near a limit.
    pub(crate) fn has_room(&self, settings: &Namespace) -> bool {
        if FailPoint::TopicsUnbounded.is_active() {
            return true;
        }
        if self.node.memory_permille.load(Ordering::Relaxed) >= NEW_TOPICS_MEMORY_PERMILLE {
            return false;
        }
        let count = self.topic_count.load(Ordering::Relaxed);
        let per_shard_max = settings.topics_per_shard(self.node.shard_count());
        self.node.is_below_half() && per_shard_max.is_none_or(|part| count < part as u64)
    }

    /// Checks that the node has memory for a publish, to a topic that exists or to a new one.
    ///
    /// # Errors
    /// [`OverloadReason::Memory`].
    pub(crate) fn check_memory(&self, is_new_topic: bool) -> Result<(), OverloadReason> {
        let permille = self.node.memory_permille.load(Ordering::Relaxed);
        let max = match is_new_topic {
            true => NEW_TOPICS_MEMORY_PERMILLE,
            false => PUBLISHES_MEMORY_PERMILLE,
        };
        if permille < max {
            return Ok(());
        }
        let refuses_all = permille >= PUBLISHES_MEMORY_PERMILLE;
        (if refuses_all { &self.refused_publishes } else { &self.refused_topics }).increment(1);
        Err(OverloadReason::Memory { permille, refuses_all })
    }

    /// Checks that one more topic is within the limits when the shard holds `count` of its namespace.
    ///
    /// # Errors
    /// [`TopicLimit`], which names the limit to raise.
    pub(crate) fn check_room(
        &self,
        topic: &Topic,
        settings: &Namespace,
        count: usize,
    ) -> Result<(), TopicLimit> {
        if settings
            .topics_per_shard(self.node.shard_count())
            .is_some_and(|per_shard_max| count >= per_shard_max)
        {
            return Err(TopicLimit::Namespace { topic: topic.clone(), max: settings.topics_max });
        }
        if self.node.is_full() {
            let count = self.node.topic_count();
            return Err(TopicLimit::Node { topic: topic.clone(), count });
        }
        if self.node.has_share(count) {
            return Err(TopicLimit::NodeShare { topic: topic.clone() });
        }
        Ok(())
    }
}

impl Drop for TopicQuota {
    fn drop(&mut self) {
        self.set_count(0);
        self.set_history_bytes(0);
        self.node.replicas.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TopicCounts {
    pub(crate) fn from_topics<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> TopicCounts {
        let mut counts = TopicCounts::default();
        topics.into_iter().for_each(|topic| counts.add(topic));
        counts
    }

    pub(crate) fn add(&mut self, topic: &Topic) {
        match self.0.get_mut(topic.namespace()) {
            Some(count) => *count += 1,
            None => _ = self.0.insert(topic.namespace().to_owned(), 1),
        }
    }

    pub(crate) fn remove(&mut self, topic: &Topic) {
        if let Some(count) = self.0.get_mut(topic.namespace()) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(topic.namespace());
            }
        }
    }

    pub(crate) fn get(&self, namespace: &str) -> usize {
        self.0.get(namespace).copied().unwrap_or(0)
    }
}

/// Replaces the part of one replica in a sum over replicas.
fn replace_part(sum: &AtomicU64, part: &AtomicU64, value: u64) {
    let before = part.swap(value, Ordering::Relaxed);
    sum.fetch_add(value, Ordering::Relaxed);
    sum.fetch_sub(before, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::topic;

    use super::*;

    #[test]
    fn full_node_rejects_new_topics_until_a_replica_is_dropped() {
        let node = Arc::new(NodeTopics::new(10));
        let (one, other) = (TopicQuota::new(node.clone()), TopicQuota::new(node.clone()));
        let settings = Namespace::default();
        one.set_count(6);
        other.set_count(3);
        assert!(!one.has_room(&settings), "the exact check decides in the second half");
        assert_eq!(one.check_room(&topic("chat/7"), &settings, 0), Ok(()));
        other.set_count(4);
        let rejection =
            one.check_room(&topic("chat/7"), &settings, 0).expect_err("full").to_string();
        assert!(
            rejection.contains("holds 10") && rejection.contains("--topics-max"),
            "{rejection}"
        );
        one.set_history_bytes(70);
        other.set_history_bytes(5);
        other.set_history_bytes(8);
        assert_eq!(node.history_bytes(), 78);
        drop(other);
        assert_eq!((node.topic_count(), node.history_bytes()), (6, 70));
        assert_eq!(one.check_room(&topic("chat/7"), &settings, 0), Ok(()));
    }

    #[test]
    fn namespace_fills_half_of_a_node_and_another_finds_room() {
        let node = Arc::new(NodeTopics::new(1_000));
        let replicas = [(); 4].map(|()| TopicQuota::new(node.clone()));
        let settings = Namespace { topics_max: 0, ..Namespace::default() };
        let mut count = 0;
        while replicas[0].has_room(&settings)
            || replicas[0].check_room(&topic("flood/1"), &settings, count).is_ok()
        {
            count += 1;
            replicas.iter().for_each(|replica| replica.set_count(count));
        }
        // 500, and what the four shards place before they see the sum.
        assert!((500..=508).contains(&node.topic_count()), "{}", node.topic_count());
        let refusal =
            replicas[0].check_room(&topic("flood/1"), &settings, count).expect_err("full");
        assert_eq!(refusal, TopicLimit::NodeShare { topic: topic("flood/1") });
        assert_eq!(replicas[0].check_room(&topic("score/1"), &settings, 0), Ok(()));
        assert_eq!(replicas[0].check_room(&topic("score/1"), &settings, 100), Ok(()));
        drop(replicas);
        assert_eq!(node.replicas.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn node_short_of_memory_refuses_new_topics_and_then_publishes() {
        let node = Arc::new(NodeTopics::new(0));
        let quota = TopicQuota::new(node.clone());
        let mut refused = |permille| {
            node.set_memory_use(permille);
            let has_room = quota.has_room(&Namespace::default());
            let is_refused = |is_new| quota.check_memory(is_new).is_err();
            assert!(!has_room || !is_refused(true), "the quick check allows a refused topic");
            (is_refused(true), is_refused(false))
        };
        let levels = [0, 899, 900, 974, 975, u32::MAX].map(&mut refused);
        let (none, topics, all) = ((false, false), (true, false), (true, true));
        assert_eq!(levels, [none, none, topics, topics, all, all]);
        let text = quota.check_memory(false).expect_err("full").to_string();
        assert!(text.contains("--memory-max"), "{text}");
    }

    #[test]
    fn namespace_topic_limit_is_split_over_the_shards() {
        let node = Arc::new(NodeTopics::new(0));
        node.set_shard_count(ShardCount::new(1).expect("valid"));
        let (quota, settings) =
            (TopicQuota::new(node), Namespace { topics_max: 3, ..Namespace::default() });
        quota.set_count(2);
        assert!(quota.has_room(&settings));
        // The quick check counts the topics of all namespaces.
        quota.set_count(5);
        assert!(!quota.has_room(&settings));
        assert_eq!(quota.check_room(&topic("chat/7"), &settings, 2), Ok(()));
        let rejection =
            quota.check_room(&topic("chat/7"), &settings, 3).expect_err("full").to_string();
        assert!(rejection.contains("namespace set chat --topics-max"), "{rejection}");
        assert_eq!(
            quota.check_room(&topic("a"), &Namespace { topics_max: 0, ..settings }, 99),
            Ok(())
        );
    }

    #[test]
    fn counts_follow_added_and_removed_topics() {
        let topics = ["a", "a/1", "a/2", "b/1"].map(topic);
        let mut counts = TopicCounts::from_topics(&topics);
        assert_eq!((counts.get("a"), counts.get("b"), counts.get("c")), (3, 1, 0));
        counts.remove(&topics[3]);
        counts.remove(&topics[0]);
        assert_eq!(counts, TopicCounts::from_topics(&topics[1..3]));
    }
}

//! How many topics there may be: of a namespace in a shard, and on a node.
//!
//! The owner looks when a publish comes in, before the publish waits for its entry, and refuses what
//! would make one topic too many. What waits already is not counted: so a bound may be passed by as many
//! topics as wait in the queue of a shard at one moment. Replicas apply every entry, whatever they hold:
//! a bound that replicas judged would make them differ.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use pushonce_core::{Namespace, Refusal, ShardCount, Topic};

/// How many topics the replicas of one node hold, and how many they may.
#[derive(Debug)]
pub struct NodeTopics {
    held: AtomicU64,
    /// Zero for no bound.
    max: u64,
    /// Over how many shards a namespace is spread.
    shards: AtomicU16,
}

/// What one replica holds of that; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    node: Arc<NodeTopics>,
    here: AtomicU64,
}

/// Topics by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<String, usize>);

impl NodeTopics {
    /// A node whose owners take no further topics while its replicas hold `max`; zero for no bound.
    pub fn new(max: u64) -> NodeTopics {
        let shards = AtomicU16::new(ShardCount::DEFAULT.get());
        NodeTopics { held: AtomicU64::new(0), max, shards }
    }

    /// Says over how many shards the topics of a namespace are spread.
    pub fn set_shards(&self, shards: ShardCount) {
        self.shards.store(shards.get(), Ordering::Relaxed);
    }

    /// How many topics the node's replicas hold.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.max > 0 && self.held() >= self.max
    }

    fn shards(&self) -> ShardCount {
        ShardCount::new(self.shards.load(Ordering::Relaxed)).unwrap_or(ShardCount::DEFAULT)
    }
}

impl Held {
    pub(crate) fn new(node: Arc<NodeTopics>) -> Held {
        Held { node, here: AtomicU64::new(0) }
    }

    /// So many are held here now.
    pub(crate) fn set(&self, count: usize) {
        let count = count as u64;
        let before = self.here.swap(count, Ordering::Relaxed);
        self.node.held.fetch_add(count, Ordering::Relaxed);
        self.node.held.fetch_sub(before, Ordering::Relaxed);
    }

    /// Whether one more topic is within every bound, whatever its name. Costs two loads, so that a
    /// publish pays for the rest only near a bound.
    pub(crate) fn has_room(&self, settings: &Namespace) -> bool {
        #[cfg(feature = "planted-bugs")]
        if crate::state::planted::holds_everything() {
            return true;
        }
        let here = self.here.load(Ordering::Relaxed);
        let part = settings.topics_per_shard(self.node.shards());
        !self.node.is_full() && part.is_none_or(|part| here < part as u64)
    }

    /// Whether one more topic is within the bounds when the shard holds `count` of its namespace.
    ///
    /// # Errors
    /// [`Refusal::TooManyTopics`] with what to change.
    pub(crate) fn check(
        &self,
        topic: &Topic,
        settings: &Namespace,
        count: usize,
    ) -> Result<(), Refusal> {
        if settings.topics_per_shard(self.node.shards()).is_some_and(|part| count >= part) {
            let (name, max) = (topic.namespace(), settings.topics_max);
            return Err(Refusal::TooManyTopics(format!(
                "the namespace {name:?} may have {max}, and {topic} would be one more; raise the bound \
                 (`pushonce namespace set {name} --topics-max N`) or publish to fewer topics"
            )));
        }
        if self.node.is_full() {
            return Err(Refusal::TooManyTopics(format!(
                "the owner of {topic} holds {}, as many as it may; let more nodes join, or raise its \
                 --topics-max",
                self.node.held()
            )));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Counts {
    pub(crate) fn of<'a>(topics: impl IntoIterator<Item = &'a Topic>) -> Counts {
        let mut counts = Counts::default();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).expect("valid")
    }

    #[test]
    fn full_node_takes_no_further_topics_until_a_replica_goes() {
        let node = Arc::new(NodeTopics::new(10));
        let (one, other) = (Held::new(node.clone()), Held::new(node.clone()));
        let settings = Namespace::default();
        one.set(6);
        other.set(3);
        assert!(one.has_room(&settings));
        other.set(4);
        assert!(!one.has_room(&settings));
        let refused = one.check(&topic("chat/7"), &settings, 0).expect_err("full").to_string();
        assert!(refused.contains("holds 10") && refused.contains("--topics-max"), "{refused}");
        drop(other);
        assert_eq!(node.held(), 6);
        assert_eq!(one.check(&topic("chat/7"), &settings, 0), Ok(()));
    }

    #[test]
    fn namespace_has_its_part_in_each_shard() {
        let node = Arc::new(NodeTopics::new(0));
        node.set_shards(ShardCount::new(1).expect("valid"));
        let (held, settings) =
            (Held::new(node), Namespace { topics_max: 3, ..Namespace::default() });
        held.set(2);
        assert!(held.has_room(&settings));
        // Of other namespaces too: the count decides.
        held.set(5);
        assert!(!held.has_room(&settings));
        assert_eq!(held.check(&topic("chat/7"), &settings, 2), Ok(()));
        let refused = held.check(&topic("chat/7"), &settings, 3).expect_err("full").to_string();
        assert!(refused.contains("namespace set chat --topics-max"), "{refused}");
        assert_eq!(held.check(&topic("a"), &Namespace { topics_max: 0, ..settings }, 99), Ok(()));
    }

    #[test]
    fn counts_follow_what_comes_and_goes() {
        let topics = ["a", "a/1", "a/2", "b/1"].map(topic);
        let mut counts = Counts::of(&topics);
        assert_eq!((counts.get("a"), counts.get("b"), counts.get("c")), (3, 1, 0));
        counts.remove(&topics[3]);
        counts.remove(&topics[0]);
        assert_eq!(counts, Counts::of(&topics[1..3]));
    }
}

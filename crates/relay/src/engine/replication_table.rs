//! The topics that this node replicates, indexed so that a tick visits few of them.
//!
//! Most topics of a busy node are settled: they are live and all their downstreams are in sync. Time does not
//! affect them, so ticks visit the unsettled topics only. Every access that may unsettle a topic goes through
//! [`ReplicationTable::get_mut`], which marks it for the next tick.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use pushonce_core::{ShardId, Topic};

use super::topic_replication::TopicReplication;

/// The replications by topic, with an index by shard.
#[derive(Debug, Default)]
pub(crate) struct ReplicationTable {
    by_topic: HashMap<Topic, TopicReplication>,
    by_shard: BTreeMap<ShardId, BTreeSet<Topic>>,
    /// Ordered, so that ticks are deterministic.
    needs_tick: BTreeSet<Topic>,
}

impl ReplicationTable {
    pub(crate) fn get(&self, topic: &Topic) -> Option<&TopicReplication> {
        self.by_topic.get(topic)
    }

    /// Returns a topic for any change and marks it for the next tick.
    pub(crate) fn get_mut(&mut self, topic: &Topic) -> Option<&mut TopicReplication> {
        let replication = self.by_topic.get_mut(topic)?;
        if !self.needs_tick.contains(topic) {
            self.needs_tick.insert(topic.clone());
        }
        Some(replication)
    }

    /// Returns a topic for changes that no tick depends on: messages for downstreams in sync, and counts.
    pub(crate) fn get_mut_no_tick(&mut self, topic: &Topic) -> Option<&mut TopicReplication> {
        self.by_topic.get_mut(topic)
    }

    /// Returns the replication of a topic, created by `new` if there is none, and marks it for the next tick.
    pub(crate) fn get_or_insert(
        &mut self,
        topic: &Topic,
        new: impl FnOnce() -> TopicReplication,
    ) -> &mut TopicReplication {
        self.needs_tick.insert(topic.clone());
        let by_shard = &mut self.by_shard;
        self.by_topic.entry(topic.clone()).or_insert_with(|| {
            let replication = new();
            by_shard.entry(replication.shard).or_default().insert(topic.clone());
            replication
        })
    }

    pub(crate) fn remove(&mut self, topic: &Topic) {
        let Some(replication) = self.by_topic.remove(topic) else { return };
        self.needs_tick.remove(topic);
        if let Some(topics) = self.by_shard.get_mut(&replication.shard) {
            topics.remove(topic);
            if topics.is_empty() {
                self.by_shard.remove(&replication.shard);
            }
        }
    }

    /// Iterates over all topics in no particular order. Linear in the number of topics: for events, not for
    /// ticks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Topic, &TopicReplication)> {
        self.by_topic.iter()
    }

    /// The topics of a shard after `after`, in order.
    pub(crate) fn topics_in_shard(
        &self,
        shard: ShardId,
        after: Option<&Topic>,
    ) -> impl Iterator<Item = &Topic> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let topics = self.by_shard.get(&shard).into_iter();
        topics.flat_map(move |topics| topics.range::<Topic, _>((begin, Bound::Unbounded)))
    }

    /// The topics that the next tick visits, in order.
    pub(crate) fn topics_needing_tick(&self) -> Vec<Topic> {
        self.needs_tick.iter().cloned().collect()
    }

    /// Removes the settled topics of a finished tick from later ticks.
    pub(crate) fn clear_settled(&mut self, ticked: &[Topic]) {
        for topic in ticked {
            if self.by_topic.get(topic).is_none_or(TopicReplication::is_settled) {
                self.needs_tick.remove(topic);
            }
        }
    }
}

#[cfg(test)]
impl ReplicationTable {
    /// Whether every topic that is not settled is marked for the next tick.
    pub(crate) fn is_consistent(&self) -> bool {
        let is_indexed = |(topic, replication): (&Topic, &TopicReplication)| {
            let of_shard = self.by_shard.get(&replication.shard);
            let indexed = of_shard.is_some_and(|topics| topics.contains(topic));
            indexed && (replication.is_settled() || self.needs_tick.contains(topic))
        };
        let count: usize = self.by_shard.values().map(BTreeSet::len).sum();
        self.by_topic.iter().all(is_indexed) && count == self.by_topic.len()
    }
}

//! Every topic that somebody follows, with what a tick needs to know to look at few of them.
//!
//! Most topics of a busy node are at rest: they are live, and every way out has what came in. Time
//! changes nothing about such a topic, so ticks look at the restless ones alone. Whatever may disturb a
//! topic takes it by [`ReplicationTable::get_mut`], which makes it restless until the next tick has looked at it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use pushonce_core::{ShardId, Topic};

use super::topic_replication::TopicReplication;

/// By topic.
#[derive(Debug, Default)]
pub(crate) struct ReplicationTable {
    by_topic: HashMap<Topic, TopicReplication>,
    by_shard: BTreeMap<ShardId, BTreeSet<Topic>>,
    /// In order, so that what a tick does does not change from run to run.
    needs_tick: BTreeSet<Topic>,
}

impl ReplicationTable {
    pub(crate) fn get(&self, topic: &Topic) -> Option<&TopicReplication> {
        self.by_topic.get(topic)
    }

    /// To change anything: the next tick looks at the topic.
    pub(crate) fn get_mut(&mut self, topic: &Topic) -> Option<&mut TopicReplication> {
        let replication = self.by_topic.get_mut(topic)?;
        if !self.needs_tick.contains(topic) {
            self.needs_tick.insert(topic.clone());
        }
        Some(replication)
    }

    /// To change what no tick looks at: messages passed on to those that are level, and counts.
    pub(crate) fn get_mut_no_tick(&mut self, topic: &Topic) -> Option<&mut TopicReplication> {
        self.by_topic.get_mut(topic)
    }

    /// The flow of a topic, made by `new` if there is none; restless.
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

    /// All of them, in no order. Costs what there are: for events, not for ticks.
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

    /// The topics that a tick looks at, in order.
    pub(crate) fn topics_needing_tick(&self) -> Vec<Topic> {
        self.needs_tick.iter().cloned().collect()
    }

    /// A tick has looked at these topics: those that are at rest are left alone from now on.
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
    /// Whether no topic that is not at rest is left out of the ticks.
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

//! Every topic that somebody follows, with what a tick needs to know to look at few of them.
//!
//! Most topics of a busy node are at rest: they are live, and every way out has what came in. Time
//! changes nothing about such a topic, so ticks look at the restless ones alone. Whatever may disturb a
//! topic takes it by [`Flows::get_mut`], which makes it restless until the next tick has looked at it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use pushonce_core::{ShardId, Topic};

use super::flow::Flow;

/// By topic.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    by_topic: HashMap<Topic, Flow>,
    by_shard: BTreeMap<ShardId, BTreeSet<Topic>>,
    /// In order, so that what a tick does does not change from run to run.
    restless: BTreeSet<Topic>,
}

impl Flows {
    pub(crate) fn get(&self, topic: &Topic) -> Option<&Flow> {
        self.by_topic.get(topic)
    }

    /// To change anything: the next tick looks at the topic.
    pub(crate) fn get_mut(&mut self, topic: &Topic) -> Option<&mut Flow> {
        let flow = self.by_topic.get_mut(topic)?;
        if !self.restless.contains(topic) {
            self.restless.insert(topic.clone());
        }
        Some(flow)
    }

    /// To change what no tick looks at: messages passed on to those that are level, and counts.
    pub(crate) fn get_at_rest(&mut self, topic: &Topic) -> Option<&mut Flow> {
        self.by_topic.get_mut(topic)
    }

    /// The flow of a topic, made by `new` if there is none; restless.
    pub(crate) fn get_or_insert(&mut self, topic: &Topic, new: impl FnOnce() -> Flow) -> &mut Flow {
        self.restless.insert(topic.clone());
        let by_shard = &mut self.by_shard;
        self.by_topic.entry(topic.clone()).or_insert_with(|| {
            let flow = new();
            by_shard.entry(flow.shard).or_default().insert(topic.clone());
            flow
        })
    }

    pub(crate) fn remove(&mut self, topic: &Topic) {
        let Some(flow) = self.by_topic.remove(topic) else { return };
        self.restless.remove(topic);
        if let Some(topics) = self.by_shard.get_mut(&flow.shard) {
            topics.remove(topic);
            if topics.is_empty() {
                self.by_shard.remove(&flow.shard);
            }
        }
    }

    /// All of them, in no order. Costs what there are: for events, not for ticks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Topic, &Flow)> {
        self.by_topic.iter()
    }

    /// The topics of a shard after `after`, in order.
    pub(crate) fn of_shard(
        &self,
        shard: ShardId,
        after: Option<&Topic>,
    ) -> impl Iterator<Item = &Topic> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let topics = self.by_shard.get(&shard).into_iter();
        topics.flat_map(move |topics| topics.range::<Topic, _>((begin, Bound::Unbounded)))
    }

    /// The topics that a tick looks at, in order.
    pub(crate) fn restless(&self) -> Vec<Topic> {
        self.restless.iter().cloned().collect()
    }

    /// A tick has looked at these topics: those that are at rest are left alone from now on.
    pub(crate) fn settle(&mut self, looked: &[Topic]) {
        for topic in looked {
            if self.by_topic.get(topic).is_none_or(Flow::is_at_rest) {
                self.restless.remove(topic);
            }
        }
    }
}

#[cfg(test)]
impl Flows {
    /// Whether no topic that is not at rest is left out of the ticks.
    pub(crate) fn is_complete(&self) -> bool {
        let known = |(topic, flow): (&Topic, &Flow)| {
            let of_shard = self.by_shard.get(&flow.shard);
            let indexed = of_shard.is_some_and(|topics| topics.contains(topic));
            indexed && (flow.is_at_rest() || self.restless.contains(topic))
        };
        let count: usize = self.by_shard.values().map(BTreeSet::len).sum();
        self.by_topic.iter().all(known) && count == self.by_topic.len()
    }
}

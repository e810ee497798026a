//! Which topics had an earlier life: those that were dropped as unused.
//!
//! A reader that comes back with a position of a topic that is not here, or with `0:0`, may have missed a
//! whole life of it. The shard says so only for topics that it has dropped, as long as it remembers their
//! names, so that readers of new topics are not told of gaps that there are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_core::Topic;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::rules::Rules;

/// How many names are remembered: 512 KiB in memory, 200 KiB in a snapshot. Past it the older half is
/// forgotten, and every topic may have had an earlier life.
pub(crate) const KNOWN_MAX: usize = 16_384;

/// The topics that were dropped. A clone shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// By the hash of a name: the index of the entry that dropped the topic last. Two names that share a
    /// hash are told of each other's gaps, and of none too few.
    known: Arc<BTreeMap<u64, u64>>,
    /// The newest index that is forgotten.
    forgotten: Option<u64>,
    #[serde(skip)]
    rules: &'static Rules,
}

impl Ended {
    /// These are the bounds from now on.
    pub(crate) fn keep_to(&mut self, rules: &'static Rules) {
        self.rules = rules;
    }

    /// The entry at `index` drops a topic.
    pub(crate) fn insert(&mut self, topic: &Topic, index: u64) {
        let known = Arc::make_mut(&mut self.known);
        known.insert(xxh3_64(topic.as_str().as_bytes()), index);
        if known.len() > self.rules.ended_topics_max {
            let mut indexes: Vec<_> = known.values().copied().collect();
            let (_, &mut middle, _) = indexes.select_nth_unstable(self.rules.ended_topics_max / 2);
            known.retain(|_, index| *index > middle);
            self.forgotten = Some(middle);
        }
    }

    /// Every topic may have had an earlier life that ended at `index`, above all indexes so far.
    pub(crate) fn assume_all(&mut self, index: u64) {
        *self = Ended { forgotten: Some(index), rules: self.rules, ..Ended::default() };
    }

    /// The index of the entry that may have dropped `topic` last; `None` when none has.
    pub(crate) fn last(&self, topic: &Topic) -> Option<u64> {
        let known = self.known.get(&xxh3_64(topic.as_str().as_bytes())).copied();
        known.or(self.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(nth: usize) -> Topic {
        Topic::new(&format!("t/{nth}")).unwrap()
    }

    #[test]
    fn only_topics_that_were_dropped_have_an_earlier_life() {
        let mut ended = Ended::default();
        ended.insert(&topic(1), 7);
        ended.insert(&topic(2), 8);
        ended.insert(&topic(1), 9);
        assert_eq!([1, 2, 3].map(|nth| ended.last(&topic(nth))), [Some(9), Some(8), None]);
    }

    #[test]
    fn every_topic_may_have_had_one_when_names_were_forgotten() {
        let mut ended = Ended::default();
        for nth in 0..=KNOWN_MAX {
            ended.insert(&topic(nth), 10 + nth as u64);
        }
        assert!(ended.known.len() <= KNOWN_MAX);
        assert_eq!(ended.last(&topic(KNOWN_MAX)), Some(10 + KNOWN_MAX as u64));
        let forgotten = Some(10 + KNOWN_MAX as u64 / 2);
        assert_eq!([0, KNOWN_MAX + 1].map(|nth| ended.last(&topic(nth))), [forgotten; 2]);
    }

    #[test]
    fn an_entry_that_drops_many_leaves_room() {
        let mut ended = Ended::default();
        (0..3 * KNOWN_MAX).for_each(|nth| ended.insert(&topic(nth), 5));
        assert!(ended.known.len() <= KNOWN_MAX);
        assert_eq!(ended.last(&topic(0)), Some(5));
    }
}

//! Remembers which topics existed before and were dropped as unused.
//!
//! A reader that resumes with a position of a topic that does not exist, or with `0:0`, may have missed all
//! messages of an earlier instance of that topic. The shard reports a gap only for topics that it has
//! dropped, as long as it remembers their names, so that readers of new topics do not get false gaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_core::Topic;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::rules::ShardRules;

/// Maximum number of names remembered: 512 KiB in memory, 200 KiB in a snapshot. Above it the older half is
/// forgotten, and from then on every topic counts as dropped before.
pub(crate) const DROPPED_TOPICS_MAX: usize = 16_384;

/// The topics that were dropped. Clones share the map until one changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DroppedTopics {
    /// The index of the entry that last dropped a topic, by the hash of its name. Two names with the same
    /// hash get each other's gaps, which may report a false gap but never hides one.
    dropped_at: Arc<BTreeMap<u64, u64>>,
    /// The newest index that was forgotten.
    forgotten_up_to: Option<u64>,
    #[serde(skip)]
    rules: &'static ShardRules,
}

impl DroppedTopics {
    /// Applies `rules` from now on.
    pub(crate) fn set_rules(&mut self, rules: &'static ShardRules) {
        self.rules = rules;
    }

    /// Records that the entry at `index` drops a topic.
    pub(crate) fn insert(&mut self, topic: &Topic, index: u64) {
        let dropped_at = Arc::make_mut(&mut self.dropped_at);
        dropped_at.insert(xxh3_64(topic.as_str().as_bytes()), index);
        if dropped_at.len() > self.rules.dropped_topics_max {
            let mut indexes: Vec<_> = dropped_at.values().copied().collect();
            let (_, &mut median, _) =
                indexes.select_nth_unstable(self.rules.dropped_topics_max / 2);
            dropped_at.retain(|_, index| *index > median);
            self.forgotten_up_to = Some(median);
        }
    }

    /// Treats every topic as dropped at `index`, which must be above all indexes so far.
    pub(crate) fn assume_all_dropped(&mut self, index: u64) {
        *self = DroppedTopics {
            forgotten_up_to: Some(index),
            rules: self.rules,
            ..DroppedTopics::default()
        };
    }

    /// The index of the entry that may have dropped `topic` last; `None` when no entry has.
    pub(crate) fn last_dropped_at(&self, topic: &Topic) -> Option<u64> {
        let dropped_at = self.dropped_at.get(&xxh3_64(topic.as_str().as_bytes())).copied();
        dropped_at.or(self.forgotten_up_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(nth: usize) -> Topic {
        Topic::new(&format!("t/{nth}")).unwrap()
    }

    #[test]
    fn only_dropped_topics_have_a_drop_index() {
        let mut dropped = DroppedTopics::default();
        dropped.insert(&topic(1), 7);
        dropped.insert(&topic(2), 8);
        dropped.insert(&topic(1), 9);
        assert_eq!(
            [1, 2, 3].map(|nth| dropped.last_dropped_at(&topic(nth))),
            [Some(9), Some(8), None]
        );
    }

    #[test]
    fn every_topic_counts_as_dropped_after_names_are_evicted() {
        let mut dropped = DroppedTopics::default();
        for nth in 0..=DROPPED_TOPICS_MAX {
            dropped.insert(&topic(nth), 10 + nth as u64);
        }
        assert!(dropped.dropped_at.len() <= DROPPED_TOPICS_MAX);
        assert_eq!(
            dropped.last_dropped_at(&topic(DROPPED_TOPICS_MAX)),
            Some(10 + DROPPED_TOPICS_MAX as u64)
        );
        let evicted = Some(10 + DROPPED_TOPICS_MAX as u64 / 2);
        assert_eq!(
            [0, DROPPED_TOPICS_MAX + 1].map(|nth| dropped.last_dropped_at(&topic(nth))),
            [evicted; 2]
        );
    }

    #[test]
    fn dropping_many_topics_in_one_entry_stays_within_the_limit() {
        let mut dropped = DroppedTopics::default();
        (0..3 * DROPPED_TOPICS_MAX).for_each(|nth| dropped.insert(&topic(nth), 5));
        assert!(dropped.dropped_at.len() <= DROPPED_TOPICS_MAX);
        assert_eq!(dropped.last_dropped_at(&topic(0)), Some(5));
    }
}

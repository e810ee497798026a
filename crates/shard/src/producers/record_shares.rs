//! How the producers of a shard share the records of its table.

use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::{ProducerId, Topic};

use crate::shares::TableShares;

/// The number of records of each producer in each topic. A full table evicts from the topic with the most records of
/// the namespace with the most ([`TableShares`]), and there from the producer with the most: a stranger with many
/// producers of a few messages each evicts its own records, and not those of one busy producer of another topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordShares {
    /// Each record counts as one byte.
    shares: TableShares,
    counts: BTreeMap<ProducerId, BTreeMap<Topic, usize>>,
    /// The producers with records of each topic, ordered by their number.
    producers_by_count: BTreeMap<Topic, BTreeSet<(usize, ProducerId)>>,
}

impl RecordShares {
    /// The number of all records.
    pub(super) fn len(&self) -> usize {
        self.shares.bytes()
    }

    /// Adds a record.
    pub(super) fn add(&mut self, producer: ProducerId, topic: &Topic) {
        let count = self.counts.entry(producer).or_default().entry(topic.clone()).or_default();
        *count += 1;
        let after = *count;
        self.update_rank(producer, topic, after - 1, after);
        self.shares.add(topic, 1);
    }

    /// Removes a record that was added.
    pub(super) fn remove(&mut self, producer: ProducerId, topic: &Topic) {
        let Some(topics) = self.counts.get_mut(&producer) else { return };
        let Some(count) = topics.get_mut(topic) else { return };
        *count -= 1;
        let after = *count;
        if after == 0 {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.counts.remove(&producer);
        }
        self.update_rank(producer, topic, after + 1, after);
        self.shares.remove(topic, 1);
    }

    /// Removes all records of a producer.
    pub(super) fn remove_producer(&mut self, producer: ProducerId) {
        for (topic, count) in self.counts.remove(&producer).unwrap_or_default() {
            self.update_rank(producer, &topic, count, 0);
            self.shares.remove(&topic, count);
        }
    }

    /// The producer whose oldest record is evicted next.
    pub(super) fn largest(&self) -> Option<ProducerId> {
        let producers = self.producers_by_count.get(self.shares.largest_topic()?)?;
        producers.last().map(|&(_, producer)| producer)
    }

    fn update_rank(&mut self, producer: ProducerId, topic: &Topic, before: usize, after: usize) {
        let producers = self.producers_by_count.entry(topic.clone()).or_default();
        producers.remove(&(before, producer));
        if after > 0 {
            producers.insert((after, producer));
        }
        if producers.is_empty() {
            self.producers_by_count.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::topic;

    use super::*;

    #[test]
    fn busiest_producer_of_the_largest_topic_of_the_largest_namespace_pays() {
        let mut shares = RecordShares::default();
        let [busy, many, most] = [1, 2, 3].map(ProducerId);
        (0..50).for_each(|_| shares.add(busy, &topic("home/score")));
        for (producer, count) in [(many, 20), (most, 25)] {
            (0..count).for_each(|_| shares.add(producer, &topic("away/a")));
        }
        (0..10).for_each(|_| shares.add(many, &topic("away/b")));
        assert_eq!((shares.len(), shares.largest()), (105, Some(most)));
        shares.remove_producer(most);
        assert_eq!(shares.largest(), Some(busy));
    }

    #[test]
    fn removed_records_leave_nothing_behind() {
        let mut shares = RecordShares::default();
        for name in ["a", "a/1", "a"] {
            shares.add(ProducerId(1), &topic(name));
            shares.add(ProducerId(2), &topic(name));
        }
        for name in ["a", "a", "a/1"] {
            shares.remove(ProducerId(1), &topic(name));
        }
        shares.remove_producer(ProducerId(2));
        assert_eq!(shares, RecordShares::default());
    }
}

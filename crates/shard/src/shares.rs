//! How the topics and namespaces of a shard share one bounded table.
//!
//! A table that evicts its oldest record lets one busy sender push out the records of everybody else. Here the
//! largest namespace pays, and in it the largest topic: a publisher that fills the table evicts its own records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_core::Topic;

/// The bytes that each topic and each namespace has in a table. Pure, and equal on every replica: ties are
/// decided by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableShares {
    namespaces: BTreeMap<Arc<str>, NamespaceShare>,
    by_bytes: BTreeSet<(usize, Arc<str>)>,
    bytes: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NamespaceShare {
    bytes: usize,
    topics: BTreeMap<Topic, usize>,
    by_bytes: BTreeSet<(usize, Topic)>,
}

impl TableShares {
    /// The bytes of all topics.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a record of `bytes` to the share of `topic`.
    pub(crate) fn add(&mut self, topic: &Topic, bytes: usize) {
        let name = topic.namespace();
        let name = match self.namespaces.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None => Arc::from(name),
        };
        let share = self.namespaces.entry(name.clone()).or_default();
        self.by_bytes.remove(&(share.bytes, name.clone()));
        share.add(topic, bytes);
        self.by_bytes.insert((share.bytes, name));
        self.bytes += bytes;
    }

    /// Removes a record that was added.
    pub(crate) fn remove(&mut self, topic: &Topic, bytes: usize) {
        let Some((name, _)) = self.namespaces.get_key_value(topic.namespace()) else { return };
        let name = name.clone();
        let Some(share) = self.namespaces.get_mut(&name) else { return };
        self.by_bytes.remove(&(share.bytes, name.clone()));
        share.remove(topic, bytes);
        match share.topics.is_empty() {
            true => _ = self.namespaces.remove(&name),
            false => _ = self.by_bytes.insert((share.bytes, name)),
        }
        self.bytes -= bytes;
    }

    /// The largest topic of the largest namespace.
    pub(crate) fn largest_topic(&self) -> Option<&Topic> {
        let (_, name) = self.by_bytes.last()?;
        let (_, topic) = self.namespaces.get(name)?.by_bytes.last()?;
        Some(topic)
    }

    /// Whether the share of `topic` may grow by `bytes` in a table of `bytes_max` that evicts nothing. A
    /// namespace may have as much as is free after it, and a topic as much as its namespace still may have:
    /// one namespace fills half of the table, two fill two thirds, and a new one always finds room.
    pub(crate) fn has_room(&self, topic: &Topic, bytes: usize, bytes_max: usize) -> bool {
        let free = bytes_max.saturating_sub(self.bytes + bytes);
        let share = self.namespaces.get(topic.namespace());
        let namespace_bytes = share.map_or(0, |share| share.bytes) + bytes;
        let topic_bytes = share.and_then(|share| share.topics.get(topic)).unwrap_or(&0) + bytes;
        free.checked_sub(namespace_bytes)
            .is_some_and(|namespace_free| topic_bytes <= namespace_free)
    }
}

impl NamespaceShare {
    fn add(&mut self, topic: &Topic, bytes: usize) {
        self.bytes += bytes;
        let topic_bytes = self.topics.entry(topic.clone()).or_default();
        self.by_bytes.remove(&(*topic_bytes, topic.clone()));
        *topic_bytes += bytes;
        self.by_bytes.insert((*topic_bytes, topic.clone()));
    }

    fn remove(&mut self, topic: &Topic, bytes: usize) {
        let Some(topic_bytes) = self.topics.get_mut(topic) else { return };
        self.bytes -= bytes;
        self.by_bytes.remove(&(*topic_bytes, topic.clone()));
        *topic_bytes -= bytes;
        match *topic_bytes {
            0 => _ = self.topics.remove(topic),
            left => _ = self.by_bytes.insert((left, topic.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::topic;

    use super::*;

    #[test]
    fn largest_topic_of_the_largest_namespace_pays() {
        let mut shares = TableShares::default();
        // Namespace `many` has more in all, although no topic of it has as much as `one/a`.
        shares.add(&topic("one/a"), 50);
        for (name, bytes) in [("many/a", 20), ("many/b", 30), ("many/c", 10)] {
            shares.add(&topic(name), bytes);
        }
        assert_eq!((shares.largest_topic(), shares.bytes()), (Some(&topic("many/b")), 110));
        shares.remove(&topic("many/b"), 30);
        assert_eq!(shares.largest_topic(), Some(&topic("one/a")));
    }

    #[test]
    fn removed_records_leave_nothing_behind() {
        let mut shares = TableShares::default();
        for name in ["a", "a/1", "b/1"] {
            shares.add(&topic(name), 7);
            shares.add(&topic(name), 2);
        }
        for name in ["a", "a/1", "b/1"] {
            shares.remove(&topic(name), 2);
            shares.remove(&topic(name), 7);
        }
        assert_eq!(shares, TableShares::default());
    }

    #[test]
    fn table_without_eviction_keeps_room_for_a_new_namespace_and_a_new_topic() {
        let mut shares = TableShares::default();
        let (max, greedy, sibling, other) = (9_000, topic("a/1"), topic("a/2"), topic("b/1"));
        let fill = |shares: &mut TableShares, topic: &Topic| {
            while shares.has_room(topic, 10, max) {
                shares.add(topic, 10);
            }
        };
        fill(&mut shares, &greedy);
        assert_eq!(shares.bytes(), max / 3, "one topic fills a third of the table");
        assert!(shares.has_room(&sibling, 10, max) && shares.has_room(&other, 10, max));
        (2..1_000).for_each(|nth| fill(&mut shares, &topic(&format!("a/{nth}"))));
        assert!(shares.bytes() <= max / 2, "one namespace fills half of the table");
        assert!(shares.has_room(&other, 10, max));
    }
}

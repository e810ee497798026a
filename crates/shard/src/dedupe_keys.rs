//! The keys and nonces of recent messages, kept for the deduplication window.
//!
//! A full table evicts from the topic that has the most keys, in the namespace that has the most
//! ([`TableShares`]): a publisher that fills the table forgets its own keys, never those of another topic
//! with fewer.

use std::collections::{BTreeMap, HashMap, VecDeque};

use pushonce_core::{Acknowledgement, MessageKey, PublishId, Topic};
use serde::{Deserialize, Serialize};

use crate::EntryItem;
use crate::dedupe::{ItemRejection, MessageFingerprint};
use crate::log_clock::LogTime;
use crate::rules::ShardRules;
use crate::shares::TableShares;

/// Maximum number of keys a shard remembers. For a cluster of 16 shards that is 3,500 keyed publishes a
/// second over the whole window; at 50,000 a second it still covers the last 20 seconds, longer than any
/// client retries by itself. Twice as many would take 32 MiB a shard.
pub(crate) const KEYS_MAX: usize = 65_536;

/// Maximum memory of the keys of a shard, so that keys of maximum length do not take three times as much.
/// With 96 bytes for key and topic together both limits are reached at once.
pub(crate) const KEY_BYTES_MAX: usize = 16 << 20;

/// Bytes a key takes beside its text: its second copy in the index, the acknowledgement, the fingerprint,
/// the time.
pub(crate) const KEY_OVERHEAD_BYTES: usize = 160;

/// Bytes that the first key of a topic needs besides: the topic's queue and its share.
pub(crate) const KEYED_TOPIC_OVERHEAD_BYTES: usize = 256;

/// The name by which a message is recognised in its topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum DedupeKey {
    /// Chosen by the publisher.
    Key(MessageKey),
    /// Drawn at random.
    Nonce(u128),
}

/// The keys of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DedupeKeyTable {
    /// The records by number, oldest first.
    records: BTreeMap<u64, KeyRecord>,
    /// The number of the next record.
    next_number: u64,
    /// The numbers of all records.
    #[serde(skip)]
    number_by_key: HashMap<TopicKey, u64>,
    /// The numbers of the records of each topic, oldest first.
    #[serde(skip)]
    numbers_by_topic: HashMap<Topic, VecDeque<u64>>,
    #[serde(skip)]
    shares: TableShares,
    #[serde(skip)]
    rules: &'static ShardRules,
}

/// A key and its topic. Within one topic a key identifies one message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct TopicKey {
    topic: Topic,
    key: DedupeKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeyRecord {
    topic_key: TopicKey,
    fingerprint: MessageFingerprint,
    ack: Acknowledgement,
    recorded_at: LogTime,
}

impl DedupeKey {
    /// The key of an item, or its nonce if it has no key. The key is preferred because its publisher may
    /// still know it after the nonce is lost.
    pub(crate) fn for_item(item: &EntryItem) -> Option<DedupeKey> {
        match (&item.key, item.publish_id) {
            (Some(key), _) => Some(DedupeKey::Key(key.clone())),
            (None, Some(PublishId::Nonce(nonce))) => Some(DedupeKey::Nonce(nonce)),
            (None, _) => None,
        }
    }
}

impl DedupeKeyTable {
    /// Applies `rules` from now on. Records above the new limits are evicted by the next insertion.
    pub(crate) fn set_rules(&mut self, rules: &'static ShardRules) {
        self.rules = rules;
        self.index_shares();
    }

    /// The outcome of a message with this key, or `None` if the key is new.
    pub(crate) fn lookup(
        &self,
        topic: &Topic,
        key: &DedupeKey,
        fingerprint: MessageFingerprint,
    ) -> Option<Result<Acknowledgement, ItemRejection>> {
        let topic_key = TopicKey { topic: topic.clone(), key: key.clone() };
        let number = self.number_by_key.get(&topic_key)?;
        let record = self.records.get(number)?;
        let is_same = record.fingerprint == fingerprint;
        Some(if is_same { Ok(record.ack) } else { Err(ItemRejection::KeyReused) })
    }

    /// Records the key of a message that was placed.
    pub(crate) fn insert(
        &mut self,
        topic: Topic,
        key: DedupeKey,
        fingerprint: MessageFingerprint,
        ack: Acknowledgement,
        now: LogTime,
    ) {
        let topic_key = TopicKey { topic, key };
        let number = self.next_number;
        self.next_number += 1;
        self.number_by_key.insert(topic_key.clone(), number);
        self.add_to_topic(number, &topic_key);
        self.records.insert(number, KeyRecord { topic_key, fingerprint, ack, recorded_at: now });
        while self.records.len() > self.rules.keys_max
            || self.shares.bytes() > self.rules.key_bytes_max
        {
            let largest = self.shares.largest_topic().and_then(|t| self.numbers_by_topic.get(t));
            let Some(&oldest) = largest.and_then(VecDeque::front) else { break };
            self.remove(oldest);
        }
    }

    /// Forgets records older than the window.
    pub(crate) fn expire(&mut self, now: LogTime) {
        while let Some((&number, oldest)) = self.records.first_key_value()
            && oldest.recorded_at.is_outside_window(now, self.rules.dedupe_window_ms)
        {
            self.remove(number);
        }
    }

    /// Removes a record, which is the oldest of its topic.
    fn remove(&mut self, number: u64) {
        let Some(KeyRecord { topic_key, .. }) = self.records.remove(&number) else { return };
        self.number_by_key.remove(&topic_key);
        let mut bytes = topic_key.bytes(self.rules);
        if let Some(numbers) = self.numbers_by_topic.get_mut(&topic_key.topic) {
            numbers.pop_front();
            if numbers.is_empty() {
                self.numbers_by_topic.remove(&topic_key.topic);
                bytes += self.rules.keyed_topic_overhead_bytes;
            }
        }
        self.shares.remove(&topic_key.topic, bytes);
    }

    fn add_to_topic(&mut self, number: u64, topic_key: &TopicKey) {
        let numbers = self.numbers_by_topic.entry(topic_key.topic.clone()).or_default();
        let is_first = numbers.is_empty();
        numbers.push_back(number);
        let overhead = if is_first { self.rules.keyed_topic_overhead_bytes } else { 0 };
        self.shares.add(&topic_key.topic, topic_key.bytes(self.rules) + overhead);
    }

    /// Rebuilds the shares from the records.
    fn index_shares(&mut self) {
        (self.numbers_by_topic, self.shares) = Default::default();
        let records = std::mem::take(&mut self.records);
        for (&number, record) in &records {
            self.add_to_topic(number, &record.topic_key);
        }
        self.records = records;
    }

    /// Rebuilds the fields that are not serialized. Returns `None` if a key occurs twice, or if a record
    /// has a number that is still to be assigned.
    pub(crate) fn rebuild_indexes(mut self) -> Option<DedupeKeyTable> {
        self.next_number.checked_add(u64::MAX / 2)?;
        if self.records.last_key_value().is_some_and(|(&number, _)| number >= self.next_number) {
            return None;
        }
        let keys = self.records.iter().map(|(&number, record)| (record.topic_key.clone(), number));
        self.number_by_key = keys.collect();
        self.index_shares();
        (self.number_by_key.len() == self.records.len()).then_some(self)
    }
}

impl TopicKey {
    fn bytes(&self, rules: &ShardRules) -> usize {
        let key_bytes = match &self.key {
            DedupeKey::Key(key) => key.as_str().len(),
            DedupeKey::Nonce(_) => 0,
        };
        self.topic.as_str().len() + key_bytes + rules.key_overhead_bytes
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::{acknowledgement, publish, topic};
    use pushonce_core::{ContentType, Timestamp};

    use super::*;
    use crate::log_clock::{DEDUPE_WINDOW_MS, LogClock};

    fn key(text: &str) -> DedupeKey {
        DedupeKey::Key(MessageKey::new(text).unwrap())
    }

    fn fingerprint(payload: &'static [u8]) -> MessageFingerprint {
        fingerprint_with_type(ContentType::Text, payload)
    }

    fn fingerprint_with_type(
        content_type: ContentType,
        payload: &'static [u8],
    ) -> MessageFingerprint {
        MessageFingerprint::for_item(&EntryItem {
            content_type,
            ..EntryItem::new(publish("a", payload))
        })
    }

    fn ack(offset: u64) -> Acknowledgement {
        Acknowledgement { time: Timestamp(5), ..acknowledgement(1, offset) }
    }

    fn log_time(time: u64) -> LogTime {
        let mut clock = LogClock::default();
        (0..=time).step_by(1_000).map(|time| clock.advance_to(Timestamp(time))).last().unwrap()
    }

    #[test]
    fn repeated_key_returns_the_first_position_and_another_payload_is_rejected() {
        let mut keys = DedupeKeyTable::default();
        let (a, k, goal) = (topic("a"), key("k"), fingerprint(b"goal"));
        assert_eq!(keys.lookup(&a, &k, goal), None);
        keys.insert(a.clone(), k.clone(), goal, ack(1), log_time(0));
        assert_eq!(keys.lookup(&a, &k, goal), Some(Ok(ack(1))));
        assert_eq!(keys.lookup(&a, &k, fingerprint(b"foul")), Some(Err(ItemRejection::KeyReused)));
        let other_type = fingerprint_with_type(ContentType::Binary, b"goal");
        assert_eq!(keys.lookup(&a, &k, other_type), Some(Err(ItemRejection::KeyReused)));
    }

    #[test]
    fn key_is_scoped_to_its_topic_and_distinct_from_a_nonce() {
        let mut keys = DedupeKeyTable::default();
        let goal = fingerprint(b"goal");
        keys.insert(topic("a"), key("b/k"), goal, ack(1), log_time(0));
        assert_eq!(keys.lookup(&topic("a/b"), &key("k"), goal), None);
        assert_eq!(keys.lookup(&topic("b"), &key("b/k"), goal), None);
        assert_eq!(keys.lookup(&topic("a"), &DedupeKey::Nonce(7), goal), None);
    }

    #[test]
    fn key_is_deduplicated_within_the_window_and_new_after_it() {
        let mut keys = DedupeKeyTable::default();
        let goal = fingerprint(b"goal");
        keys.insert(topic("a"), key("k"), goal, ack(1), log_time(0));
        keys.expire(log_time(DEDUPE_WINDOW_MS));
        assert_eq!(keys.lookup(&topic("a"), &key("k"), goal), Some(Ok(ack(1))));
        keys.expire(log_time(DEDUPE_WINDOW_MS + 1_000));
        assert_eq!(keys.lookup(&topic("a"), &key("k"), goal), None);
        assert_eq!(keys, DedupeKeyTable { next_number: 1, ..DedupeKeyTable::default() });
    }

    #[test]
    fn oldest_keys_are_evicted_above_the_count_limit() {
        let mut keys = DedupeKeyTable::default();
        let (a, goal) = (topic("a"), fingerprint(b"goal"));
        for nth in 0..KEYS_MAX as u128 + 2 {
            keys.insert(a.clone(), DedupeKey::Nonce(nth), goal, ack(1), log_time(0));
        }
        let is_known = |nth| keys.lookup(&a, &DedupeKey::Nonce(nth), goal).is_some();
        assert_eq!([0, 1, 2, KEYS_MAX as u128 + 1].map(is_known), [false, false, true, true]);
    }

    #[test]
    fn oldest_keys_are_evicted_above_the_byte_limit() {
        let mut keys = DedupeKeyTable::default();
        let (long, goal) = (topic(&"t".repeat(255)), fingerprint(b"goal"));
        let count = KEY_BYTES_MAX / (255 + KEY_OVERHEAD_BYTES) + 10;
        for nth in 0..count as u128 {
            keys.insert(long.clone(), DedupeKey::Nonce(nth), goal, ack(1), log_time(0));
        }
        assert!(keys.shares.bytes() <= KEY_BYTES_MAX && keys.records.len() > count - 20);
        assert_eq!(keys.records.len(), keys.number_by_key.len());
    }

    #[test]
    fn flood_of_keys_evicts_only_its_own() {
        for strangers in [1, 50] {
            for (honest_name, stranger) in [("score/7", "chat"), ("chat/honest", "chat")] {
                let mut keys = DedupeKeyTable::default();
                let (honest, goal) = (topic(honest_name), fingerprint(b"goal"));
                keys.insert(honest.clone(), key("first"), goal, ack(1), log_time(0));
                for nth in 0..2 * KEYS_MAX as u128 {
                    let flooded = topic(&format!("{stranger}/{}", nth % strangers));
                    keys.insert(flooded, DedupeKey::Nonce(nth), goal, ack(2), log_time(0));
                }
                let known = keys.lookup(&honest, &key("first"), goal);
                assert_eq!(known, Some(Ok(ack(1))), "{honest_name}, {strangers} topics");
                assert_eq!(keys.clone().rebuild_indexes(), Some(keys));
            }
        }
    }

    #[test]
    fn inconsistent_keys_are_not_restored() {
        let mut keys = DedupeKeyTable::default();
        let goal = fingerprint(b"goal");
        keys.insert(topic("a"), key("k"), goal, ack(1), log_time(0));
        assert_eq!(keys.clone().rebuild_indexes(), Some(keys.clone()));
        let twice = keys.records[&0].clone();
        let mut broken = DedupeKeyTable { next_number: 2, ..keys.clone() };
        broken.records.insert(1, twice);
        assert_eq!(broken.rebuild_indexes(), None);
        assert_eq!(DedupeKeyTable { next_number: 0, ..keys }.rebuild_indexes(), None);
    }
}

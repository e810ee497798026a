//! The sequence of each producer in each topic, and the positions of its last messages.

mod record_shares;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet, VecDeque};

use pushonce_core::{Acknowledgement, FailPoint, ProducerId, ProducerSequence, Topic};
use serde::{Deserialize, Serialize};

use crate::dedupe::{ItemRejection, MessageFingerprint};
use crate::log_clock::LogTime;
use crate::rules::ShardRules;
use crate::shares::TableShares;
use record_shares::RecordShares;

/// Maximum number of records of one producer: twice [`ProducerSequence::IN_FLIGHT_MAX`].
pub(crate) const RECORDS_PER_PRODUCER_MAX: usize = 16_384;

/// Maximum number of records of all producers of a shard: eight producers with the maximum, 12 MiB. With
/// more, the producers with the most records of the topic with the most, in the namespace with the most, lose
/// their oldest, so that some of their repeats have an unknown outcome; nothing is placed twice.
pub(crate) const RECORDS_MAX: usize = 8 * RECORDS_PER_PRODUCER_MAX;

/// Maximum memory of the topics of tracked producers: some 100,000 producers of one topic each. A new
/// producer, or a new topic of a producer, is rejected while its topic or its namespace has its share
/// ([`TableShares::has_room`]) until others have been idle for the window: one topic can have some 40,000
/// producers. Evicting a known one would place its repeats twice, or break its sequence.
pub(crate) const TRACKED_BYTES_MAX: usize = 64 << 20;

/// Bytes a topic of a producer takes beside its name: its progress, its first records, its entry in the
/// idle queue.
pub(crate) const TRACKED_TOPIC_OVERHEAD_BYTES: usize = 512;

/// Maximum number of idle candidates that one entry checks, so that no entry takes long.
pub(crate) const IDLE_CHECKS_PER_ENTRY: usize = 64;

const _: () = assert!(RECORDS_PER_PRODUCER_MAX >= 2 * ProducerSequence::IN_FLIGHT_MAX);

/// The producers of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProducerTable {
    producers: BTreeMap<ProducerId, ProducerState>,
    /// Every topic of every producer, once. The front holds those with the oldest known use.
    idle_queue: VecDeque<IdleCandidate>,
    /// The records of all producers. There may be 100,000 producers, and each recorded message may need the one
    /// that pays for it.
    #[serde(skip)]
    records: RecordShares,
    /// The memory that the topics of all producers take.
    #[serde(skip)]
    shares: TableShares,
    #[serde(skip)]
    rules: &'static ShardRules,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProducerState {
    topics: BTreeMap<Topic, SequenceProgress>,
    /// The order of the records, oldest first. A record that expired with its topic still has an element
    /// here.
    record_order: VecDeque<SequenceRef>,
}

/// The progress of a producer in one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SequenceProgress {
    epoch: u32,
    last_number: u64,
    last_used: LogTime,
    /// The last records. Their numbers are contiguous, except where an epoch began, or where another table
    /// recorded some.
    records: VecDeque<SequenceRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SequenceRecord {
    epoch: u32,
    number: u64,
    fingerprint: MessageFingerprint,
    ack: Acknowledgement,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SequenceRef {
    topic: Topic,
    epoch: u32,
    number: u64,
}

/// A topic of a producer, and the time of its last use when it was queued here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IdleCandidate {
    producer: ProducerId,
    topic: Topic,
    last_used: LogTime,
}

impl ProducerTable {
    /// Applies `rules` from now on. Records above the new limits are evicted by the next message.
    pub(crate) fn set_rules(&mut self, rules: &'static ShardRules) {
        self.rules = rules;
        self.shares = shares_of(&self.idle_queue, rules);
    }

    /// The outcome of a message with this sequence, or `None` if it is the next.
    pub(crate) fn lookup(
        &self,
        topic: &Topic,
        received: ProducerSequence,
        fingerprint: MessageFingerprint,
    ) -> Option<Result<Acknowledgement, ItemRejection>> {
        let progress =
            self.producers.get(&received.producer).and_then(|known| known.topics.get(topic));
        let next = progress.map(|progress| progress.next(received.producer));
        let out_of_sequence = Some(Err(ItemRejection::OutOfSequence { received, expected: next }));
        match progress {
            Some(known) if known.epoch > received.epoch => out_of_sequence,
            Some(known) if known.epoch == received.epoch => {
                match received.number.cmp(&known.last_number.saturating_add(1)) {
                    Ordering::Less => Some(known.find_repeat(received.number, fingerprint)),
                    Ordering::Equal => None,
                    Ordering::Greater => out_of_sequence,
                }
            }
            None if self.is_full_for(topic) => Some(Err(ItemRejection::TooManyProducers)),
            _ if received.number > 1 => out_of_sequence,
            _ => None,
        }
    }

    /// As [`ProducerTable::lookup`], with the records of another table: for the owner's memory, the table
    /// of the log. The table with the further progress of the producer decides.
    pub(crate) fn lookup_with(
        &self,
        other: &ProducerTable,
        topic: &Topic,
        received: ProducerSequence,
        fingerprint: MessageFingerprint,
    ) -> Option<Result<Acknowledgement, ItemRejection>> {
        let reached = self.last_sequence(topic, received.producer);
        let is_behind = other.last_sequence(topic, received.producer) > reached;
        let (ahead, behind) = if is_behind { (other, self) } else { (self, other) };
        match ahead.lookup(topic, received, fingerprint) {
            Some(Err(ItemRejection::PositionForgotten)) => behind
                .find_repeat(topic, received, fingerprint)
                .or(Some(Err(ItemRejection::PositionForgotten))),
            None if reached.is_none() && self.is_full_for(topic) => {
                Some(Err(ItemRejection::TooManyProducers))
            }
            settled => settled,
        }
    }

    /// The progress of a producer in a topic: its epoch and number.
    pub(crate) fn last_sequence(&self, topic: &Topic, producer: ProducerId) -> Option<(u32, u64)> {
        let progress = self.producers.get(&producer)?.topics.get(topic)?;
        Some((progress.epoch, progress.last_number))
    }

    /// The outcome of a message that this table has recorded; `None` when it has not.
    pub(crate) fn find_repeat(
        &self,
        topic: &Topic,
        received: ProducerSequence,
        fingerprint: MessageFingerprint,
    ) -> Option<Result<Acknowledgement, ItemRejection>> {
        let progress = self.producers.get(&received.producer)?.topics.get(topic)?;
        let is_placed = progress.epoch == received.epoch && received.number <= progress.last_number;
        is_placed.then(|| progress.find_repeat(received.number, fingerprint))
    }

    /// Continues after `last`, up to which another table recorded the producer's messages to a topic.
    pub(crate) fn advance_to(&mut self, topic: &Topic, last: ProducerSequence, now: LogTime) {
        let ProducerSequence { producer, epoch, number } = last;
        let reached = self.last_sequence(topic, producer);
        let is_full = reached.is_none() && self.is_full_for(topic);
        if is_full || reached >= Some((epoch, number)) {
            return;
        }
        let progress = self.track(topic, producer, now);
        (progress.epoch, progress.last_number, progress.last_used) = (epoch, number, now);
    }

    fn track(
        &mut self,
        topic: &Topic,
        producer: ProducerId,
        now: LogTime,
    ) -> &mut SequenceProgress {
        let state = self.producers.entry(producer).or_default();
        state.topics.entry(topic.clone()).or_insert_with(|| {
            self.idle_queue.push_back(IdleCandidate {
                producer,
                topic: topic.clone(),
                last_used: now,
            });
            self.shares.add(topic, tracked_bytes(topic, self.rules));
            SequenceProgress { epoch: 0, last_number: 0, last_used: now, records: VecDeque::new() }
        })
    }

    fn is_full_for(&self, topic: &Topic) -> bool {
        if FailPoint::ProducersUnbounded.is_active() {
            return false;
        }
        let bytes = tracked_bytes(topic, self.rules);
        !self.shares.has_room(topic, bytes, self.rules.tracked_bytes_max)
    }

    /// Records the next message of a producer after it was placed.
    pub(crate) fn record(
        &mut self,
        topic: &Topic,
        sequence: ProducerSequence,
        fingerprint: MessageFingerprint,
        ack: Acknowledgement,
        now: LogTime,
    ) {
        let ProducerSequence { producer, epoch, number } = sequence;
        let progress = self.track(topic, producer, now);
        (progress.epoch, progress.last_number, progress.last_used) = (epoch, number, now);
        progress.records.push_back(SequenceRecord { epoch, number, fingerprint, ack });
        let state = self.producers.entry(producer).or_default();
        state.record_order.push_back(SequenceRef { topic: topic.clone(), epoch, number });
        self.records.add(producer, topic);
        if state.record_order.len() > self.rules.records_per_producer_max {
            self.evict_oldest(producer);
        }
        while self.records.len() > self.rules.records_max
            && let Some(producer) = self.records.largest()
            && self.evict_oldest(producer)
        {}
    }

    /// Evicts the oldest record of a producer. Returns whether it had one.
    fn evict_oldest(&mut self, producer: ProducerId) -> bool {
        let evicted = self.producers.get_mut(&producer).and_then(ProducerState::evict_oldest);
        evicted.inspect(|topic| self.records.remove(producer, topic)).is_some()
    }

    /// Forgets some of the topics that have been idle for longer than the window.
    pub(crate) fn expire_idle(&mut self, now: LogTime) {
        for _ in 0..self.rules.idle_checks_per_entry {
            if self.idle_queue.front().is_none_or(|first| {
                !first.last_used.is_outside_window(now, self.rules.dedupe_window_ms)
            }) {
                break;
            }
            self.expire_first_if_idle(now);
        }
    }

    /// Forgets the first idle candidate if it has been idle for the window; otherwise moves it to the back.
    fn expire_first_if_idle(&mut self, now: LogTime) {
        let Some(IdleCandidate { producer, topic, last_used: before }) =
            self.idle_queue.pop_front()
        else {
            return;
        };
        let Some(state) = self.producers.get_mut(&producer) else { return };
        let Some(last_used) = state.topics.get(&topic).map(|progress| progress.last_used) else {
            return;
        };
        if last_used > before || !last_used.is_outside_window(now, self.rules.dedupe_window_ms) {
            self.idle_queue.push_back(IdleCandidate { producer, topic, last_used });
            return;
        }
        state.topics.remove(&topic);
        self.shares.remove(&topic, tracked_bytes(&topic, self.rules));
        if state.topics.is_empty() {
            self.producers.remove(&producer);
            self.records.remove_producer(producer);
        }
    }

    /// Rebuilds the fields that are not serialized. Returns `None` when a topic of a producer is missing in
    /// the idle queue, and would never expire, or the queue names a topic that does not exist.
    pub(crate) fn rebuild_indexes(self) -> Option<ProducerTable> {
        let ProducerTable { producers, idle_queue, rules, .. } = self;
        let pairs: HashSet<_> =
            idle_queue.iter().map(|candidate| (candidate.producer, &candidate.topic)).collect();
        let is_there = |candidate: &IdleCandidate| {
            producers
                .get(&candidate.producer)
                .is_some_and(|known| known.topics.contains_key(&candidate.topic))
        };
        let count = producers.values().map(|known| known.topics.len()).sum::<usize>();
        let is_consistent = pairs.len() == idle_queue.len()
            && count == idle_queue.len()
            && producers.values().all(|known| !known.topics.is_empty())
            && idle_queue.iter().all(is_there);
        let mut records = RecordShares::default();
        for (&producer, known) in &producers {
            known.record_order.iter().for_each(|record| records.add(producer, &record.topic));
        }
        let shares = shares_of(&idle_queue, rules);
        is_consistent.then_some(ProducerTable { producers, idle_queue, records, shares, rules })
    }
}

fn shares_of(queue: &VecDeque<IdleCandidate>, rules: &ShardRules) -> TableShares {
    let mut shares = TableShares::default();
    for IdleCandidate { topic, .. } in queue {
        shares.add(topic, tracked_bytes(topic, rules));
    }
    shares
}

fn tracked_bytes(topic: &Topic, rules: &ShardRules) -> usize {
    topic.as_str().len() + rules.tracked_topic_overhead_bytes
}

impl ProducerState {
    /// Evicts the oldest record. Returns its topic, or `None` when there is none.
    fn evict_oldest(&mut self) -> Option<Topic> {
        let SequenceRef { topic, epoch, number } = self.record_order.pop_front()?;
        if let Some(progress) = self.topics.get_mut(&topic) {
            let oldest = progress.records.front();
            if oldest.is_some_and(|place| (place.epoch, place.number) == (epoch, number)) {
                progress.records.pop_front();
            }
        }
        Some(topic)
    }
}

impl SequenceProgress {
    fn next(&self, producer: ProducerId) -> ProducerSequence {
        ProducerSequence { producer, epoch: self.epoch, number: self.last_number.saturating_add(1) }
    }

    /// The outcome of a number of this epoch that was placed.
    fn find_repeat(
        &self,
        number: u64,
        fingerprint: MessageFingerprint,
    ) -> Result<Acknowledgement, ItemRejection> {
        let distance = usize::try_from(self.last_number - number).ok();
        let index = distance.and_then(|back| self.records.len().checked_sub(back + 1));
        let record = index.and_then(|index| self.records.get(index));
        let is_same = |place: &&SequenceRecord| (place.epoch, place.number) == (self.epoch, number);
        match record.filter(is_same) {
            None => Err(ItemRejection::PositionForgotten),
            Some(place) if place.fingerprint != fingerprint => Err(ItemRejection::SequenceReused),
            Some(place) => Ok(place.ack),
        }
    }
}

#[cfg(test)]
mod producers_test;

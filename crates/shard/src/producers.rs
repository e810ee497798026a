//! The order of producers: what each has sent to each topic, and where the last of it stands.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use pushonce_core::{Acknowledgement, FailPoint, ProducerId, ProducerSequence, Topic};
use serde::{Deserialize, Serialize};

use crate::dedupe::{ItemRejection, MessageFingerprint};
use crate::log_clock::LogTime;
use crate::rules::ShardRules;

/// How many places are remembered of one producer: twice its window, as [`ProducerSequence::WINDOW`] says.
pub(crate) const RECORDS_PER_PRODUCER_MAX: usize = 16_384;

/// And of all producers of a shard: eight that fill theirs, 12 MiB. With more, those with the most
/// have less of the past, so that some of their repeats may end as unknown; nothing is placed twice.
pub(crate) const RECORDS_MAX: usize = 8 * RECORDS_PER_PRODUCER_MAX;

/// What the topics of producers that are followed may take together: some 100,000 producers of one topic
/// each. Past it a producer, or a topic of one, that is not known is refused until others have rested for
/// the window: to evict one that is known would let its repeats be placed twice, or renumber it.
pub(crate) const TRACKED_BYTES_MAX: usize = 64 << 20;

/// What a topic of a producer takes beside its name: its progress, its first places, its turn to rest.
pub(crate) const TRACKED_TOPIC_OVERHEAD_BYTES: usize = 512;

/// How many that may have rested long enough an entry looks at, so that none takes long.
pub(crate) const IDLE_CHECKS_PER_ENTRY: usize = 64;

const _: () = assert!(RECORDS_PER_PRODUCER_MAX >= 2 * ProducerSequence::IN_FLIGHT_MAX);

/// The producers of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProducerTable {
    producers: BTreeMap<ProducerId, ProducerState>,
    /// Every topic of every producer, once: those at the front rest, as far as is known.
    idle_queue: VecDeque<IdleCandidate>,
    /// How many turns all producers have.
    #[serde(skip)]
    record_count: usize,
    /// The producers by how many turns they have, those without any left out: there may be 100,000 producers,
    /// of which the one with the most is asked for with every message.
    #[serde(skip)]
    by_record_count: BTreeSet<(usize, ProducerId)>,
    /// What the topics of all producers take.
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    rules: &'static ShardRules,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ProducerState {
    topics: BTreeMap<Topic, SequenceProgress>,
    /// What was placed, oldest first. What was forgotten with its topic has its turn here still.
    record_order: VecDeque<SequenceRef>,
}

/// How far a producer has come in one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SequenceProgress {
    epoch: u32,
    last_number: u64,
    last_used: LogTime,
    /// The last of it: numbers that follow each other, save where an epoch began, or where some were placed
    /// by another table.
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

/// A topic of a producer, and when it was used last by the time it was put here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IdleCandidate {
    producer: ProducerId,
    topic: Topic,
    last_used: LogTime,
}

impl ProducerTable {
    /// These are the bounds from now on. What is over them goes with the next message.
    pub(crate) fn set_rules(&mut self, rules: &'static ShardRules) {
        self.rules = rules;
        self.bytes =
            self.idle_queue.iter().map(|candidate| tracked_bytes(&candidate.topic, rules)).sum();
    }

    /// What a message of this number is answered with; `NoFault` when it is the next.
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

    /// The same with what another table knows of the producers: that of the log beside this one of the
    /// owner's memory. The one in which the producer has come further decides.
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

    /// How far a producer has come in a topic: its epoch and number.
    pub(crate) fn last_sequence(&self, topic: &Topic, producer: ProducerId) -> Option<(u32, u64)> {
        let progress = self.producers.get(&producer)?.topics.get(topic)?;
        Some((progress.epoch, progress.last_number))
    }

    /// The first answer to a message that has its place by this table; `NoFault` when it has none.
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

    /// Another table has a producer's messages to a topic up to `last`: here the next one is taken.
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
            self.bytes += tracked_bytes(topic, self.rules);
            SequenceProgress { epoch: 0, last_number: 0, last_used: now, records: VecDeque::new() }
        })
    }

    fn is_full_for(&self, topic: &Topic) -> bool {
        if FailPoint::ProducersUnbounded.is_active() {
            return false;
        }
        self.bytes + tracked_bytes(topic, self.rules) > self.rules.tracked_bytes_max
    }

    /// The next message of a producer has its place.
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
        let before = state.record_order.len();
        state.record_order.push_back(SequenceRef { topic: topic.clone(), epoch, number });
        self.record_count += 1;
        if state.record_order.len() > self.rules.records_per_producer_max {
            self.record_count -= state.evict_oldest();
        }
        let after = state.record_order.len();
        self.update_rank(producer, before, after);
        while self.record_count > self.rules.records_max {
            let Some(&(most, producer)) = self.by_record_count.last() else { break };
            let state = self.producers.get_mut(&producer);
            self.record_count -= state.map_or(0, ProducerState::evict_oldest);
            self.update_rank(producer, most, most - 1);
        }
    }

    /// A producer had so many turns before, and has so many now.
    fn update_rank(&mut self, producer: ProducerId, before: usize, after: usize) {
        if before != after {
            self.by_record_count.remove(&(before, producer));
            if after > 0 {
                self.by_record_count.insert((after, producer));
            }
        }
    }

    /// Forgets some of what has rested for longer than the window.
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

    /// Forgets the first that rests if it has rested for the window; else it goes to the end.
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
        self.bytes -= tracked_bytes(&topic, self.rules);
        if state.topics.is_empty() {
            let count = state.record_order.len();
            self.record_count -= count;
            self.producers.remove(&producer);
            self.by_record_count.remove(&(count, producer));
        }
    }

    /// With what is not written; `NoFault` when a topic of a producer would be followed for ever, or
    /// is not there.
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
        let record_count = producers.values().map(|known| known.record_order.len()).sum();
        let by_record_count =
            producers.iter().map(|(&producer, known)| (known.record_order.len(), producer));
        let by_record_count = by_record_count.filter(|(turns, _)| *turns > 0).collect();
        let bytes = idle_queue.iter().map(|candidate| tracked_bytes(&candidate.topic, rules)).sum();
        is_consistent.then_some(ProducerTable {
            producers,
            idle_queue,
            record_count,
            by_record_count,
            bytes,
            rules,
        })
    }
}

fn tracked_bytes(topic: &Topic, rules: &ShardRules) -> usize {
    topic.as_str().len() + rules.tracked_topic_overhead_bytes
}

impl ProducerState {
    /// Forgets the oldest place. How many turns that took: one, or none when there is none.
    fn evict_oldest(&mut self) -> usize {
        let Some(SequenceRef { topic, epoch, number }) = self.record_order.pop_front() else {
            return 0;
        };
        if let Some(progress) = self.topics.get_mut(&topic) {
            let oldest = progress.records.front();
            if oldest.is_some_and(|place| (place.epoch, place.number) == (epoch, number)) {
                progress.records.pop_front();
            }
        }
        1
    }
}

impl SequenceProgress {
    fn next(&self, producer: ProducerId) -> ProducerSequence {
        ProducerSequence { producer, epoch: self.epoch, number: self.last_number.saturating_add(1) }
    }

    /// The first answer to a number of this epoch that has its place.
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

//! The order of producers: what each has sent to each topic, and where the last of it stands.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use pushonce_core::{Placed, ProducerId, Sequence, Topic};
use serde::{Deserialize, Serialize};

use crate::dedupe::{Fingerprint, Rejected};
use crate::passing::Moment;
use crate::rules::Rules;

/// How many places are remembered of one producer: twice its window, as [`Sequence::WINDOW`] says.
pub(crate) const PLACES_OF_ONE: usize = 16_384;

/// And of all producers of a shard: eight that fill theirs, 12 MiB. With more, those with the most
/// have less of the past, so that some of their repeats may end as unknown; nothing is placed twice.
pub(crate) const PLACES_MAX: usize = 8 * PLACES_OF_ONE;

/// What the topics of producers that are followed may take together: some 100,000 producers of one topic
/// each. Past it a producer, or a topic of one, that is not known is refused until others have rested for
/// the window: to evict one that is known would let its repeats be placed twice, or renumber it.
pub(crate) const FOLLOWED_BYTES_MAX: usize = 64 << 20;

/// What a topic of a producer takes beside its name: its progress, its first places, its turn to rest.
pub(crate) const FOLLOWED_BYTES: usize = 512;

/// How many that may have rested long enough an entry looks at, so that none takes long.
pub(crate) const LOOKED_AT_PER_ENTRY: usize = 64;

const _: () = assert!(PLACES_OF_ONE >= 2 * Sequence::WINDOW);

/// The producers of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Producers {
    known: BTreeMap<ProducerId, Producer>,
    /// Every topic of every producer, once: those at the front rest, as far as is known.
    resting: VecDeque<Rest>,
    /// How many turns all producers have.
    #[serde(skip)]
    turns: usize,
    /// The producers by how many turns they have, those without any left out: there may be 100,000 producers,
    /// of which the one with the most is asked for with every message.
    #[serde(skip)]
    by_turns: BTreeSet<(usize, ProducerId)>,
    /// What the topics of all producers take.
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    rules: &'static Rules,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Producer {
    topics: BTreeMap<Topic, Progress>,
    /// What was placed, oldest first. What was forgotten with its topic has its turn here still.
    turns: VecDeque<Turn>,
}

/// How far a producer has come in one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    epoch: u32,
    last: u64,
    used: Moment,
    /// The last of it: numbers that follow each other, save where an epoch began, or where some were placed
    /// by another table.
    places: VecDeque<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    epoch: u32,
    number: u64,
    fingerprint: Fingerprint,
    placed: Placed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Turn {
    topic: Topic,
    epoch: u32,
    number: u64,
}

/// A topic of a producer, and when it was used last by the time it was put here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rest {
    producer: ProducerId,
    topic: Topic,
    used: Moment,
}

impl Producers {
    /// These are the bounds from now on. What is over them goes with the next message.
    pub(crate) fn keep_to(&mut self, rules: &'static Rules) {
        self.rules = rules;
        self.bytes = self.resting.iter().map(|rest| followed_bytes(&rest.topic, rules)).sum();
    }

    /// What a message of this number is answered with; `None` when it is the next.
    pub(crate) fn look(
        &self,
        topic: &Topic,
        asked: Sequence,
        fingerprint: Fingerprint,
    ) -> Option<Result<Placed, Rejected>> {
        let progress = self.known.get(&asked.producer).and_then(|known| known.topics.get(topic));
        let next = progress.map(|progress| progress.next(asked.producer));
        let out_of_sequence = Some(Err(Rejected::OutOfSequence { asked, expected: next }));
        match progress {
            Some(known) if known.epoch > asked.epoch => out_of_sequence,
            Some(known) if known.epoch == asked.epoch => {
                match asked.number.cmp(&known.last.saturating_add(1)) {
                    Ordering::Less => Some(known.repeat(asked.number, fingerprint)),
                    Ordering::Equal => None,
                    Ordering::Greater => out_of_sequence,
                }
            }
            None if self.has_no_room_for(topic) => Some(Err(Rejected::TooManyProducers)),
            _ if asked.number > 1 => out_of_sequence,
            _ => None,
        }
    }

    /// The same with what another table knows of the producers: that of the log beside this one of the
    /// owner's memory. The one in which the producer has come further decides.
    pub(crate) fn look_beside(
        &self,
        other: &Producers,
        topic: &Topic,
        asked: Sequence,
        fingerprint: Fingerprint,
    ) -> Option<Result<Placed, Rejected>> {
        let reached = self.reached(topic, asked.producer);
        let is_behind = other.reached(topic, asked.producer) > reached;
        let (ahead, behind) = if is_behind { (other, self) } else { (self, other) };
        match ahead.look(topic, asked, fingerprint) {
            Some(Err(Rejected::Forgotten)) => {
                behind.repeat(topic, asked, fingerprint).or(Some(Err(Rejected::Forgotten)))
            }
            None if reached.is_none() && self.has_no_room_for(topic) => {
                Some(Err(Rejected::TooManyProducers))
            }
            settled => settled,
        }
    }

    /// How far a producer has come in a topic: its epoch and number.
    pub(crate) fn reached(&self, topic: &Topic, producer: ProducerId) -> Option<(u32, u64)> {
        let progress = self.known.get(&producer)?.topics.get(topic)?;
        Some((progress.epoch, progress.last))
    }

    /// The first answer to a message that has its place by this table; `None` when it has none.
    pub(crate) fn repeat(
        &self,
        topic: &Topic,
        asked: Sequence,
        fingerprint: Fingerprint,
    ) -> Option<Result<Placed, Rejected>> {
        let progress = self.known.get(&asked.producer)?.topics.get(topic)?;
        let has_place = progress.epoch == asked.epoch && asked.number <= progress.last;
        has_place.then(|| progress.repeat(asked.number, fingerprint))
    }

    /// Another table has a producer's messages to a topic up to `last`: here the next one is taken.
    pub(crate) fn continue_after(&mut self, topic: &Topic, last: Sequence, now: Moment) {
        let Sequence { producer, epoch, number } = last;
        let reached = self.reached(topic, producer);
        let is_full = reached.is_none() && self.has_no_room_for(topic);
        if is_full || reached >= Some((epoch, number)) {
            return;
        }
        let progress = self.follow(topic, producer, now);
        (progress.epoch, progress.last, progress.used) = (epoch, number, now);
    }

    fn follow(&mut self, topic: &Topic, producer: ProducerId, now: Moment) -> &mut Progress {
        let known = self.known.entry(producer).or_default();
        known.topics.entry(topic.clone()).or_insert_with(|| {
            self.resting.push_back(Rest { producer, topic: topic.clone(), used: now });
            self.bytes += followed_bytes(topic, self.rules);
            Progress { epoch: 0, last: 0, used: now, places: VecDeque::new() }
        })
    }

    fn has_no_room_for(&self, topic: &Topic) -> bool {
        #[cfg(feature = "planted-bugs")]
        if crate::state::planted::follows_everybody() {
            return false;
        }
        self.bytes + followed_bytes(topic, self.rules) > self.rules.followed_bytes_max
    }

    /// The next message of a producer has its place.
    pub(crate) fn remember(
        &mut self,
        topic: &Topic,
        sequence: Sequence,
        fingerprint: Fingerprint,
        placed: Placed,
        now: Moment,
    ) {
        let Sequence { producer, epoch, number } = sequence;
        let progress = self.follow(topic, producer, now);
        (progress.epoch, progress.last, progress.used) = (epoch, number, now);
        progress.places.push_back(Place { epoch, number, fingerprint, placed });
        let known = self.known.entry(producer).or_default();
        let before = known.turns.len();
        known.turns.push_back(Turn { topic: topic.clone(), epoch, number });
        self.turns += 1;
        if known.turns.len() > self.rules.places_per_producer_max {
            self.turns -= known.forget_oldest();
        }
        let after = known.turns.len();
        self.rank(producer, before, after);
        while self.turns > self.rules.places_max {
            let Some(&(most, producer)) = self.by_turns.last() else { break };
            let known = self.known.get_mut(&producer);
            self.turns -= known.map_or(0, Producer::forget_oldest);
            self.rank(producer, most, most - 1);
        }
    }

    /// A producer had so many turns before, and has so many now.
    fn rank(&mut self, producer: ProducerId, before: usize, after: usize) {
        if before != after {
            self.by_turns.remove(&(before, producer));
            if after > 0 {
                self.by_turns.insert((after, producer));
            }
        }
    }

    /// Forgets some of what has rested for longer than the window.
    pub(crate) fn forget(&mut self, now: Moment) {
        for _ in 0..self.rules.rested_per_entry {
            if self
                .resting
                .front()
                .is_none_or(|first| !first.used.is_past(now, self.rules.window_ms))
            {
                break;
            }
            self.look_at_first(now);
        }
    }

    /// Forgets the first that rests if it has rested for the window; else it goes to the end.
    fn look_at_first(&mut self, now: Moment) {
        let Some(Rest { producer, topic, used: before }) = self.resting.pop_front() else { return };
        let Some(known) = self.known.get_mut(&producer) else { return };
        let Some(used) = known.topics.get(&topic).map(|progress| progress.used) else { return };
        if used > before || !used.is_past(now, self.rules.window_ms) {
            self.resting.push_back(Rest { producer, topic, used });
            return;
        }
        known.topics.remove(&topic);
        self.bytes -= followed_bytes(&topic, self.rules);
        if known.topics.is_empty() {
            let turns = known.turns.len();
            self.turns -= turns;
            self.known.remove(&producer);
            self.by_turns.remove(&(turns, producer));
        }
    }

    /// With what is not written; `None` when a topic of a producer would be followed for ever, or
    /// is not there.
    pub(crate) fn restored(self) -> Option<Producers> {
        let Producers { known, resting, rules, .. } = self;
        let pairs: HashSet<_> = resting.iter().map(|rest| (rest.producer, &rest.topic)).collect();
        let is_there = |rest: &Rest| {
            known.get(&rest.producer).is_some_and(|known| known.topics.contains_key(&rest.topic))
        };
        let count = known.values().map(|known| known.topics.len()).sum::<usize>();
        let whole = pairs.len() == resting.len()
            && count == resting.len()
            && known.values().all(|known| !known.topics.is_empty())
            && resting.iter().all(is_there);
        let turns = known.values().map(|known| known.turns.len()).sum();
        let by_turns = known.iter().map(|(&producer, known)| (known.turns.len(), producer));
        let by_turns = by_turns.filter(|(turns, _)| *turns > 0).collect();
        let bytes = resting.iter().map(|rest| followed_bytes(&rest.topic, rules)).sum();
        whole.then_some(Producers { known, resting, turns, by_turns, bytes, rules })
    }
}

fn followed_bytes(topic: &Topic, rules: &Rules) -> usize {
    topic.as_str().len() + rules.followed_topic_bytes
}

impl Producer {
    /// Forgets the oldest place. How many turns that took: one, or none when there is none.
    fn forget_oldest(&mut self) -> usize {
        let Some(Turn { topic, epoch, number }) = self.turns.pop_front() else { return 0 };
        if let Some(progress) = self.topics.get_mut(&topic) {
            let oldest = progress.places.front();
            if oldest.is_some_and(|place| (place.epoch, place.number) == (epoch, number)) {
                progress.places.pop_front();
            }
        }
        1
    }
}

impl Progress {
    fn next(&self, producer: ProducerId) -> Sequence {
        Sequence { producer, epoch: self.epoch, number: self.last.saturating_add(1) }
    }

    /// The first answer to a number of this epoch that has its place.
    fn repeat(&self, number: u64, fingerprint: Fingerprint) -> Result<Placed, Rejected> {
        let back = usize::try_from(self.last - number).ok();
        let index = back.and_then(|back| self.places.len().checked_sub(back + 1));
        let place = index.and_then(|index| self.places.get(index));
        let first = |place: &&Place| (place.epoch, place.number) == (self.epoch, number);
        match place.filter(first) {
            None => Err(Rejected::Forgotten),
            Some(place) if place.fingerprint != fingerprint => Err(Rejected::SequenceReused),
            Some(place) => Ok(place.placed),
        }
    }
}

#[cfg(test)]
mod producers_test;

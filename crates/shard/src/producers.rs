//! The order of producers: what each has sent to each topic, and where the last of it stands.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet, VecDeque};

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

/// So many topics of producers are followed: 16 streams of 4,096 topics each on this one shard. Some
/// 12 MiB. Past it, and past so many producers, those that rest longest begin anew.
pub(crate) const TOPICS_MAX: usize = 65_536;
pub(crate) const PRODUCERS_MAX: usize = 1_024;

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
    /// The last of it: numbers that follow each other, save where an epoch began.
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
            _ => {
                if asked.number == 1 {
                    None
                } else {
                    out_of_sequence
                }
            }
        }
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
        let known = self.known.entry(producer).or_default();
        let progress = known.topics.entry(topic.clone()).or_insert_with(|| {
            self.resting.push_back(Rest { producer, topic: topic.clone(), used: now });
            Progress { epoch, last: 0, used: now, places: VecDeque::new() }
        });
        (progress.epoch, progress.last, progress.used) = (epoch, number, now);
        progress.places.push_back(Place { epoch, number, fingerprint, placed });
        known.turns.push_back(Turn { topic: topic.clone(), epoch, number });
        self.turns += 1;
        if known.turns.len() > self.rules.places_per_producer_max {
            self.turns -= known.forget_oldest();
        }
        while self.turns > self.rules.places_max {
            let most = self.known.values_mut().max_by_key(|known| known.turns.len());
            self.turns -= most.map_or(self.turns, Producer::forget_oldest);
        }
        while self.resting.len() > self.rules.producer_topics_max
            || self.known.len() > self.rules.producers_max
        {
            self.look_at_first(|_| true);
        }
    }

    /// Forgets some of what has rested for longer than the window.
    pub(crate) fn forget(&mut self, now: Moment) {
        for _ in 0..self.rules.rested_per_entry {
            if self.resting.front().is_none_or(|first| !first.used.is_past(now)) {
                break;
            }
            self.look_at_first(|used| used.is_past(now));
        }
    }

    /// Forgets the first that rests, unless it was used since or is to be kept: then it goes to the
    /// end.
    fn look_at_first(&mut self, goes: impl Fn(Moment) -> bool) {
        let Some(Rest { producer, topic, used: before }) = self.resting.pop_front() else { return };
        let Some(known) = self.known.get_mut(&producer) else { return };
        let Some(used) = known.topics.get(&topic).map(|progress| progress.used) else { return };
        if used > before || !goes(used) {
            self.resting.push_back(Rest { producer, topic, used });
            return;
        }
        known.topics.remove(&topic);
        if known.topics.is_empty() {
            self.turns -= known.turns.len();
            self.known.remove(&producer);
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
        whole.then_some(Producers { known, resting, turns, rules })
    }
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

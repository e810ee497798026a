//! Tells a repeated publish from a new one. Pure, and part of the replicated state: so a repeat gets
//! the first answer from whoever owns the shard by then.
//!
//! A message is known again by its key, or the nonce that was drawn for it ([`Keys`]), and by its
//! place in its producer's order ([`Producers`]).

use pushonce_core::{InvalidPublish, Placed, PublishError, Refusal, Sequence, Timestamp, Topic};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::Item;
use crate::keys::{Keys, Name};
use crate::passing::Passing;
use crate::producers::Producers;
use crate::rules::Rules;

/// What a shard knows of the publishes that may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dedupe {
    passing: Passing,
    keys: Keys,
    producers: Producers,
}

/// What a message says, in 16 bytes: a repeat has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint([u8; 16]);

/// By what a message will be known again.
pub(crate) struct Marks {
    name: Option<Name>,
    sequence: Option<Sequence>,
    fingerprint: Fingerprint,
}

/// Whether a message is new.
pub(crate) enum Look {
    /// It is: once it has its place, its marks are to be remembered.
    New(Option<Marks>),
    /// It gets no place: it has one, or may have none.
    Settled(Result<Placed, Rejected>),
}

/// What the owner's memory knows of a message that goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InMemory {
    /// Nothing.
    Unknown,
    /// It has its place there, or may have none.
    Settled(Result<Placed, Rejected>),
    /// It is the next of its producer's, behind this one, which the log does not know of.
    Continues(Sequence),
}

/// Why applying an entry gives a message no place. Every replica says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejected {
    /// Another message has its key or its nonce.
    KeyReused,
    /// Another message has its number.
    SequenceReused,
    /// It is not the next of its producer's.
    OutOfSequence {
        /// What it is.
        asked: Sequence,
        /// What is next, if the producer is known.
        expected: Option<Sequence>,
    },
    /// It has a place, and where that is has been forgotten.
    Forgotten,
    /// Its namespace lives in the owner's memory at this place of the log.
    InMemory,
    /// Its topic belongs to another shard.
    WrongShard,
    /// The shard has no settings yet.
    NoSettings,
    /// Its producer is not known, and the shard follows as many as it may.
    TooManyProducers,
}

impl Dedupe {
    /// These are the constants from now on.
    pub(crate) fn keep_to(&mut self, rules: &'static Rules) {
        self.passing.keep_to(rules);
        self.keys.keep_to(rules);
        self.producers.keep_to(rules);
    }

    /// An entry with this time is being applied: what is older than the window is forgotten.
    pub(crate) fn advance(&mut self, time: Timestamp) {
        let now = self.passing.at(time);
        self.keys.forget(now);
        self.producers.forget(now);
    }

    /// Whether a message is new. Its number is looked at first: a message that its producer may not
    /// send now is not known by its key either.
    pub(crate) fn look(&mut self, item: &Item) -> Look {
        let Some(marks) = Marks::of(item) else { return Look::New(None) };
        let by_number = marks
            .sequence
            .and_then(|sequence| self.producers.look(&item.topic, sequence, marks.fingerprint));
        if let Some(settled) = by_number {
            return Look::Settled(settled);
        }
        let by_name = marks
            .name
            .as_ref()
            .and_then(|name| self.keys.look(&item.topic, name, marks.fingerprint));
        match by_name {
            None => Look::New(Some(marks)),
            Some(Err(rejected)) => Look::Settled(Err(rejected)),
            Some(Ok(placed)) => {
                // The stream goes on behind it.
                self.remember(Marks { name: None, ..marks }, &item.topic, placed);
                Look::Settled(Ok(placed))
            }
        }
    }

    /// Whether a message that goes to the owner's memory is new, by what the memory knows and by what the
    /// log does: its namespace may have been replicated when it was first sent.
    pub(crate) fn look_beside(&mut self, log: &Dedupe, item: &Item) -> Look {
        #[cfg(feature = "planted-bugs")]
        if crate::state::planted::looks_on_one_side() {
            return self.look(item);
        }
        let Some(marks) = Marks::of(item) else { return Look::New(None) };
        let Marks { name, sequence, fingerprint } = &marks;
        let (topic, fingerprint) = (&item.topic, *fingerprint);
        let by_number = sequence.and_then(|asked| {
            self.producers.look_beside(&log.producers, topic, asked, fingerprint)
        });
        if let Some(settled) = by_number {
            return Look::Settled(settled);
        }
        let look = |keys: &Keys| name.as_ref().and_then(|name| keys.look(topic, name, fingerprint));
        match look(&self.keys).or_else(|| look(&log.keys)) {
            None => Look::New(Some(marks)),
            Some(Err(rejected)) => Look::Settled(Err(rejected)),
            Some(Ok(placed)) => {
                self.remember(Marks { name: None, ..marks }, topic, placed);
                Look::Settled(Ok(placed))
            }
        }
    }

    /// What the owner's memory knows of a message that goes to the log: its namespace may have lived in
    /// memory when it was first sent.
    pub(crate) fn look_ahead_of(&self, log: &Dedupe, item: &Item) -> InMemory {
        #[cfg(feature = "planted-bugs")]
        if crate::state::planted::looks_on_one_side() {
            return InMemory::Unknown;
        }
        let Some(Marks { name, sequence, fingerprint }) = Marks::of(item) else {
            return InMemory::Unknown;
        };
        if let Some(asked) = sequence {
            let Sequence { producer, epoch, number } = asked;
            let reached = self.producers.reached(&item.topic, producer);
            if reached > log.producers.reached(&item.topic, producer) {
                match self.producers.repeat(&item.topic, asked, fingerprint) {
                    // The log may have its place, from before the namespace went into memory.
                    Some(Err(Rejected::Forgotten)) => {
                        let by_log = log.producers.repeat(&item.topic, asked, fingerprint);
                        return InMemory::Settled(by_log.unwrap_or(Err(Rejected::Forgotten)));
                    }
                    Some(settled) => return InMemory::Settled(settled),
                    None => {}
                }
                if reached == Some((epoch, number.saturating_sub(1))) {
                    return InMemory::Continues(Sequence { number: number - 1, ..asked });
                }
            }
        }
        let known = name.and_then(|name| self.keys.look(&item.topic, &name, fingerprint));
        known.map_or(InMemory::Unknown, InMemory::Settled)
    }

    /// A producer's messages to a topic up to `last` were placed in the owner's memory.
    pub(crate) fn continue_after(&mut self, topic: &Topic, last: Sequence) {
        self.producers.continue_after(topic, last, self.passing.now());
    }

    /// The message of these marks has its place.
    pub(crate) fn remember(&mut self, marks: Marks, topic: &Topic, placed: Placed) {
        let Marks { name, sequence, fingerprint } = marks;
        let now = self.passing.now();
        if let Some(name) = name {
            self.keys.remember(topic.clone(), name, fingerprint, placed, now);
        }
        if let Some(sequence) = sequence {
            self.producers.remember(topic, sequence, fingerprint, placed, now);
        }
    }

    /// After it was read off a disk or a wire: with what is not written, or `None` when its parts do
    /// not fit each other.
    pub(crate) fn restored(self) -> Option<Dedupe> {
        let Dedupe { passing, keys, producers } = self;
        Some(Dedupe { passing, keys: keys.restored()?, producers: producers.restored()? })
    }
}

impl Marks {
    fn of(item: &Item) -> Option<Marks> {
        let (name, sequence) = (Name::of(item), item.sequence());
        let marked = name.is_some() || sequence.is_some();
        marked.then(|| Marks { name, sequence, fingerprint: Fingerprint::of(item) })
    }
}

impl Fingerprint {
    pub(crate) fn of(item: &Item) -> Fingerprint {
        let seed = xxh3_64(item.content_type.as_str().as_bytes());
        Fingerprint(xxh3_128_with_seed(&item.payload, seed).to_le_bytes())
    }
}

impl From<Rejected> for PublishError {
    fn from(rejected: Rejected) -> PublishError {
        match rejected {
            Rejected::KeyReused => InvalidPublish::KeyReused.into(),
            Rejected::SequenceReused => InvalidPublish::SequenceReused.into(),
            Rejected::OutOfSequence { asked, expected } => {
                Refusal::OutOfSequence { asked, expected }.into()
            }
            Rejected::Forgotten => {
                PublishError::unknown("it has its place, and where that is has been forgotten")
            }
            // Nothing happened; the way to the shard is looked for again.
            Rejected::InMemory | Rejected::WrongShard | Rejected::NoSettings => {
                Refusal::NotOwner { owner: None }.into()
            }
            Rejected::TooManyProducers => {
                let why = "the topic's shard follows as many producers as it has memory for, and takes \
                           new ones when others have published nothing for five minutes; use fewer \
                           streams, or publish with a key or a nonce";
                Refusal::Overloaded(why.to_owned()).into()
            }
        }
    }
}

#[cfg(test)]
mod across_test;
#[cfg(test)]
mod dedupe_test;

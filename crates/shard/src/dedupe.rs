//! Tells a repeated publish from a new one. Pure, and part of the replicated state: so a repeat gets
//! the first answer from whoever owns the shard by then.
//!
//! A message is known again by its key, or the nonce that was drawn for it ([`DedupeKeyTable`]), and by its
//! place in its producer's order ([`ProducerTable`]).

use pushonce_core::{
    Acknowledgement, FailPoint, InvalidPublish, ProducerSequence, PublishError, PublishRejection,
    Timestamp, Topic,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::EntryItem;
use crate::dedupe_keys::{DedupeKey, DedupeKeyTable};
use crate::log_clock::LogClock;
use crate::producers::ProducerTable;
use crate::rules::ShardRules;

/// What a shard knows of the publishes that may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dedupe {
    clock: LogClock,
    keys: DedupeKeyTable,
    producers: ProducerTable,
}

/// What a message says, in 16 bytes: a repeat has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MessageFingerprint([u8; 16]);

/// By what a message will be known again.
pub(crate) struct PublishIdentity {
    key: Option<DedupeKey>,
    sequence: Option<ProducerSequence>,
    fingerprint: MessageFingerprint,
}

/// Whether a message is new.
pub(crate) enum DedupeResult {
    /// It is: once it has its place, its marks are to be remembered.
    New(Option<PublishIdentity>),
    /// It gets no place: it has one, or may have none.
    Settled(Result<Acknowledgement, ItemRejection>),
}

/// What the owner's memory knows of a message that goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryLookup {
    /// Nothing.
    Unknown,
    /// It has its place there, or may have none.
    Settled(Result<Acknowledgement, ItemRejection>),
    /// It is the next of its producer's, behind this one, which the log does not know of.
    Continues(ProducerSequence),
}

/// Why applying an entry gives a message no place. Every replica says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemRejection {
    /// Another message has its key or its nonce.
    KeyReused,
    /// Another message has its number.
    SequenceReused,
    /// It is not the next of its producer's.
    OutOfSequence {
        /// What it is.
        received: ProducerSequence,
        /// What is next, if the producer is known.
        expected: Option<ProducerSequence>,
    },
    /// It has a place, and where that is has been forgotten.
    PositionForgotten,
    /// Its namespace lives in the owner's memory at this place of the log.
    NamespaceInMemory,
    /// Its topic belongs to another shard.
    WrongShard,
    /// The shard has no settings yet.
    NoSettings,
    /// Its producer is not known, and the shard follows as many as it may.
    TooManyProducers,
}

impl Dedupe {
    /// These are the constants from now on.
    pub(crate) fn set_rules(&mut self, rules: &'static ShardRules) {
        self.clock.set_rules(rules);
        self.keys.set_rules(rules);
        self.producers.set_rules(rules);
    }

    /// An entry with this time is being applied: what is older than the window is forgotten.
    pub(crate) fn advance(&mut self, time: Timestamp) {
        let now = self.clock.advance_to(time);
        self.keys.expire(now);
        self.producers.expire_idle(now);
    }

    /// Whether a message is new. Its number is looked at first: a message that its producer may not
    /// send now is not known by its key either.
    pub(crate) fn lookup(&mut self, item: &EntryItem) -> DedupeResult {
        let Some(identity) = PublishIdentity::for_item(item) else {
            return DedupeResult::New(None);
        };
        let by_sequence = identity.sequence.and_then(|sequence| {
            self.producers.lookup(&item.topic, sequence, identity.fingerprint)
        });
        if let Some(settled) = by_sequence {
            return DedupeResult::Settled(settled);
        }
        let by_key = identity
            .key
            .as_ref()
            .and_then(|key| self.keys.lookup(&item.topic, key, identity.fingerprint));
        match by_key {
            None => DedupeResult::New(Some(identity)),
            Some(Err(rejected)) => DedupeResult::Settled(Err(rejected)),
            Some(Ok(ack)) => {
                // The stream goes on behind it.
                self.record(PublishIdentity { key: None, ..identity }, &item.topic, ack);
                DedupeResult::Settled(Ok(ack))
            }
        }
    }

    /// Whether a message that goes to the owner's memory is new, by what the memory knows and by what the
    /// log does: its namespace may have been replicated when it was first sent.
    pub(crate) fn lookup_with_log(&mut self, log: &Dedupe, item: &EntryItem) -> DedupeResult {
        if FailPoint::DedupeSplitByDurability.is_active() {
            return self.lookup(item);
        }
        let Some(identity) = PublishIdentity::for_item(item) else {
            return DedupeResult::New(None);
        };
        let PublishIdentity { key, sequence, fingerprint } = &identity;
        let (topic, fingerprint) = (&item.topic, *fingerprint);
        let by_sequence = sequence.and_then(|received| {
            self.producers.lookup_with(&log.producers, topic, received, fingerprint)
        });
        if let Some(settled) = by_sequence {
            return DedupeResult::Settled(settled);
        }
        let lookup = |keys: &DedupeKeyTable| {
            key.as_ref().and_then(|key| keys.lookup(topic, key, fingerprint))
        };
        match lookup(&self.keys).or_else(|| lookup(&log.keys)) {
            None => DedupeResult::New(Some(identity)),
            Some(Err(rejected)) => DedupeResult::Settled(Err(rejected)),
            Some(Ok(ack)) => {
                self.record(PublishIdentity { key: None, ..identity }, topic, ack);
                DedupeResult::Settled(Ok(ack))
            }
        }
    }

    /// What the owner's memory knows of a message that goes to the log: its namespace may have lived in
    /// memory when it was first sent.
    pub(crate) fn lookup_before_log(&self, log: &Dedupe, item: &EntryItem) -> MemoryLookup {
        if FailPoint::DedupeSplitByDurability.is_active() {
            return MemoryLookup::Unknown;
        }
        let Some(PublishIdentity { key, sequence, fingerprint }) = PublishIdentity::for_item(item)
        else {
            return MemoryLookup::Unknown;
        };
        if let Some(received) = sequence {
            let ProducerSequence { producer, epoch, number } = received;
            let reached = self.producers.last_sequence(&item.topic, producer);
            if reached > log.producers.last_sequence(&item.topic, producer) {
                match self.producers.find_repeat(&item.topic, received, fingerprint) {
                    // The log may have its place, from before the namespace went into memory.
                    Some(Err(ItemRejection::PositionForgotten)) => {
                        let by_log = log.producers.find_repeat(&item.topic, received, fingerprint);
                        return MemoryLookup::Settled(
                            by_log.unwrap_or(Err(ItemRejection::PositionForgotten)),
                        );
                    }
                    Some(settled) => return MemoryLookup::Settled(settled),
                    None => {}
                }
                if reached == Some((epoch, number.saturating_sub(1))) {
                    return MemoryLookup::Continues(ProducerSequence {
                        number: number - 1,
                        ..received
                    });
                }
            }
        }
        let outcome = key.and_then(|key| self.keys.lookup(&item.topic, &key, fingerprint));
        outcome.map_or(MemoryLookup::Unknown, MemoryLookup::Settled)
    }

    /// A producer's messages to a topic up to `last` were placed in the owner's memory.
    pub(crate) fn advance_producer_to(&mut self, topic: &Topic, last: ProducerSequence) {
        self.producers.advance_to(topic, last, self.clock.now());
    }

    /// The message of these marks has its place.
    pub(crate) fn record(
        &mut self,
        identity: PublishIdentity,
        topic: &Topic,
        ack: Acknowledgement,
    ) {
        let PublishIdentity { key, sequence, fingerprint } = identity;
        let now = self.clock.now();
        if let Some(key) = key {
            self.keys.insert(topic.clone(), key, fingerprint, ack, now);
        }
        if let Some(sequence) = sequence {
            self.producers.record(topic, sequence, fingerprint, ack, now);
        }
    }

    /// After it was read off a disk or a wire: with what is not written, or `NoFault` when its parts do
    /// not fit each other.
    pub(crate) fn rebuild_indexes(self) -> Option<Dedupe> {
        let Dedupe { clock, keys, producers } = self;
        Some(Dedupe {
            clock,
            keys: keys.rebuild_indexes()?,
            producers: producers.rebuild_indexes()?,
        })
    }
}

impl PublishIdentity {
    fn for_item(item: &EntryItem) -> Option<PublishIdentity> {
        let (key, sequence) = (DedupeKey::for_item(item), item.sequence());
        let has_identity = key.is_some() || sequence.is_some();
        has_identity.then(|| PublishIdentity {
            key,
            sequence,
            fingerprint: MessageFingerprint::for_item(item),
        })
    }
}

impl MessageFingerprint {
    pub(crate) fn for_item(item: &EntryItem) -> MessageFingerprint {
        let seed = xxh3_64(item.content_type.as_str().as_bytes());
        MessageFingerprint(xxh3_128_with_seed(&item.payload, seed).to_le_bytes())
    }
}

impl From<ItemRejection> for PublishError {
    fn from(rejected: ItemRejection) -> PublishError {
        match rejected {
            ItemRejection::KeyReused => InvalidPublish::KeyReused.into(),
            ItemRejection::SequenceReused => InvalidPublish::SequenceReused.into(),
            ItemRejection::OutOfSequence { received, expected } => {
                PublishRejection::OutOfSequence { received, expected }.into()
            }
            ItemRejection::PositionForgotten => {
                PublishError::unknown("it has its place, and where that is has been forgotten")
            }
            // Nothing happened; the way to the shard is looked for again.
            ItemRejection::NamespaceInMemory
            | ItemRejection::WrongShard
            | ItemRejection::NoSettings => PublishRejection::NotOwner { owner: None }.into(),
            ItemRejection::TooManyProducers => {
                let reason = "the topic's shard follows as many producers as it has memory for, and takes \
                           new ones when others have published nothing for five minutes; use fewer \
                           streams, or publish with a key or a nonce";
                PublishRejection::Overloaded(reason.to_owned()).into()
            }
        }
    }
}

#[cfg(test)]
mod dedupe_test;
#[cfg(test)]
mod durability_change_test;

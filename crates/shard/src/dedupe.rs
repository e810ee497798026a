//! Detects repeated publishes. Pure, and part of the replicated state, so a repeat gets the first
//! acknowledgement from every later owner of the shard.
//!
//! A message is recognised by its key or its nonce ([`DedupeKeyTable`]), and by its producer's sequence
//! number ([`ProducerTable`]).

use pushonce_core::{
    Acknowledgement, FailPoint, InvalidPublish, OverloadReason, ProducerSequence, PublishError,
    PublishRejection, Timestamp, Topic,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::EntryItem;
use crate::dedupe_keys::{DedupeKey, DedupeKeyTable};
use crate::log_clock::LogClock;
use crate::producers::ProducerTable;
use crate::rules::ShardRules;

/// The recent publishes of a shard that may be repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dedupe {
    clock: LogClock,
    keys: DedupeKeyTable,
    producers: ProducerTable,
}

/// A 16-byte hash of a message's payload and content type; a repeat has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MessageFingerprint([u8; 16]);

/// The marks by which a later repeat of a message is recognised.
pub(crate) struct PublishIdentity {
    key: Option<DedupeKey>,
    sequence: Option<ProducerSequence>,
    fingerprint: MessageFingerprint,
}

/// The result of looking a message up.
pub(crate) enum DedupeResult {
    /// The message is new. After it is placed, [`Dedupe::record`] must be called with its identity.
    New(Option<PublishIdentity>),
    /// The message is not placed: it already has a position, or is rejected.
    Settled(Result<Acknowledgement, ItemRejection>),
}

/// The result of looking up a message for the log in the owner's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryLookup {
    /// The memory knows nothing of the message.
    Unknown,
    /// The message has a position in memory, or is rejected.
    Settled(Result<Acknowledgement, ItemRejection>),
    /// The message is the next of its producer, after this one, which the log does not know.
    Continues(ProducerSequence),
}

/// Why an entry does not place a message. Every replica comes to the same result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemRejection {
    /// Another message has the same key or nonce.
    KeyReused,
    /// Another message has the same sequence number.
    SequenceReused,
    /// The message is not the next of its producer.
    OutOfSequence {
        /// The sequence of the message.
        received: ProducerSequence,
        /// The next sequence, if the producer is known.
        expected: Option<ProducerSequence>,
    },
    /// The message was placed before, but its position is no longer known.
    PositionForgotten,
    /// The namespace lives in the owner's memory at this place of the log.
    NamespaceInMemory,
    /// The topic belongs to another shard.
    WrongShard,
    /// The shard has no settings yet.
    NoSettings,
    /// The producer is not known, and the shard tracks its maximum number of producers.
    TooManyProducers,
}

impl Dedupe {
    /// Applies `rules` from now on.
    pub(crate) fn set_rules(&mut self, rules: &'static ShardRules) {
        self.clock.set_rules(rules);
        self.keys.set_rules(rules);
        self.producers.set_rules(rules);
    }

    /// Advances the clock to the time of an entry and forgets records older than the window.
    pub(crate) fn advance(&mut self, time: Timestamp) {
        let now = self.clock.advance_to(time);
        self.keys.expire(now);
        self.producers.expire_idle(now);
    }

    /// Looks a message up. Its sequence number is checked first: a message that its producer must not send
    /// now is not accepted by its key either.
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
                // The producer's sequence continues after this message.
                self.record(PublishIdentity { key: None, ..identity }, &item.topic, ack);
                DedupeResult::Settled(Ok(ack))
            }
        }
    }

    /// Looks up a message for the owner's memory, both in memory and in the log: its namespace may have
    /// been replicated when it was first sent.
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

    /// Looks up a message for the log in the owner's memory: its namespace may have lived in memory when it
    /// was first sent.
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
                    // The log may have the position, from before the namespace moved to memory.
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

    /// Records that a producer's messages to a topic up to `last` were placed in the owner's memory.
    pub(crate) fn advance_producer_to(&mut self, topic: &Topic, last: ProducerSequence) {
        self.producers.advance_to(topic, last, self.clock.now());
    }

    /// Records that the message with this identity was placed.
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

    /// Rebuilds the fields that are not serialized. Returns `None` if the decoded parts are inconsistent.
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
            ItemRejection::PositionForgotten => PublishError::unknown(
                "the message was placed before, but its position is no longer known",
            ),
            // Nothing happened; the publisher's node routes the message again.
            ItemRejection::NamespaceInMemory
            | ItemRejection::WrongShard
            | ItemRejection::NoSettings => PublishRejection::NotOwner { owner: None }.into(),
            ItemRejection::TooManyProducers => OverloadReason::Producers.into(),
        }
    }
}

#[cfg(test)]
mod dedupe_test;
#[cfg(test)]
mod durability_change_test;

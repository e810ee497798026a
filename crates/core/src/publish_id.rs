//! Identification of retried publishes without a key.
//!
//! A key is meant for people and travels with the message; a publish id is meant for retries and stays at
//! the shard.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The identity of a message beside its key, by which a retry is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PublishId {
    /// Drawn at random for this message.
    Nonce(u128),
    /// A sequence number of the message's producer.
    Sequence(ProducerSequence),
}

/// A producer: the sender of one stream of messages. Drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerId(pub u128);

/// The sequence number of a message among those that its producer sends to one topic.
///
/// A shard accepts a producer's messages to a topic in the order of their numbers, without a hole, each
/// once; a repeat gets the first reply. A producer that cannot continue starts again with number 1 in a
/// higher epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProducerSequence {
    /// The producer.
    pub producer: ProducerId,
    /// Increases when the numbers of the topic restart.
    pub epoch: u32,
    /// From 1, increasing by one with each message to the topic.
    pub number: u64,
}

/// Why a publish id is rejected. Each text says what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublishId {
    /// A nonce or a producer does not have 16 bytes.
    #[error("`{field}` has {len} bytes; use 16 random bytes")]
    Length {
        /// Name of the protobuf field.
        field: &'static str,
        /// Length in bytes.
        len: usize,
    },
    /// The sequence is 0; numbers begin with 1.
    #[error("`producer.sequence` is 0; number the messages to each topic from 1")]
    ZeroSequence,
    /// A message has both a nonce and a producer.
    #[error("a message has both a nonce and a producer; send one of them")]
    NonceAndProducer,
}

impl ProducerSequence {
    /// Maximum distance, in messages over all topics, between the newest message of a stream and its oldest
    /// unacknowledged one. Shards remember at least twice as many sequence numbers of a producer: the
    /// messages behind one that waits for its acknowledgement were either sent after it (one window), or
    /// before it and again since (another).
    pub const IN_FLIGHT_MAX: usize = 8_192;
}

impl fmt::Display for ProducerSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

//! What tells a repeated publish from a new one, when its publisher gives it no key.
//!
//! A key is for people and travels with the message; a stamp is for retries and ends at the shard.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Beside a key, how a message is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PublishId {
    /// Drawn at random, for this one message.
    Nonce(u128),
    /// A place in its producer's own order.
    Sequence(ProducerSequence),
}

/// Whoever sends a stream of messages, for as long as it sends. Drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerId(pub u128);

/// A message's place among those that its producer sends to one topic.
///
/// A shard takes a producer's messages to a topic in the order of their numbers, without a hole, each
/// once; a repeat gets the first answer. A producer that cannot go on so begins anew under a higher
/// epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProducerSequence {
    /// Who sends.
    pub producer: ProducerId,
    /// Rises when the numbers of the topic begin anew.
    pub epoch: u32,
    /// From 1, by one for each message to the topic.
    pub number: u64,
}

/// A stamp that is none. Each says what to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublishId {
    /// A nonce or a producer of another length.
    #[error("`{field}` has {len} bytes; it is 16 that were drawn at random")]
    Length {
        /// Its name in the contract.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// Numbers begin with 1.
    #[error("`producer.sequence` is 0; number the messages to each topic from 1")]
    ZeroSequence,
    /// One message has one stamp.
    #[error("a message has a nonce or a producer, not both")]
    NonceAndProducer,
}

impl ProducerSequence {
    /// A stream keeps no message unacknowledged that is older than its newest by so many messages,
    /// over all topics. Shards remember at least twice as many places of a producer: what stands
    /// behind a message that waits for its acknowledgement was either sent after it (one window), or
    /// before it and again since (another).
    pub const IN_FLIGHT_MAX: usize = 8_192;
}

impl fmt::Display for ProducerSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

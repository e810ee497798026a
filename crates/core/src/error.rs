//! How a publish ends when it is not acknowledged.

use crate::{InvalidPublish, NodeId, Sequence};

/// A publish has three outcomes: acknowledged, refused, unknown. These are the two that are no
/// acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing happened, and nothing will.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have happened, or may still.
    #[error("the outcome is unknown ({why}); {}", if *.repeatable {
        "repeat it as it was: it is placed once"
    } else {
        "without a key, a retry may place it twice"
    })]
    Unknown {
        /// What went wrong.
        why: String,
        /// Whether the publish, sent again as it was, is recognised
        /// ([`Publish::is_repeatable`](crate::Publish::is_repeatable)). Said by whoever has both
        /// the publish and its outcome.
        repeatable: bool,
    },
}

/// Why nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The message breaks a rule; it will never be taken as it is.
    #[error(transparent)]
    Invalid(#[from] InvalidPublish),
    /// This node does not own the topic's shard (any more).
    #[error("this node does not own the topic's shard; {}", match .owner {
        Some(owner) => format!("ask {owner}"),
        None => "no owner is known yet".to_owned(),
    })]
    NotOwner {
        /// Who does, as far as this node knows.
        owner: Option<NodeId>,
    },
    /// A bound was met; later it may be taken.
    #[error("too busy: {0}; retry after a pause")]
    Overloaded(String),
    /// The message would make a topic, and there are as many as there may be: in its namespace, or on its
    /// owner.
    #[error("too many topics: {0}")]
    TooManyTopics(String),
    /// Not the next of its producer's messages to the topic: one before it is missing, or its
    /// producer has begun a higher epoch, or the shard knows the producer no more.
    #[error("message {asked} of its producer is out of sequence: {}; send those before it first, or \
             begin a higher epoch with sequence 1", match .expected {
        Some(expected) => format!("the topic's next is {expected}"),
        None => "the producer is not known to the topic (any more)".to_owned(),
    })]
    OutOfSequence {
        /// What was sent.
        asked: Sequence,
        /// What would be taken; `None` when the shard does not know the producer.
        expected: Option<Sequence>,
    },
    /// The shard has no owner that can commit; later it may have.
    #[error("unavailable: {0}; retry after a pause")]
    Unavailable(String),
}

impl PublishError {
    /// It may have happened, and a repeat would not be recognised, as far as is known here.
    pub fn unknown(why: impl Into<String>) -> PublishError {
        PublishError::Unknown { why: why.into(), repeatable: false }
    }

    /// As the outcome of this publish: an unknown one says whether a repeat is recognised.
    pub fn of(self, is_repeatable: bool) -> PublishError {
        match self {
            PublishError::Unknown { why, .. } => {
                PublishError::Unknown { why, repeatable: is_repeatable }
            }
            refused => refused,
        }
    }

    /// Whether the same publish may succeed later, and is not placed twice by that.
    pub fn retryable(&self) -> bool {
        match self {
            PublishError::Refused(refusal) => {
                !matches!(refusal, Refusal::Invalid(_) | Refusal::TooManyTopics(_))
            }
            PublishError::Unknown { repeatable, .. } => *repeatable,
        }
    }
}

impl From<InvalidPublish> for PublishError {
    fn from(invalid: InvalidPublish) -> PublishError {
        PublishError::Refused(Refusal::Invalid(invalid))
    }
}

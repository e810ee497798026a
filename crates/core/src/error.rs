//! How a publish ends when it is not acknowledged.

use crate::{InvalidPublish, NodeId, ProducerSequence};

/// A publish has three outcomes: acknowledged, refused, unknown. These are the two that are no
/// acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing happened, and nothing will.
    #[error(transparent)]
    Rejected(#[from] PublishRejection),
    /// It may have happened, or may still.
    #[error("the outcome is unknown ({reason}); {}", if *.idempotent {
        "repeat it as it was: it is placed once"
    } else {
        "without a key, a retry may place it twice"
    })]
    Unknown {
        /// What went wrong.
        reason: String,
        /// Whether the publish, sent again as it was, is recognised
        /// ([`Publish::is_idempotent`](crate::Publish::is_idempotent)). Said by whoever has both
        /// the publish and its outcome.
        idempotent: bool,
    },
}

/// Why nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishRejection {
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
    #[error("message {received} of its producer is out of sequence: {}; send those before it first, or \
             begin a higher epoch with sequence 1", match .expected {
        Some(expected) => format!("the topic's next is {expected}"),
        None => "the producer is not known to the topic (any more)".to_owned(),
    })]
    OutOfSequence {
        /// What was sent.
        received: ProducerSequence,
        /// What would be taken; `NoFault` when the shard does not know the producer.
        expected: Option<ProducerSequence>,
    },
    /// The shard has no owner that can commit; later it may have.
    #[error("unavailable: {0}; retry after a pause")]
    Unavailable(String),
}

impl PublishError {
    /// It may have happened, and a repeat would not be recognised, as far as is known here.
    pub fn unknown(reason: impl Into<String>) -> PublishError {
        PublishError::Unknown { reason: reason.into(), idempotent: false }
    }

    /// As the outcome of this publish: an unknown one says whether a repeat is recognised.
    pub fn with_idempotency(self, is_idempotent: bool) -> PublishError {
        match self {
            PublishError::Unknown { reason, .. } => {
                PublishError::Unknown { reason, idempotent: is_idempotent }
            }
            rejected => rejected,
        }
    }

    /// Whether the same publish may succeed later, and is not placed twice by that.
    pub fn is_retryable(&self) -> bool {
        match self {
            PublishError::Rejected(rejection) => !matches!(
                rejection,
                PublishRejection::Invalid(_) | PublishRejection::TooManyTopics(_)
            ),
            PublishError::Unknown { idempotent, .. } => *idempotent,
        }
    }
}

impl From<InvalidPublish> for PublishError {
    fn from(invalid: InvalidPublish) -> PublishError {
        PublishError::Rejected(PublishRejection::Invalid(invalid))
    }
}

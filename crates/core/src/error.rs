//! The outcomes of a publish other than an acknowledgement.

use crate::{
    InvalidPublish, NodeId, OverloadReason, ProducerSequence, TopicLimit, UnavailableReason,
};

/// An outcome of a publish other than an acknowledgement. The three outcomes are acknowledged, rejected and
/// unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The message was not stored and will not be.
    #[error(transparent)]
    Rejected(#[from] PublishRejection),
    /// The message may have been stored, or may be stored later.
    #[error("the outcome is unknown ({reason}); {}", if *.idempotent {
        "retry it unchanged: it is stored once"
    } else {
        "without a key, a retry may store it twice"
    })]
    Unknown {
        /// What failed.
        reason: String,
        /// Whether the shard recognises the same publish when it is sent again
        /// ([`Publish::is_idempotent`](crate::Publish::is_idempotent)). Set by
        /// [`PublishError::with_idempotency`], where both the publish and its outcome are known.
        idempotent: bool,
    },
}

/// Why a publish was rejected without any effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishRejection {
    /// The message breaks a rule; it is rejected every time until it is changed.
    #[error(transparent)]
    Invalid(#[from] InvalidPublish),
    /// This node does not own the topic's shard, or no longer owns it.
    #[error("this node does not own the topic's shard; {}", match .owner {
        Some(owner) => format!("send it to {owner}"),
        None => "no owner is known yet".to_owned(),
    })]
    NotOwner {
        /// The owner as far as this node knows.
        owner: Option<NodeId>,
    },
    /// A limit was reached; the same publish may succeed later.
    #[error("too busy: {0}; retry after a pause")]
    Overloaded(#[from] OverloadReason),
    /// The caller may not publish to the topic.
    #[error("{0}")]
    NotAllowed(String),
    /// The message would create a topic beyond the limit of its namespace or of its owner.
    #[error("too many topics: {0}")]
    TooManyTopics(#[from] TopicLimit),
    /// The message is not the next of its producer's messages to the topic: an earlier one is missing, or
    /// the producer has begun a higher epoch, or the shard no longer knows the producer.
    #[error("message {received} of its producer is out of sequence: {}; send those before it first, or \
             begin a higher epoch with sequence 1", match .expected {
        Some(expected) => format!("the topic's next is {expected}"),
        None => "the topic does not know the producer".to_owned(),
    })]
    OutOfSequence {
        /// The received sequence.
        received: ProducerSequence,
        /// The sequence that would be accepted; `None` when the shard does not know the producer.
        expected: Option<ProducerSequence>,
    },
    /// The shard has no owner that can commit; the same publish may succeed later.
    #[error("unavailable: {0}; retry after a pause")]
    Unavailable(#[from] UnavailableReason),
}

impl PublishError {
    /// An unknown outcome of a publish that is not known to be idempotent.
    pub fn unknown(reason: impl Into<String>) -> PublishError {
        PublishError::Unknown { reason: reason.into(), idempotent: false }
    }

    /// This error as the outcome of a publish that is or is not idempotent. Only [`PublishError::Unknown`]
    /// changes.
    pub fn with_idempotency(self, is_idempotent: bool) -> PublishError {
        match self {
            PublishError::Unknown { reason, .. } => {
                PublishError::Unknown { reason, idempotent: is_idempotent }
            }
            rejected => rejected,
        }
    }

    /// Whether the same publish may succeed later without being stored twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            PublishError::Rejected(rejection) => !matches!(
                rejection,
                PublishRejection::Invalid(_)
                    | PublishRejection::NotAllowed(_)
                    | PublishRejection::TooManyTopics(_)
            ),
            PublishError::Unknown { idempotent, .. } => *idempotent,
        }
    }
}

impl From<InvalidPublish> for PublishError {
    fn from(invalid: InvalidPublish) -> PublishError {
        PublishRejection::from(invalid).into()
    }
}

impl From<OverloadReason> for PublishError {
    fn from(reason: OverloadReason) -> PublishError {
        PublishRejection::from(reason).into()
    }
}

impl From<UnavailableReason> for PublishError {
    fn from(reason: UnavailableReason) -> PublishError {
        PublishRejection::from(reason).into()
    }
}

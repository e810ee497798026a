//! How a publish ends when it is not acknowledged.

use crate::{InvalidPublish, NodeId};

/// A publish has three outcomes: acknowledged, refused, unknown. These are the two that are no
/// acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing happened, and nothing will.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have happened, or may still. Keys are not recognised yet: a retry may place it twice.
    #[error("the outcome is unknown ({0}); a retry may place it twice")]
    Unknown(String),
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
    /// The shard has no owner that can commit; later it may have.
    #[error("unavailable: {0}; retry after a pause")]
    Unavailable(String),
}

impl PublishError {
    /// Whether the same publish may succeed later, with nothing having happened now.
    pub fn retryable(&self) -> bool {
        match self {
            PublishError::Refused(refusal) => !matches!(refusal, Refusal::Invalid(_)),
            PublishError::Unknown(_) => false,
        }
    }
}

impl From<InvalidPublish> for PublishError {
    fn from(invalid: InvalidPublish) -> PublishError {
        PublishError::Refused(Refusal::Invalid(invalid))
    }
}

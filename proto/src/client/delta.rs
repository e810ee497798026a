//! The one kind of difference that there is.

use bytes::Bytes;
use pushonce_core::{MessageKey, Position, Timestamp};

use super::{ErrorCode, InvalidFrame};

/// A message as its difference from the one right before it in its topic, whose content type it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDelta {
    /// Its place in the topic.
    pub position: Position,
    /// When its owner proposed it.
    pub time: Timestamp,
    /// The publisher's name for it.
    pub key: Option<MessageKey>,
    /// What makes its payload out of that of the message before, in the fossil format. Never empty.
    pub delta: Bytes,
}

/// The delta format of the Fossil version control system (fossil-scm.org, "Delta Format"); the
/// package `fossil-delta` of npm reads it.
pub(super) const FOSSIL: &str = "fossil";

/// Whether a kind that a client named is that one.
pub(super) fn is_fossil(kind: &str) -> Result<bool, InvalidFrame> {
    let message = "`delta` is \"fossil\"; leave it out for whole messages";
    let wrong = || InvalidFrame::new(ErrorCode::NotSupported, message);
    (kind == FOSSIL).then_some(true).ok_or_else(wrong)
}

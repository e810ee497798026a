//! Messages as deltas in the fossil format, the only supported format.

use bytes::Bytes;
use pushonce_core::{MessageKey, Position, Timestamp};

use super::{ErrorCode, InvalidFrame};

/// A message as a delta to the message right before it in its topic, with the same content type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDelta {
    /// The position of the message in its topic.
    pub position: Position,
    /// The time at which the owner proposed the message.
    pub time: Timestamp,
    /// The publisher's key for the message.
    pub key: Option<MessageKey>,
    /// The delta that turns the previous payload into this one, in the fossil format. Never empty.
    pub delta: Bytes,
}

/// The delta format of the Fossil version control system (fossil-scm.org, "Delta Format"). The npm package
/// `fossil-delta` applies it.
pub(super) const FOSSIL: &str = "fossil";

/// Checks that the delta format requested by a client is [`FOSSIL`].
pub(super) fn is_fossil(kind: &str) -> Result<bool, InvalidFrame> {
    let message = "`delta` must be \"fossil\"; omit it to receive whole messages";
    let invalid = || InvalidFrame::new(ErrorCode::NotSupported, message);
    (kind == FOSSIL).then_some(true).ok_or_else(invalid)
}

//! How a client can break the protocol, and the close code of each violation.

/// A rule of RFC 6455 or RFC 7692 that a client broke. The connection cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (close code {code})")]
pub struct ProtocolViolation {
    /// The close code of the rule (RFC 6455, 7.4.1): 1002, 1007 or 1009.
    pub code: u16,
    /// What the client did.
    pub reason: &'static str,
}

impl ProtocolViolation {
    pub(crate) const TOO_LONG: ProtocolViolation =
        ProtocolViolation { code: 1009, reason: "the message is too long for this server" };

    pub(crate) const TOO_MANY_FRAGMENTS: ProtocolViolation =
        ProtocolViolation { code: 1009, reason: "the message has too many fragments" };

    pub(crate) const NOT_DEFLATE: ProtocolViolation = ProtocolViolation {
        code: 1007,
        reason: "the message is marked as compressed, but is not deflate data",
    };

    pub(crate) const NOT_UTF8: ProtocolViolation =
        ProtocolViolation { code: 1007, reason: "the text message is not UTF-8" };

    pub(crate) const CLOSE_REASON_NOT_UTF8: ProtocolViolation =
        ProtocolViolation { code: 1007, reason: "the close reason is not UTF-8" };

    /// Whether the message exceeds [`DecoderLimits::message_bytes_max`](crate::DecoderLimits::message_bytes_max).
    pub fn is_too_long(&self) -> bool {
        *self == ProtocolViolation::TOO_LONG
    }

    /// Any violation that has no close code of its own.
    pub(crate) const fn protocol_error(reason: &'static str) -> ProtocolViolation {
        ProtocolViolation { code: 1002, reason }
    }
}

//! The close codes of a session: one table for every transport. The number is a WebSocket close code and,
//! on QUIC, the application error code of the connection.
//!
//! The meaning of a number never changes. A number that is no longer used moves to [`RETIRED`] and is never
//! used again. `README.md` beside this crate publishes the table, and a test compares the two.

/// A close code, its reason, and what the client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode {
    /// The number on the wire.
    pub code: u16,
    /// The reason on the wire, short enough for a close frame (123 bytes).
    pub reason: &'static str,
    /// What the client does next.
    pub reconnect: Reconnect,
}

/// What a client does after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// The client reconnects to this or another server and resumes.
    Yes,
    /// The client reconnects after a longer pause, since the server is overloaded.
    Later,
    /// The client does not reconnect: the session would fail again until the client's program changes.
    No,
}

/// The client closed the session.
pub const NORMAL: CloseCode = entry(1000, "normal", Reconnect::No);
/// The node shuts down.
pub const GOING_AWAY: CloseCode = entry(1001, "going_away", Reconnect::Yes);
/// The client violated the rules of the transport.
pub const PROTOCOL_ERROR: CloseCode = entry(1002, "protocol_error", Reconnect::No);
/// A binary frame in a JSON session, or a text frame in a protobuf session.
pub const UNSUPPORTED: CloseCode = entry(1003, "unsupported", Reconnect::No);
/// A text frame that is not UTF-8, or a frame marked as compressed that cannot be decompressed.
pub const BAD_DATA: CloseCode = entry(1007, "bad_data", Reconnect::No);
/// A frame is longer than the limit.
pub const TOO_BIG: CloseCode = entry(1009, "too_big", Reconnect::No);
/// The server failed.
pub const INTERNAL: CloseCode = entry(1011, "internal", Reconnect::Later);
/// The data is not a frame of the protocol, or the query that opened the session is invalid.
pub const BAD_FRAME: CloseCode = entry(4400, "bad_frame", Reconnect::No);
/// The token of the session is not valid.
pub const NOT_AUTHENTICATED: CloseCode = entry(4401, "not_authenticated", Reconnect::No);
/// The token of the session expired and was not renewed in time.
pub const TOKEN_EXPIRED: CloseCode = entry(4402, "token_expired", Reconnect::Yes);
/// The token of the session, or its subject, was revoked.
pub const REVOKED: CloseCode = entry(4403, "revoked", Reconnect::No);
/// The client did not read for too long, and the queue of responses to it is full.
pub const SLOW: CloseCode = entry(4408, "slow", Reconnect::Later);
/// The client sent nothing, not even a pong, for too long.
pub const IDLE: CloseCode = entry(4409, "idle", Reconnect::Yes);
/// The session reached the maximum age of sessions.
pub const SESSION_AGE: CloseCode = entry(4410, "session_age", Reconnect::Yes);
/// The session or its address exceeded a limit.
pub const OVER_LIMIT: CloseCode = entry(4429, "over_limit", Reconnect::Later);
/// The node is overloaded; the `goaway` frame before the close says when to reconnect.
pub const OVERLOADED: CloseCode = entry(4508, "overloaded", Reconnect::Later);
/// The node drains: it closes its sessions a few at a time.
pub const DRAINING: CloseCode = entry(4503, "draining", Reconnect::Later);

/// Every code in use, in ascending order.
pub const TABLE: &[CloseCode] = &[
    NORMAL,
    GOING_AWAY,
    PROTOCOL_ERROR,
    UNSUPPORTED,
    BAD_DATA,
    TOO_BIG,
    INTERNAL,
    BAD_FRAME,
    NOT_AUTHENTICATED,
    TOKEN_EXPIRED,
    REVOKED,
    SLOW,
    IDLE,
    SESSION_AGE,
    OVER_LIMIT,
    DRAINING,
    OVERLOADED,
];

/// Numbers that are no longer used and must not be reused.
pub const RETIRED: &[u16] = &[];

/// Finds the entry of a number. A client treats a number that is not in its table as [`Reconnect::Yes`].
pub fn from_code(code: u16) -> Option<&'static CloseCode> {
    TABLE.iter().find(|close| close.code == code)
}

const fn entry(code: u16, reason: &'static str, reconnect: Reconnect) -> CloseCode {
    CloseCode { code, reason, reconnect }
}

impl Reconnect {
    /// The word in the published table.
    pub fn as_str(self) -> &'static str {
        match self {
            Reconnect::Yes => "yes",
            Reconnect::Later => "later",
            Reconnect::No => "no",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_codes_and_reasons_are_unique() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
        for close in TABLE {
            assert_eq!(TABLE.iter().filter(|other| other.reason == close.reason).count(), 1);
            assert!(close.reason.len() <= 123);
        }
    }

    #[test]
    fn retired_codes_are_not_in_the_table() {
        assert!(RETIRED.iter().all(|&code| from_code(code).is_none()));
    }

    #[test]
    fn codes_are_in_the_ranges_that_websocket_allows() {
        // RFC 6455 defines 1000 to 1015 and leaves 4000 to 4999 to applications.
        assert!(
            TABLE.iter().all(|c| (1000..1015).contains(&c.code) || (4000..5000).contains(&c.code))
        );
    }

    #[test]
    fn known_code_is_found_and_unknown_code_is_not() {
        assert_eq!(from_code(4503), Some(&DRAINING));
        assert_eq!(from_code(4999), None);
    }
}

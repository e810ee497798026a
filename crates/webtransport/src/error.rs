//! Violations of HTTP/3, and their error codes.

/// The code with which a connection ends that broke no rule (RFC 9114, 8.1).
pub const NO_ERROR: u32 = 0x100;

/// A client broke a rule of HTTP/3: its connection must be closed with [`ConnectionError::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// A second stream of a kind that exists once, or a stream that only servers open.
    #[error("a client opens one control stream, one QPACK stream of each kind, and no push stream")]
    StreamCreation,
    /// A stream ended that lives as long as the connection.
    #[error("the control stream and the QPACK streams must not end before the connection")]
    ClosedCriticalStream,
    /// A frame on a stream where its type must not occur.
    #[error("a frame of type {kind:#x} must not occur here")]
    FrameUnexpected {
        /// The type of the frame.
        kind: u64,
    },
    /// A frame whose content is not complete or not valid.
    #[error("a frame is truncated or its content is invalid")]
    Frame,
    /// The peer sends much that has no meaning, or a frame over the limit.
    #[error("a frame is over the limit, or too many bytes were sent that have no meaning here")]
    ExcessiveLoad,
    /// The session of a stream is no request of the connection.
    #[error("a stream names a session that is no request of this connection")]
    Id,
    /// SETTINGS with a setting twice, or with one of HTTP/2.
    #[error("the SETTINGS have a setting twice, or one of HTTP/2")]
    Settings,
    /// The first frame of the control stream is no SETTINGS.
    #[error("the first frame of the control stream must be SETTINGS")]
    MissingSettings,
    /// A request whose header fields QPACK cannot decode.
    #[error(
        "the header fields of a request cannot be decoded; the dynamic table has a capacity of 0"
    )]
    QpackDecompression,
    /// A request that ended before its header fields were complete.
    #[error("a request ended before its header fields were complete")]
    RequestIncomplete,
    /// A second request, or a second stream of the session.
    #[error("a connection has one session with one bidirectional stream")]
    General,
}

impl ConnectionError {
    /// The error code of HTTP/3 (RFC 9114, 8.1), WebTransport or QPACK.
    pub fn code(self) -> u32 {
        match self {
            ConnectionError::General => 0x101,
            ConnectionError::StreamCreation => 0x103,
            ConnectionError::ClosedCriticalStream => 0x104,
            ConnectionError::FrameUnexpected { .. } => 0x105,
            ConnectionError::Frame => 0x106,
            ConnectionError::ExcessiveLoad => 0x107,
            ConnectionError::Id => 0x108,
            ConnectionError::Settings => 0x109,
            ConnectionError::MissingSettings => 0x10a,
            ConnectionError::RequestIncomplete => 0x10d,
            ConnectionError::QpackDecompression => 0x200,
        }
    }
}

//! The session of the conformance suite: everything of a session except the meaning of its messages.

use bytes::Bytes;
use pushonce_websocket::{IncomingMessage, frame};

/// The path of the handshake.
pub(crate) const PATH: &str = "/echo";

/// The frame that returns a data message; `None` for other frames. `deflate`: permessage-deflate was negotiated.
pub(super) fn frame(message: &IncomingMessage, deflate: bool) -> Option<Bytes> {
    match (message, deflate) {
        (IncomingMessage::Text(payload), false) => Some(frame::text(payload)),
        (IncomingMessage::Text(payload), true) => Some(frame::compressed_text(payload)),
        (IncomingMessage::Binary(payload), false) => Some(frame::binary(payload)),
        (IncomingMessage::Binary(payload), true) => Some(frame::compressed_binary(payload)),
        _ => None,
    }
}

//! How much of a client is received, by what is known of its credential.
//!
//! A frame is held in memory before its request can be judged. A stranger could make a node hold megabytes on each
//! connection, so until a credential was verified a frame is small. While one is verified nothing is received: a client
//! may send its token and a large publish at once, and only the result says whether that publish is too large.

use pushonce_proto::close::{self, CloseCode};

use super::{AccessGate, Session};

/// Maximum bytes of a frame, on the wire and inflated, until a credential was verified. A token has at most 8 KiB, and a
/// subscribe request less than one.
pub(crate) const UNAUTHENTICATED_FRAME_BYTES_MAX: usize = 16 << 10;

/// What a session receives now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiveState {
    /// Frames as large as the namespaces allow.
    Open,
    /// Frames of at most [`UNAUTHENTICATED_FRAME_BYTES_MAX`]: no credential was verified yet.
    Restricted,
    /// Nothing: a credential is being verified.
    Waiting,
}

impl ReceiveState {
    /// The bound of a frame, where `open_max` is that of a session with a verified credential.
    pub(crate) fn frame_bytes_max(self, open_max: usize) -> usize {
        match self {
            ReceiveState::Open => open_max,
            ReceiveState::Restricted | ReceiveState::Waiting => {
                open_max.min(UNAUTHENTICATED_FRAME_BYTES_MAX)
            }
        }
    }
}

impl Session {
    /// What the session receives now. Without a token a session may only read, even where a namespace is open to
    /// everyone: it has no use for larger frames.
    pub(crate) fn receive_state(&self, gate: &dyn AccessGate) -> ReceiveState {
        match &self.access {
            _ if gate.is_open() => ReceiveState::Open,
            Some(access) if access.is_pending() => ReceiveState::Waiting,
            Some(access) if access.caller.is_some() => ReceiveState::Open,
            _ => ReceiveState::Restricted,
        }
    }

    /// How a session ends whose frame exceeds the bound; `text` describes the frame.
    pub(crate) fn too_large(
        &self,
        gate: &dyn AccessGate,
        text: &str,
    ) -> (&'static CloseCode, String) {
        let max = UNAUTHENTICATED_FRAME_BYTES_MAX;
        match (self.receive_state(gate), &self.access) {
            (ReceiveState::Open, _) => (&close::TOO_BIG, text.to_owned()),
            // The keys of its issuer were not available: a client that sent a valid token may connect again.
            (_, Some(_)) => {
                let text = format!(
                    "the token was not verified, and without one a frame has at most {max} bytes; retry later"
                );
                (&close::OVER_LIMIT, text)
            }
            (_, None) => {
                let text =
                    format!("authenticate first: before that a frame has at most {max} bytes");
                (&close::TOO_BIG, text)
            }
        }
    }
}

//! Why a connection cannot be opened.

use super::SessionEnd;
use crate::server_address::ServerAddress;

/// Why there is no connection to a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address or the trusted certificates cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The certificate of the server is not accepted. The text says why, and what to change.
    #[error("{0}")]
    Certificate(String),
    /// The server cannot be reached, or does not answer as a server.
    #[error("{server}: {reason}")]
    Unreachable {
        /// The server.
        server: ServerAddress,
        /// The reason.
        reason: String,
    },
}

impl ConnectError {
    /// Whether a later attempt with the same settings may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, ConnectError::Unreachable { .. })
    }
}

impl From<ConnectError> for SessionEnd {
    fn from(error: ConnectError) -> SessionEnd {
        match error {
            ConnectError::Invalid(reason) => SessionEnd::permanent(reason),
            ConnectError::Certificate(rejection) => SessionEnd::untrusted(rejection),
            // The event of the subscriber names the server.
            ConnectError::Unreachable { reason, .. } => SessionEnd::retryable(reason),
        }
    }
}

//! How the nodes secure their connections and prove who they are.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

use crate::DialError;

/// What a node presents to its peers and demands of them. Both ends of every connection between nodes are
/// made here.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Plain text: a greeting is believed. The network between the nodes must be trusted.
    #[default]
    Plaintext,
}

impl Credentials {
    /// The endpoint of a peer.
    pub(crate) fn endpoint(
        &self,
        address: &str,
        connect_timeout: Duration,
    ) -> Result<Endpoint, DialError> {
        let scheme = match self {
            Credentials::Plaintext => "http",
        };
        let invalid = |error| {
            DialError::Unreachable(format!("{address} is not a valid peer address: {error}"))
        };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(invalid)?;
        Ok(endpoint.connect_timeout(connect_timeout).tcp_nodelay(true))
    }

    /// The server of the peer port.
    pub(crate) fn server(&self) -> Server {
        match self {
            Credentials::Plaintext => Server::builder(),
        }
    }
}

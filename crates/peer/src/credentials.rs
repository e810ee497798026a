//! How nodes secure their connections and authenticate each other.

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

#[cfg(test)]
mod tests {
    use pushonce_core::HostPort;

    use super::*;

    #[test]
    fn every_address_that_a_join_accepts_can_be_dialled() {
        for text in ["127.0.0.1:1", "[::1]:7091", "a:65535", "n-1.eu_west.example.:7091"] {
            let address: HostPort = text.parse().expect("a valid address");
            let endpoint =
                Credentials::Plaintext.endpoint(&address.to_string(), Duration::from_secs(1));
            assert!(endpoint.is_ok(), "{text}");
        }
    }
}

//! How nodes secure their connections and authenticate each other.

use std::time::Duration;

use pushonce_core::{NodeId, SpiffeId};
use tonic::transport::{Channel, Endpoint, Server};
use tower::layer::util::{Identity, Stack};

use crate::tls::{RequireCertificateLayer, TlsConnector};
use crate::{DialError, MutualTls};

/// What a node presents to its peers and demands of them. Both ends of every connection between nodes are
/// made here. There is no fallback from one kind to the other.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Plain text: a greeting is believed. The network between the nodes must be trusted.
    #[default]
    Plaintext,
    /// Mutual TLS: a greeting must agree with the certificate of the connection.
    MutualTls(MutualTls),
}

/// The server of the peer port: it rejects calls without a certificate before they reach a service.
pub type PeerServer = Server<Stack<RequireCertificateLayer, Identity>>;

impl Credentials {
    /// The node of the certificate; `None` without TLS.
    pub fn node(&self) -> Option<SpiffeId> {
        match self {
            Credentials::Plaintext => None,
            Credentials::MutualTls(tls) => Some(tls.node()),
        }
    }

    /// Connects to an endpoint. With `expected`, the certificate of the peer must name this node.
    pub(crate) async fn connect(
        &self,
        endpoint: &Endpoint,
        expected: Option<NodeId>,
    ) -> Result<Channel, tonic::transport::Error> {
        match self {
            Credentials::Plaintext => endpoint.connect().await,
            Credentials::MutualTls(tls) => {
                let connector = TlsConnector::for_member(tls.clone(), expected);
                endpoint.connect_with_connector(connector).await
            }
        }
    }

    /// Connects to an endpoint at the first call.
    pub(crate) fn connect_lazy(&self, endpoint: &Endpoint, expected: NodeId) -> Channel {
        match self {
            Credentials::Plaintext => endpoint.connect_lazy(),
            Credentials::MutualTls(tls) => {
                let connector = TlsConnector::for_member(tls.clone(), Some(expected));
                endpoint.connect_with_connector_lazy(connector)
            }
        }
    }

    /// The server of the peer port.
    pub(crate) fn server(&self) -> PeerServer {
        let is_secured = matches!(self, Credentials::MutualTls(_));
        Server::builder().layer(RequireCertificateLayer { is_secured })
    }
}

/// The endpoint of a peer. The scheme is that of plain text for all: TLS is added by the connector.
pub(crate) fn endpoint(address: &str, connect_timeout: Duration) -> Result<Endpoint, DialError> {
    let invalid =
        |error| DialError::Unreachable(format!("{address} is not a valid peer address: {error}"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(invalid)?;
    Ok(endpoint.connect_timeout(connect_timeout).tcp_nodelay(true))
}

#[cfg(test)]
mod tests {
    use pushonce_core::HostPort;

    use super::*;

    #[test]
    fn every_address_that_a_join_accepts_can_be_dialled() {
        for text in ["127.0.0.1:1", "[::1]:7091", "a:65535", "n-1.eu_west.example.:7091"] {
            let address: HostPort = text.parse().expect("a valid address");
            let endpoint = endpoint(&address.to_string(), Duration::from_secs(1));
            assert!(endpoint.is_ok(), "{text}");
        }
    }
}

//! The dialling side of a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use pushonce_core::NodeId;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tonic::codegen::http::Uri;
use tower::Service;

use super::connection::{PeerConnection, PeerInfo};
use super::incoming::remaining_validity;
use super::mutual_tls::{server_name, set_client_options};
use super::verifier::{AuthorityPin, ServerVerifier, TrustAnchor, named_node, rejection_of};
use super::{CertificateRejection, MutualTls};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the address of a node over TLS. Each connection uses the files that were read last.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    tcp: HttpConnector,
    identity: Identity,
}

#[derive(Clone)]
enum Identity {
    /// A member, which expects this node; `None` for any node of its cluster.
    Member(MutualTls, Option<NodeId>),
    /// A node that joins with a token.
    Joiner(AuthorityPin),
}

/// The node that was dialled does not speak TLS.
#[derive(Debug, thiserror::Error)]
#[error(
    "the peer does not speak TLS: give it --peer-cert, --peer-key and --peer-ca, or correct the dialled \
     address"
)]
struct PlaintextPeer;

impl TlsConnector {
    /// The connector of a member. With `expected`, another node of the cluster is rejected.
    pub(crate) fn for_member(tls: MutualTls, expected: Option<NodeId>) -> TlsConnector {
        TlsConnector::new(Identity::Member(tls, expected))
    }

    /// The connector of a node that joins with a token.
    pub(crate) fn for_joiner(pin: AuthorityPin) -> TlsConnector {
        TlsConnector::new(Identity::Joiner(pin))
    }

    fn new(identity: Identity) -> TlsConnector {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        TlsConnector { tcp, identity }
    }

    fn client_config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        match &self.identity {
            Identity::Member(tls, _) => Ok(tls.loaded().client.clone()),
            Identity::Joiner(pin) => joiner_config(*pin).map(Arc::new),
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<PeerConnection<TcpStream>, BoxError> {
        let address = tcp.peer_addr().ok();
        let connector = tokio_rustls::TlsConnector::from(self.client_config()?);
        let stream = connector.connect(server_name()?, tcp).await.map_err(handshake_error)?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = certificates.first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let cluster = match &self.identity {
            Identity::Member(tls, _) => tls.node().cluster,
            Identity::Joiner(pin) => pin.cluster,
        };
        let peer = named_node(certificate, cluster)?;
        if let Identity::Member(_, Some(expected)) = self.identity
            && peer.node != expected
        {
            return Err(CertificateRejection::OtherNode { node: peer.node, expected }.into());
        }
        let validity = remaining_validity(certificate, SystemTime::now());
        let info = PeerInfo { address, node: Some(peer) };
        Ok(PeerConnection::tls(stream.into(), info, validity))
    }
}

impl Service<Uri> for TlsConnector {
    type Response = TokioIo<PeerConnection<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let (tcp, connector) = (self.tcp.call(address), self.clone());
        Box::pin(async move {
            let tcp = tcp.await?.into_inner();
            Ok(TokioIo::new(connector.handshake(tcp).await?))
        })
    }
}

fn joiner_config(pin: AuthorityPin) -> Result<ClientConfig, rustls::Error> {
    let verifier = ServerVerifier { cluster: pin.cluster, anchor: TrustAnchor::Pin(pin.authority) };
    let mut client = ClientConfig::builder_with_provider(pushonce_tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    set_client_options(&mut client);
    Ok(client)
}

/// The reason in words, in place of the one of the library where it names what to change.
fn handshake_error(error: std::io::Error) -> BoxError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => PlaintextPeer.into(),
        Some(tls) => match rejection_of(tls) {
            Some(rejection) => rejection.into(),
            None => error.into(),
        },
        None => error.into(),
    }
}

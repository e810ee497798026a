//! QUIC connections of a hostile client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use pushonce_cluster_tests::hostile::STRANGER;
use pushonce_cluster_tests::secs;
use pushonce_core::{StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding};
use pushonce_proto::delimited;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;

/// A connection from [`STRANGER`].
pub(crate) struct QuicStranger {
    pub(crate) connection: Connection,
    pub(crate) endpoint: Endpoint,
}

impl QuicStranger {
    /// Connects and completes the handshake.
    pub(crate) async fn connect(server: SocketAddr) -> QuicStranger {
        QuicStranger::connect_with(server, |_| {}).await
    }

    /// As [`QuicStranger::connect`], with other transport parameters.
    pub(crate) async fn connect_with(
        server: SocketAddr,
        change: impl FnOnce(&mut TransportConfig),
    ) -> QuicStranger {
        let endpoint = Endpoint::client((STRANGER, 0).into()).expect("an address of this host");
        let connecting = endpoint.connect_with(client_config(change), server, "localhost");
        let connecting = timeout(secs(20), connecting.expect("valid"));
        let connection = connecting.await.expect("an answer").expect("a handshake");
        QuicStranger { connection, endpoint }
    }

    /// Waits until the node closes the connection, and returns its code.
    pub(crate) async fn close_code(&self) -> u64 {
        match timeout(secs(60), self.connection.closed()).await {
            Ok(ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
            Ok(other) => panic!("the connection ended without a close code: {other}"),
            Err(_) => panic!("the node keeps the connection"),
        }
    }
}

/// A client that trusts any certificate, and would send early data.
pub(crate) fn client_config(change: impl FnOnce(&mut TransportConfig)) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"pushonce/1".to_vec()];
    tls.enable_early_data = true;
    let crypto = QuicClientConfig::try_from(tls).expect("a cipher suite");
    let mut transport = TransportConfig::default();
    change(&mut transport);
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    config
}

/// The first datagrams of a client, which never sends more.
pub(crate) fn first_datagrams(server: SocketAddr) -> Vec<Vec<u8>> {
    let (now, config) = (Instant::now(), client_config(|_| {}));
    let settings = Arc::new(quinn_proto::EndpointConfig::default());
    let mut endpoint = quinn_proto::Endpoint::new(settings, None, true, None);
    let (_, mut connection) = endpoint.connect(now, config, server, "localhost").expect("valid");
    let (mut datagrams, mut buffer) = (Vec::new(), Vec::new());
    while connection.poll_transmit(now, 1, &mut buffer).is_some() {
        datagrams.push(std::mem::take(&mut buffer));
    }
    datagrams
}

/// Whether a datagram is a Retry packet (RFC 9000, 17.2.5): the client must prove its address.
pub(crate) fn is_retry(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xf0 == 0xf0)
}

/// A request to subscribe to a topic, as it is sent on the control stream.
pub(crate) fn subscribe_frame(id: u64, topic: &str) -> Vec<u8> {
    let command = ClientCommand::Subscribe {
        topic: Topic::new(topic).expect("a valid topic"),
        from: StartFrom::Now,
        options: SubscribeOptions::default(),
    };
    let request = ClientRequest { id: Some(id), command };
    delimited::encode(&Encoding::Proto.encode_request(&request)).to_vec()
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

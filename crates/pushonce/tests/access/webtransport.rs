//! A subscription over WebTransport, with the token in the request of the session.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_proto::delimited;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use web_transport_proto::{ConnectError, ConnectRequest, ConnectResponse, Frame, Settings, VarInt};

use crate::Grant;
use crate::node::TestNode;
use crate::paths::Outcome;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

pub fn subscription(node: &TestNode, grant: Grant) -> BoxFuture<'_, Outcome> {
    let answer = first_answer(node, grant);
    async move { tokio::time::timeout(ANSWER_TIMEOUT, answer).await.expect("an answer") }.boxed()
}

async fn first_answer(node: &TestNode, grant: Grant) -> Outcome {
    let (_endpoint, connection) = connect(node).await;
    let mut control = connection.open_uni().await.expect("a stream");
    let mut settings = Settings::default();
    settings.enable_webtransport(1);
    settings.write(&mut control).await.expect("written");
    let (mut request, mut response) = connection.open_bi().await.expect("a stream");
    let url =
        format!("https://localhost:{}/webtransport?protocol=pushonce.v1.json", node.quic.port());
    let mut connect = ConnectRequest::new(url::Url::parse(&url).expect("a URL"));
    if let Some(token) = grant.token() {
        let value = format!("Bearer {token}").parse().expect("ASCII");
        connect = connect.with_header(http::header::AUTHORIZATION, value);
    }
    connect.write(&mut request).await.expect("written");
    match ConnectResponse::read(&mut response).await {
        Ok(_) => {}
        Err(ConnectError::WrongStatus(Some(status))) => return Outcome::from_http(status.as_u16()),
        Err(error) => panic!("no response: {error}"),
    }
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let mut bytes = Vec::new();
    Frame::WEBTRANSPORT.encode(&mut bytes);
    VarInt::from_u32(0).encode(&mut bytes);
    let frame = format!(r#"{{"id":1,"subscribe":{{"topic":"{}","from":"start"}}}}"#, grant.topic());
    bytes.extend_from_slice(&delimited::encode(frame.as_bytes()));
    send.write_all(&bytes).await.expect("written");
    let mut decoder = delimited::FrameDecoder::new(1 << 16);
    loop {
        let chunk = receive.read_chunk(1 << 16, true).await.expect("replies").expect("a reply");
        decoder.push(&chunk.bytes);
        if let Some(frame) = decoder.next().expect("a frame") {
            return Outcome::from_frame(&String::from_utf8_lossy(&frame));
        }
    }
}

async fn connect(node: &TestNode) -> (quinn::Endpoint, quinn::Connection) {
    let file = node.data().join(pushonce_quic::certificate::FILE_NAME);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).expect("a certificate")).expect("trusted");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("a cipher suite");
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = endpoint.connect_with(config, node.quic, "localhost").expect("valid");
    let connection = connecting.await.expect("connected");
    (endpoint, connection)
}

//! HTTP and WebSocket with TLS.

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use pushonce_core::{TicketKey, TicketKeys, Timestamp};
use pushonce_gateway::HttpsConfig;
use pushonce_proto::close;
use pushonce_quic::CertificateSource;
use pushonce_tls::test_util::TestAuthority;
use pushonce_tls::{CertificateStore, TicketCipher, server_config};
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use support::raw::{HANDSHAKE, RawConnection, client_frame};
use support::{TestGateway, with_timeout};

struct TlsGateway {
    server: TestGateway,
    authority: TestAuthority,
    certificates: CertificateStore,
    directory: tempfile::TempDir,
}

impl TlsGateway {
    async fn start() -> TlsGateway {
        TlsGateway::with_tickets(&keys(), |_| {}).await
    }

    async fn with_tickets(
        keys: &TicketKeys,
        change: impl FnOnce(&mut pushonce_gateway::Config),
    ) -> TlsGateway {
        let authority = TestAuthority::new();
        let directory = tempfile::tempdir().expect("a directory");
        let now = SystemTime::now();
        let files = authority.issue(now).write(directory.path());
        let certificates = CertificateStore::load("tls-cert", files, now).expect("valid files");
        let tickets = TicketCipher::new().expect("randomness");
        tickets.set_keys(keys).expect("valid keys");
        let tickets = Arc::new(tickets);
        let tls = server_config(&certificates, &[], Some(tickets.clone())).expect("valid settings");
        let quic = CertificateSource::Files(certificates.clone(), tickets);
        let server = TestGateway::with_certificate(Some(quic), |config| {
            config.https = Some(HttpsConfig { address: ([127, 0, 0, 1], 0).into(), tls });
            change(config);
        })
        .await;
        TlsGateway { server, authority, certificates, directory }
    }

    async fn tcp(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Small, so that the server soon detects a client that does not read.
        socket.set_recv_buffer_size(4 << 10).expect("set");
        let address = self.server.https.expect("HTTPS");
        with_timeout(socket.connect(address)).await.expect("connected")
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_with(self.authority.client_config(&[b"http/1.1"])).await
    }

    async fn connect_with(&self, config: rustls::ClientConfig) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(Arc::new(config));
        let connecting = connector.connect(name(), self.tcp().await);
        with_timeout(connecting).await.expect("a handshake")
    }

    async fn session(&self) -> RawConnection {
        let mut stream = self.connect().await;
        stream.write_all(HANDSHAKE.as_bytes()).await.expect("sent");
        let mut raw = RawConnection::over(stream);
        raw.expect_upgrade().await;
        raw
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

fn keys() -> TicketKeys {
    TicketKeys { current: TicketKey([7; 32]), previous: None, rotated_at: Timestamp(0) }
}

async fn subscribe(raw: &mut RawConnection, topic: &str) {
    let request = format!(r#"{{"id":1,"subscribe":{{"topic":"{topic}"}}}}"#);
    raw.send(&client_frame(0x81, request.as_bytes())).await;
    raw.read_text_containing("subscribed").await;
}

#[tokio::test]
async fn websocket_session_receives_messages_and_is_closed_cleanly() {
    let gateway = TlsGateway::start().await;
    let mut raw = gateway.session().await;
    subscribe(&mut raw, "a").await;
    gateway.server.cluster.publish_text("a", "over TLS").await;
    raw.read_text_containing("over TLS").await;
    raw.send(&client_frame(0x89, b"there?")).await;
    assert_eq!(raw.read_pong().await, b"there?");
    raw.send(&client_frame(0x88, &3000_u16.to_be_bytes())).await;
    assert_eq!(raw.read_close_code().await, 3000);
}

#[tokio::test]
async fn frame_in_the_record_of_the_upgrade_request_is_not_lost() {
    let gateway = TlsGateway::start().await;
    let mut stream = gateway.connect().await;
    let early = client_frame(0x81, br#"{"id":1,"subscribe":{"topic":"a"}}"#);
    stream.write_all(&[HANDSHAKE.as_bytes(), &early].concat()).await.unwrap();
    let mut raw = RawConnection::over(stream);
    raw.expect_upgrade().await;
    raw.read_text_containing("subscribed").await;
}

#[tokio::test]
async fn slow_reader_gets_every_large_message_in_order() {
    let gateway = TlsGateway::start().await;
    let mut raw = gateway.session().await;
    subscribe(&mut raw, "a").await;
    // Many records and more than the send buffer, but less than the ring of the topic (1 MiB): of more, a slow
    // reader may get a gap.
    const MESSAGES: u32 = 15;
    let text = |n: u32| format!("<{n}>{}", "x".repeat(60_000));
    for n in 0..MESSAGES {
        gateway.server.cluster.publish_text("a", &text(n)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for n in 0..MESSAGES {
        raw.read_text_containing(&text(n)).await;
    }
}

#[tokio::test]
async fn large_publish_over_http_is_read_and_answered() {
    let gateway = TlsGateway::start().await;
    let body = "x".repeat(60_000);
    for step in [1_000, body.len()] {
        let mut stream = gateway.connect().await;
        let head = format!(
            "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        for chunk in body.as_bytes().chunks(step) {
            stream.write_all(chunk).await.unwrap();
        }
        let mut response = String::new();
        // A clean end: without the announcement of TLS the client reports an error.
        with_timeout(stream.read_to_string(&mut response)).await.expect("an announced end");
        assert!(response.starts_with("HTTP/1.1 20"), "{response}");
    }
}

#[tokio::test]
async fn requests_are_answered_over_http_2() {
    let gateway = TlsGateway::start().await;
    gateway.server.cluster.publish_text("a", "snapshot").await;
    let stream = gateway.connect_with(gateway.authority.client_config(&[b"h2"])).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) =
        with_timeout(hyper::client::conn::http2::handshake(executor, io)).await.unwrap();
    tokio::spawn(connection);
    for (path, status) in [("/topics/a", 200), ("/health/live", 200), ("/ws", 505)] {
        let request = http::Request::get(format!("https://localhost{path}"))
            .body(axum::body::Body::empty())
            .unwrap();
        let response = with_timeout(client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

/// The text of a response body up to `part`.
async fn read_until(body: &mut hyper::body::Incoming, part: &str) -> String {
    let mut text = String::new();
    while !text.contains(part) {
        let frame = with_timeout(body.frame()).await;
        let frame = frame.unwrap_or_else(|| panic!("the body ended: {text}")).expect("a frame");
        text += std::str::from_utf8(frame.data_ref().expect("data")).expect("text");
    }
    text
}

#[tokio::test]
async fn event_streams_share_a_connection_of_http_2() {
    let gateway = TlsGateway::with_tickets(&keys(), |config| {
        config.heartbeat = Duration::from_millis(500);
    })
    .await;
    let stream = gateway.connect_with(gateway.authority.client_config(&[b"h2"])).await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (client, connection) =
        with_timeout(hyper::client::conn::http2::handshake(executor, io)).await.unwrap();
    tokio::spawn(connection);
    let open = async |path: &str| {
        let request = http::Request::get(format!("https://localhost{path}"))
            .header("accept", "text/event-stream")
            .body(axum::body::Body::empty())
            .unwrap();
        with_timeout(client.clone().send_request(request)).await.unwrap()
    };
    let refused = open("/topics/a?from=9:9").await;
    assert_eq!(refused.status(), 400);
    let response = open("/topics/a?from=start").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["pushonce-position"], "0:0");
    assert!(!response.headers().contains_key("connection"));
    let mut single = response.into_body();
    let mut several = open("/sse?topic=a&topic=b").await.into_body();
    let mut unread = open("/topics/a").await.into_body();
    read_until(&mut several, "id: 0:0,0:0\n\n").await;
    gateway.server.cluster.publish_text("a", "goal").await;
    read_until(&mut single, "data: goal\nid: 7:1\n\n").await;
    read_until(&mut several, "id: 7:1,0:0\n\n").await;
    read_until(&mut single, ":\n").await;
    // More than the buffers of a stream that is not read; the others go on.
    let text = "x".repeat(10_000);
    for n in 2..=50 {
        gateway.server.cluster.publish_text("a", &text).await;
        read_until(&mut single, &format!("id: 7:{n}\n\n")).await;
    }
    read_until(&mut unread, "id: 7:3\n\n").await;
    drop(unread);
    gateway.server.stop();
    read_until(&mut single, "event: rotate").await;
    read_until(&mut several, "event: rotate").await;
    while with_timeout(single.frame()).await.is_some_and(|frame| frame.is_ok()) {}
}

#[tokio::test]
async fn event_stream_over_tls_ends_cleanly() {
    let gateway = TlsGateway::start().await;
    let mut stream = gateway.connect().await;
    stream.write_all(b"GET /sse?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut raw = RawConnection::over(stream);
    assert!(raw.read_head().await.contains("text/event-stream"));
    while !raw.read_block().await.expect("a block").contains("id: 0:0") {}
    gateway.server.cluster.publish_text("a", "over TLS").await;
    assert!(raw.read_event().await.is_some_and(|event| event.contains("over TLS")));
    gateway.server.stop();
    assert!(raw.read_event().await.is_some_and(|event| event.contains("event: rotate")));
    assert_eq!(raw.read_event().await, None);
}

#[tokio::test]
async fn other_protocols_and_cut_handshakes_do_not_disturb_others() {
    let gateway = TlsGateway::start().await;
    let mut raw = gateway.session().await;
    subscribe(&mut raw, "a").await;
    for input in [&b"GET /ws HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02", b"\x16\x03", b""] {
        let mut client = gateway.tcp().await;
        client.write_all(input).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = with_timeout(client.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    gateway.server.cluster.publish_text("a", "still here").await;
    raw.read_text_containing("still here").await;
}

#[tokio::test]
async fn tls_on_the_plain_port_is_answered_in_plain_text() {
    let gateway = TlsGateway::start().await;
    let connector = TlsConnector::from(Arc::new(gateway.authority.client_config(&[])));
    let stream = TcpStream::connect(gateway.server.http).await.unwrap();
    assert!(with_timeout(connector.connect(name(), stream)).await.is_err());
}

#[tokio::test]
async fn client_that_stalls_in_the_handshake_is_disconnected() {
    let timeout = Duration::from_millis(300);
    let gateway =
        TlsGateway::with_tickets(&keys(), |config| config.handshake_timeout = timeout).await;
    for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut client = gateway.tcp().await;
        client.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = with_timeout(client.read_to_end(&mut answer)).await;
    }
    gateway.session().await;
}

#[tokio::test]
async fn session_survives_a_certificate_reload_and_new_clients_get_the_new_certificate() {
    let gateway = TlsGateway::start().await;
    let mut raw = gateway.session().await;
    subscribe(&mut raw, "a").await;
    let served = async || {
        let stream = gateway.connect().await;
        stream.get_ref().1.peer_certificates().unwrap().to_vec()
    };
    let before = served().await;
    gateway.authority.issue(SystemTime::now()).write(gateway.directory.path());
    gateway.certificates.reload(SystemTime::now());
    assert_ne!(served().await, before);
    gateway.server.cluster.publish_text("a", "after the reload").await;
    raw.read_text_containing("after the reload").await;
}

#[tokio::test]
async fn quic_has_the_same_certificate_and_its_connections_survive_a_reload() {
    let gateway = TlsGateway::start().await;
    let mut tls = gateway.authority.client_config(&[b"pushonce/1"]);
    // A resumed session keeps its certificate.
    tls.resumption = rustls::client::Resumption::disabled();
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("a cipher suite");
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let connect = async || {
        let connecting = endpoint.connect_with(config.clone(), gateway.server.quic, "localhost");
        with_timeout(connecting.expect("valid settings")).await.expect("a trusted certificate")
    };
    let chain = |connection: &quinn::Connection| {
        let chain = connection.peer_identity().expect("a certificate");
        *chain.downcast::<Vec<CertificateDer<'static>>>().expect("a chain")
    };
    let first = connect().await;
    assert_eq!(chain(&first), gateway.certificates.chain());
    gateway.authority.issue(SystemTime::now()).write(gateway.directory.path());
    gateway.certificates.reload(SystemTime::now());
    let second = connect().await;
    assert_eq!(first.close_reason(), None);
    assert_ne!(chain(&first), gateway.certificates.chain());
    assert_eq!(chain(&second), gateway.certificates.chain());
}

/// Each node has a certificate of an authority of its own, so that a client that trusts the first one can connect to
/// the second one only by resuming its session.
#[tokio::test]
async fn session_is_resumed_at_another_node_if_it_has_the_key_of_the_ticket() {
    let rotated = TicketKeys {
        current: TicketKey([8; 32]),
        previous: Some(keys().current),
        rotated_at: Timestamp(0),
    };
    let other = TicketKeys { current: TicketKey([9; 32]), ..keys() };
    for (second_keys, is_resumed) in [(rotated, true), (other, false)] {
        let first = TlsGateway::start().await;
        let second = TlsGateway::with_tickets(&second_keys, |_| {}).await;
        let connector = TlsConnector::from(Arc::new(first.authority.client_config(&[b"http/1.1"])));
        let mut stream =
            with_timeout(connector.connect(name(), first.tcp().await)).await.expect("trusted");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        // The ticket follows the handshake. It is processed with the first response.
        let request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        with_timeout(stream.read_u8()).await.unwrap();
        let resumed = with_timeout(connector.connect(name(), second.tcp().await)).await;
        assert_eq!(resumed.is_ok(), is_resumed);
        if let Ok(stream) = resumed {
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        }
    }
}

#[tokio::test]
async fn sessions_are_drained_with_a_close_code() {
    let gateway = TlsGateway::start().await;
    let mut raw = gateway.session().await;
    subscribe(&mut raw, "a").await;
    gateway.server.stop();
    assert_eq!(raw.read_close_code().await, close::GOING_AWAY.code);
    gateway.server.wait_until_stopped().await;
}

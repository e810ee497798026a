//! WebTransport: how a session is opened, refused and ended, and what breaks the rules of HTTP/3.

mod support;

use std::time::Duration;

use pushonce_core::StartFrom;
use pushonce_proto::client::{Encoding, ErrorCode, ServerEvent};
use pushonce_proto::close;
use pushonce_webtransport::{ConnectionError, NO_ERROR};
use web_transport_proto::{Capsule, Frame, Setting, StreamUni, VarInt};

use support::client::{GatewayClient, dial, publish};
use support::issuer::{self, Issuer};
use support::raw::RawConnection;
use support::webtransport::{WebTransportSession, client_settings};
use support::{TestGateway, with_timeout};

const TARGET: &str = "/webtransport?protocol=pushonce.v1.json";

/// The code with which the server closes a connection.
async fn close_code(connection: &quinn::Connection) -> u64 {
    match with_timeout(connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        error => panic!("{error}"),
    }
}

async fn closed_gateway(issuer: &Issuer) -> TestGateway {
    TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await
}

async fn ticket(server: &TestGateway, token: &str) -> String {
    let request = format!(
        "POST /tickets HTTP/1.1\r\nAuthorization: Bearer {token}\r\nHost: localhost\r\n\
         Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    let response = raw.read_to_end().await;
    let (_, rest) = response.split_once(r#""ticket":""#).expect("a ticket");
    rest.split('"').next().expect("its end").to_owned()
}

#[tokio::test]
async fn settings_are_those_that_each_browser_asks_for() {
    let server = TestGateway::start().await;
    let session = WebTransportSession::request(&server, TARGET, &[]).await;
    let value =
        |id: u32| session.settings.get(&Setting(VarInt::from_u32(id))).map(|v| v.into_inner());
    for id in [0x8, 0x33, 0x2b60_3742, 0x2b60_3743, 0xc671_706a, 0x14e9_cd29, 0x2c7c_f000] {
        assert_eq!(value(id), Some(1), "{id:#x}");
    }
    for id in [0x2b61, 0x2b64, 0x2b65] {
        assert!(value(id).is_some_and(|value| value > 0), "{id:#x}");
    }
}

#[tokio::test]
async fn protocol_of_the_offer_is_chosen_and_named() {
    let server = TestGateway::start().await;
    let offers = ["other", "pushonce.v1.json"].map(str::to_owned);
    let mut session = WebTransportSession::request_with(&server, "/webtransport", &[], |request| {
        request.with_protocols(offers)
    })
    .await;
    let response = session.response().await;
    assert_eq!((response.status, response.protocol.as_deref()), (200, Some("pushonce.v1.json")));
    let mut client = GatewayClient::over_webtransport(session, Encoding::Json).await;
    client.send(1, publish("a", "x")).await;
    assert!(matches!(client.next_reply().await, ServerEvent::Published { .. }));
}

#[tokio::test]
async fn other_requests_get_a_status_and_the_connection_ends() {
    let server = TestGateway::start().await;
    for (target, headers, status) in [
        ("/", &[][..], 404),
        ("/ws", &[], 404),
        ("/webtransport?topic=a", &[], 400),
        ("/webtransport?token=a", &[], 400),
        ("/webtransport", &[("origin", "https://evil.example")], 403),
        ("/webtransport", &[("authorization", "Basic YTpi")], 401),
    ] {
        let mut session = WebTransportSession::request(&server, target, headers).await;
        let response = session.response().await;
        assert_eq!(response.status, status, "{target}: {}", response.text);
        assert!(!response.text.is_empty());
        assert_eq!(close_code(&session.connection).await, u64::from(NO_ERROR), "{target}");
    }
}

/// As `curl --http3` sends it: GET, https, `/`, and the authority `a`, which ends with the request.
#[tokio::test]
async fn plain_http_3_request_gets_a_status() {
    const GET: &[u8] = &[1, 8, 0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1, 0x50, 1, b'a'];
    let server = TestGateway::start().await;
    let mut session = WebTransportSession::send_request(&server, GET).await;
    session.request.finish().expect("open");
    let response = session.response().await;
    assert_eq!(response.status, 405, "{}", response.text);
    assert_eq!(close_code(&session.connection).await, u64::from(NO_ERROR));
}

#[tokio::test]
async fn pages_of_the_node_and_of_listed_origins_may_connect() {
    let server = TestGateway::with_config(|config| {
        config.origins =
            pushonce_gateway::AllowedOrigins::parse(["https://www.example.com"]).expect("valid");
    })
    .await;
    let own = format!("http://localhost:{}", server.http.port());
    for (origin, status) in [
        ("https://www.example.com", 200),
        (&*own, 200),
        ("https://www.example.com:8443", 403),
        ("http://localhost:1", 403),
        ("null", 403),
    ] {
        let mut session =
            WebTransportSession::request(&server, TARGET, &[("origin", origin)]).await;
        assert_eq!(session.status().await, status, "{origin}");
    }
}

#[tokio::test]
async fn ticket_of_the_query_opens_one_session() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    let ticket = ticket(&server, &issuer::token("alice", &["chat/*"])).await;
    let query = format!("protocol=pushonce.v1.json&ticket={ticket}");
    let mut client = GatewayClient::webtransport(&server, &query).await;
    let reply = client.subscribe(1, "chat/7", StartFrom::Now).await;
    assert!(matches!(reply, ServerEvent::Subscribed { .. }), "{reply:?}");
    // A second session is opened and reports the fault: its page cannot see a status.
    let mut again = GatewayClient::webtransport(&server, &query).await;
    assert_eq!(again.error_code().await, (None, ErrorCode::NotAuthenticated));
    assert_eq!(again.close_code().await, close::NOT_AUTHENTICATED.code);
}

#[tokio::test]
async fn token_of_the_header_opens_a_session_or_is_refused_with_a_status() {
    let issuer = Issuer::new();
    let server = closed_gateway(&issuer).await;
    let bearer = format!("Bearer {}", issuer::token("alice", &["chat/*"]));
    let headers = &[("authorization", &*bearer)];
    let mut session = WebTransportSession::request(&server, "/webtransport", headers).await;
    assert_eq!(session.status().await, 200);
    let mut client = GatewayClient::over_webtransport(session, Encoding::Proto).await;
    let reply = client.subscribe(1, "chat/7", StartFrom::Now).await;
    assert!(matches!(reply, ServerEvent::Subscribed { .. }), "{reply:?}");
    let headers = &[("authorization", "Bearer a.b.c")];
    let mut session = WebTransportSession::request(&server, "/webtransport", headers).await;
    assert_eq!(session.status().await, 401);
}

#[tokio::test]
async fn stopping_server_announces_the_end_before_it_closes_the_session() {
    let server = TestGateway::start().await;
    let mut session = WebTransportSession::request(&server, TARGET, &[]).await;
    assert_eq!(session.status().await, 200);
    let (_send, mut receive) = session.open_stream().await;
    server.stop();
    assert_eq!(session.response.goaway().await, 4);
    let drain = Capsule::Unknown { typ: VarInt::from_u32(0x78ae), payload: Vec::new().into() };
    assert_eq!(with_timeout(session.response.next_capsule()).await, Some(drain));
    // The replies end first, so that the client has read them when the session ends.
    let replies = with_timeout(receive.read_to_end(1 << 16)).await.expect("an end");
    assert!(String::from_utf8_lossy(&replies).contains("goaway"));
    let Some(Capsule::CloseWebTransportSession { code, reason }) =
        with_timeout(session.response.next_capsule()).await
    else {
        panic!("another capsule")
    };
    assert_eq!(code, u32::from(close::GOING_AWAY.code));
    assert!(!reason.is_empty());
    assert_eq!(close_code(&session.connection).await, u64::from(NO_ERROR));
    server.wait_until_stopped().await;
}

#[tokio::test]
async fn client_ends_its_session_by_a_capsule_or_by_the_end_of_the_request() {
    let server = TestGateway::start().await;
    for has_capsule in [true, false] {
        let mut session = WebTransportSession::request(&server, TARGET, &[]).await;
        assert_eq!(session.status().await, 200);
        let _stream = session.open_stream().await;
        if has_capsule {
            let mut capsule = Vec::new();
            Capsule::CloseWebTransportSession { code: 7, reason: String::new() }
                .encode(&mut capsule);
            let mut frame = vec![0, u8::try_from(capsule.len()).expect("short")];
            frame.append(&mut capsule);
            session.request.write_all(&frame).await.expect("written");
        } else {
            session.request.finish().expect("open");
        }
        assert_eq!(close_code(&session.connection).await, u64::from(NO_ERROR));
    }
}

#[tokio::test]
async fn client_without_a_session_is_closed_after_the_handshake_timeout() {
    let timeout = Duration::from_millis(200);
    let server = TestGateway::with_config(|config| config.handshake_timeout = timeout).await;
    let (_endpoint, silent) = dial(&server, b"h3").await.expect("connected");
    assert_eq!(close_code(&silent).await, u64::from(NO_ERROR));
    let mut idle = WebTransportSession::request(&server, TARGET, &[]).await;
    assert_eq!(idle.status().await, 200);
    assert_eq!(close_code(&idle.connection).await, u64::from(NO_ERROR));
}

/// What a client writes to its first unidirectional and bidirectional stream, and the error.
#[tokio::test]
async fn violation_of_http_3_ends_that_connection_alone() {
    let server = TestGateway::start().await;
    let mut other = GatewayClient::webtransport(&server, "").await;
    let settings = client_settings();
    let session_id = |id: u32| {
        let mut bytes = Vec::new();
        Frame::WEBTRANSPORT.encode(&mut bytes);
        VarInt::from_u32(id).encode(&mut bytes);
        bytes
    };
    let mut push = Vec::new();
    StreamUni::PUSH.encode(&mut push);
    for (uni, bidi, error) in [
        (&[0, 7, 1, 0][..], &[][..], ConnectionError::MissingSettings),
        (&[0, 4, 4, 0x33, 1, 0x33, 1], &[], ConnectionError::Settings),
        (&push, &[], ConnectionError::StreamCreation),
        (&settings, &[0, 0], ConnectionError::FrameUnexpected { kind: 0 }),
        (&settings, &[1, 3, 0, 0, 0x80], ConnectionError::QpackDecompression),
        (&settings, &[1, 0xc0, 0, 0, 1, 0, 0, 0, 0], ConnectionError::ExcessiveLoad),
        (&settings, &[0x21, 0x80, 1, 0xff, 0xff], ConnectionError::ExcessiveLoad),
    ] {
        let (_endpoint, connection) = dial(&server, b"h3").await.expect("connected");
        let mut control = connection.open_uni().await.expect("a stream");
        control.write_all(uni).await.expect("written");
        let (mut request, _response) = connection.open_bi().await.expect("a stream");
        let skipped = if bidi.first() == Some(&0x21) { vec![0; 1 << 17] } else { Vec::new() };
        // Fails when the server has closed the connection already.
        let _ = request.write_all(bidi).await;
        let _ = request.write_all(&skipped).await;
        assert_eq!(close_code(&connection).await, u64::from(error.code()), "{error}");
    }
    // The stream of a session that is not the request.
    let mut session = WebTransportSession::request(&server, TARGET, &[]).await;
    assert_eq!(session.status().await, 200);
    let (mut send, _receive) = session.connection.open_bi().await.expect("a stream");
    send.write_all(&session_id(8)).await.expect("written");
    assert_eq!(close_code(&session.connection).await, u64::from(ConnectionError::Id.code()));
    other.send(1, publish("a", "x")).await;
    assert!(matches!(other.next_reply().await, ServerEvent::Published { .. }));
}

#[tokio::test]
async fn datagrams_of_the_client_are_dropped() {
    let server = TestGateway::start().await;
    let mut session = WebTransportSession::request(&server, TARGET, &[]).await;
    assert_eq!(session.status().await, 200);
    let connection = session.connection.clone();
    let mut client = GatewayClient::over_webtransport(session, Encoding::Json).await;
    for _ in 0..1_000 {
        connection.send_datagram(vec![0; 1_000].into()).expect("accepted by the server");
    }
    client.send(1, publish("a", "x")).await;
    assert!(matches!(client.next_reply().await, ServerEvent::Published { .. }));
}

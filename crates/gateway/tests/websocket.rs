//! Conformance to RFC 6455, and the handling of clients that violate it or the session limits.

mod support;

use std::time::Duration;

use pushonce_proto::close;

use support::raw::{HANDSHAKE, RawConnection, client_frame, deflate, inflate};
use support::{TestGateway, with_timeout};

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = TestGateway::start().await;
    let mut raw = RawConnection::session(server.http, b"").await;
    raw.send(&client_frame(0x89, b"there?")).await;
    assert_eq!(raw.read_pong().await, b"there?");
}

#[tokio::test]
async fn only_the_last_of_several_pings_is_answered() {
    let server = TestGateway::start().await;
    let mut raw = RawConnection::session(server.http, b"").await;
    raw.send(
        &[client_frame(0x89, b"one"), client_frame(0x89, b"two"), client_frame(0x89, b"three")]
            .concat(),
    )
    .await;
    assert_eq!(raw.read_pong().await, b"three");
    raw.send(&client_frame(0x89, b"four")).await;
    assert_eq!(raw.read_pong().await, b"four");
}

#[tokio::test]
async fn ping_between_fragments_is_answered_before_the_message() {
    let server = TestGateway::start().await;
    let mut raw = RawConnection::session(server.http, b"").await;
    let fragments = [
        client_frame(0x01, br#"{"id":1,"unsubscribe":"#),
        client_frame(0x89, b"first"),
        client_frame(0x80, br#"{"topic":"a"}}"#),
    ];
    raw.send(&fragments.concat()).await;
    assert_eq!(raw.read_frame_after_heartbeats().await, (0x8a, b"first".to_vec()));
    raw.read_text_containing("not_subscribed").await;
}

#[tokio::test]
async fn close_frame_is_echoed_and_the_connection_ends() {
    let server = TestGateway::start().await;
    let mut raw = RawConnection::session(server.http, b"").await;
    raw.send(&client_frame(0x88, &3000_u16.to_be_bytes())).await;
    assert_eq!(raw.read_close_code().await, 3000);
}

#[tokio::test]
async fn frame_sent_with_the_handshake_is_not_lost() {
    let server = TestGateway::start().await;
    let early = client_frame(0x81, br#"{"id":1,"subscribe":{"topic":"a"}}"#);
    let mut raw = RawConnection::session(server.http, &early).await;
    raw.read_text_containing("subscribed").await;
}

#[tokio::test]
async fn fragmented_request_is_joined() {
    let server = TestGateway::start().await;
    let mut raw = RawConnection::session(server.http, b"").await;
    raw.send(&client_frame(0x01, br#"{"id":1,"subscribe":"#)).await;
    raw.send(&client_frame(0x89, b"")).await;
    raw.send(&client_frame(0x80, br#"{"topic":"a"}}"#)).await;
    raw.read_text_containing("subscribed").await;
}

#[tokio::test]
async fn protocol_violation_closes_the_session_with_its_code() {
    let server = TestGateway::start().await;
    for (bytes, code) in [
        (vec![0x81, 0x01, b'x'], close::PROTOCOL_ERROR.code),
        (client_frame(0x81, b"\xff"), close::BAD_DATA.code),
        (client_frame(0x82, b"protobuf?"), close::UNSUPPORTED.code),
    ] {
        let mut raw = RawConnection::session(server.http, b"").await;
        raw.send(&bytes).await;
        assert_eq!(raw.read_close_code().await, code, "{}", bytes.escape_ascii());
    }
}

#[tokio::test]
async fn unknown_field_is_named_in_the_error_and_the_session_continues() {
    let server = TestGateway::start().await;
    let mut raw = RawConnection::session(server.http, b"").await;
    raw.send(&client_frame(0x81, br#"{"id":1,"subscribe":{"topic":"a","fron":"now"}}"#)).await;
    let text = raw.read_text_containing("error").await;
    assert!(text.contains("unknown_field") && text.contains("fron"), "{text}");
    raw.send(&client_frame(0x81, br#"{"id":2,"subscribe":{"topic":"a"}}"#)).await;
    raw.read_text_containing("subscribed").await;
}

#[tokio::test]
async fn query_parameters_subscribe_at_once() {
    let server = TestGateway::start().await;
    server.cluster.publish_text("a b/c", "old").await;
    let request = HANDSHAKE.replace("/ws", "/ws?topic=a%20b/c&from=last:1");
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    raw.read_head().await;
    raw.read_text_containing("subscribed").await;
    raw.read_text_containing("old").await;
}

/// Browsers hide the response of a failed handshake from the page, and pages then reconnect.
#[tokio::test]
async fn wrong_query_gets_an_error_and_closes_the_session() {
    let server = TestGateway::start().await;
    for (query, code) in [
        ("topic=a//b", "bad_topic"),
        ("from=bogus", "bad_position"),
        ("topic=a&from=last:x", "bad_position"),
        ("topic=a&form=now", "unknown_field"),
        ("topic=a&topic=b", "bad_request"),
        ("topic=a%FF", "bad_request"),
        ("topic=a%zz", "bad_request"),
    ] {
        let request = HANDSHAKE.replace("/ws", &format!("/ws?{query}"));
        let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{query}: {head}");
        raw.read_text_containing(&format!("\"code\":\"{code}\"")).await;
        assert_eq!(raw.read_close_code().await, close::BAD_FRAME.code, "{query}");
    }
}

#[tokio::test]
async fn invalid_handshake_gets_a_response_that_names_the_fix() {
    let server = TestGateway::start().await;
    for (from, to, status, expected) in [
        ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", "400", "pushonce.v1.proto"),
        ("Version: 13", "Version: 12", "426", "sec-websocket-version: 13"),
        ("Sec-WebSocket-Key: dG", "X: ", "400", "Sec-WebSocket-Key"),
        ("Upgrade: websocket\r\n", "", "426", "upgrade: websocket"),
        ("HTTP/1.1", "HTTP/1.0", "426", "upgrade: websocket"),
        ("GET", "POST", "405", "allow: GET"),
    ] {
        let request =
            HANDSHAKE.replace(from, to).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let response =
            RawConnection::connect(server.http, request.as_bytes()).await.read_to_end().await;
        assert_eq!(response.split(' ').nth(1), Some(status), "{to}: {response}");
        assert!(response.contains(expected), "{to}: {response}");
    }
}

#[tokio::test]
async fn client_that_answers_no_ping_is_closed_as_idle() {
    let server =
        TestGateway::with_config(|config| config.heartbeat = Duration::from_millis(256)).await;
    let mut raw = RawConnection::session(server.http, b"").await;
    raw.read_text_containing("heartbeat").await;
    assert_eq!(raw.read_close_code().await, close::IDLE.code);
}

#[tokio::test]
async fn client_that_reads_nothing_is_closed_without_delaying_others() {
    let server =
        TestGateway::with_config(|config| config.heartbeat = Duration::from_millis(256)).await;
    let request = client_frame(0x81, br#"{"id":1,"subscribe":{"topic":"a"}}"#);
    let mut stuck = RawConnection::session(server.http, &request).await;
    stuck.read_text_containing("subscribed").await;
    for _ in 0..20 {
        server.cluster.publish_text("a", &"x".repeat(60_000)).await;
    }
    let mut fast = RawConnection::session(server.http, &request).await;
    fast.read_text_containing("subscribed").await;
    server.cluster.publish_text("a", "for the fast client").await;
    fast.read_text_containing("for the fast client").await;
    drop(fast);
    // The stuck session is closed although its connection is still open.
    server.cluster.wait_until_unwatched().await;
    drop(stuck);
}

#[tokio::test]
async fn silent_client_is_disconnected_after_the_handshake_timeout() {
    let server =
        TestGateway::with_config(|config| config.handshake_timeout = Duration::from_millis(100))
            .await;
    let mut silent = RawConnection::connect(server.http, b"GET /ws HT").await;
    silent.read_to_end().await;
}

#[tokio::test]
async fn overloaded_server_rejects_sessions_until_it_recovers() {
    let server =
        TestGateway::with_config(|config| config.heartbeat = Duration::from_millis(300)).await;
    server.set_memory_percent(99);
    server.wait_until_rejecting().await;
    let response = RawConnection::handshake_response(server.http).await;
    assert!(response.contains("retry-after: 10"), "{response}");
    server.set_memory_percent(10);
    server.wait_until_accepting().await;
}

#[tokio::test]
async fn full_server_responds_503_with_retry_after() {
    let server = TestGateway::with_config(|config| config.connections_max = 1).await;
    let first = RawConnection::session(server.http, b"").await;
    let response = RawConnection::handshake_response(server.http).await;
    assert!(response.starts_with("HTTP/1.1 503") && response.contains("retry-after"), "{response}");
    drop(first);
}

/// Load balancers send clients to nodes that report readiness.
#[tokio::test]
async fn full_server_reports_its_shortage_before_the_next_client_connects() {
    let server = TestGateway::with_config(|config| {
        (config.connections_max, config.heartbeat) = (1, Duration::from_millis(300));
    })
    .await;
    assert_eq!(server.admission.rejecting_lanes(), 0);
    let session = RawConnection::session(server.http, b"").await;
    with_timeout(async {
        while server.admission.rejecting_lanes() < server.admission.lane_count() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let reasons = server.admission.reasons().concat();
    assert!(reasons.contains("connections are open"), "{reasons}");
    assert_eq!(server.admission.overloaded_lanes(), 0);
    drop(session);
}

/// An orchestrator kills a node that does not answer its probe, and with it the sessions of a full server.
#[tokio::test]
async fn full_server_answers_one_probe_per_connection() {
    let server =
        TestGateway::with_config(|config| (config.connections_max, config.lanes) = (1, 1)).await;
    let session = RawConnection::session(server.http, b"").await;
    let probe = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..40 {
        let response = RawConnection::connect(server.http, probe).await.read_to_end().await;
        assert!(response.starts_with("HTTP/1.1 ") && !response.contains("503"), "{response}");
    }
    // Silent connections do not block probes: the oldest one is evicted.
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(RawConnection::connect(server.http, b"").await);
    }
    let response = RawConnection::connect(server.http, probe).await.read_to_end().await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let response = silent[0].read_to_end().await;
    assert!(response.starts_with("HTTP/1.1 503") && response.contains("Retry-After"), "{response}");
    drop((silent, session));
}

/// The offer that browsers send.
const OFFER: &str = "permessage-deflate; client_max_window_bits";

const SUBSCRIBE: &[u8] = br#"{"id":1,"subscribe":{"topic":"a"}}"#;

#[tokio::test]
async fn messages_are_deflated_only_for_sessions_that_negotiated_it() {
    let server = TestGateway::start().await;
    let mut plain = RawConnection::session(server.http, &client_frame(0x81, SUBSCRIBE)).await;
    plain.read_text_containing("subscribed").await;
    let mut sessions = Vec::new();
    for offer in [OFFER, "permessage-deflate; server_max_window_bits=12"] {
        let (mut raw, agreed) = RawConnection::session_with_extensions(server.http, offer).await;
        let agreed = agreed.expect("agreed");
        assert!(agreed.contains("server_no_context_takeover; client_no_context_takeover"));
        raw.send(&client_frame(0xc1, &deflate(SUBSCRIBE))).await;
        raw.read_text_containing("subscribed").await;
        sessions.push(raw);
    }
    // The second message must not depend on the first.
    for text in ["to and fro, ".repeat(50), "to and fro! ".repeat(60)] {
        server.cluster.publish_text("a", &text).await;
        let whole = plain.read_text_containing("to and fro").await;
        for raw in &mut sessions {
            let (first, payload) = raw.read_frame_after_heartbeats().await;
            assert_eq!(first, 0xc1, "{}", payload.escape_ascii());
            assert!(payload.len() < whole.len() / 2, "{} of {}", payload.len(), whole.len());
            assert_eq!(inflate(&payload), whole.as_bytes());
        }
    }
    server.cluster.publish_text("a", "short").await;
    for raw in &mut sessions {
        raw.read_text_containing("short").await;
    }
}

#[tokio::test]
async fn without_negotiation_nothing_is_deflated_and_deflated_frames_are_rejected() {
    let server = TestGateway::start().await;
    let uncompressed = TestGateway::with_config(|config| config.compression = false).await;
    for (server, offer) in
        [(&server, "permessage-deflate; server_max_window_bits=9"), (&uncompressed, OFFER)]
    {
        let (mut raw, agreed) = RawConnection::session_with_extensions(server.http, offer).await;
        assert_eq!(agreed, None);
        raw.send(&client_frame(0x81, SUBSCRIBE)).await;
        raw.read_text_containing("subscribed").await;
        server.cluster.publish_text("a", &"to and fro, ".repeat(50)).await;
        raw.read_text_containing("to and fro").await;
        raw.send(&client_frame(0xc1, &deflate(SUBSCRIBE))).await;
        assert_eq!(raw.read_close_code().await, close::PROTOCOL_ERROR.code);
    }
}

#[tokio::test]
async fn message_that_inflates_over_the_limit_closes_the_session() {
    let server = TestGateway::start().await;
    let (mut raw, _) = RawConnection::session_with_extensions(server.http, OFFER).await;
    let bomb = deflate(&vec![b' '; 16 << 20]);
    assert!(bomb.len() < 20 << 10);
    raw.send(&client_frame(0xc1, &bomb)).await;
    assert_eq!(raw.read_close_code().await, close::TOO_BIG.code);
}

//! What RFC 6455 asks of a server, and what becomes of clients that do not keep to it.

mod support;

use std::time::Duration;

use pushonce_proto::close;

use support::raw::{HANDSHAKE, Raw, deflated, frame, inflated};
use support::{Server, within};

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = Server::start().await;
    let mut raw = Raw::session(server.http, b"").await;
    raw.send(&frame(0x89, b"there?")).await;
    assert_eq!(raw.pong().await, b"there?");
}

#[tokio::test]
async fn of_several_pings_at_once_the_last_is_answered() {
    let server = Server::start().await;
    let mut raw = Raw::session(server.http, b"").await;
    raw.send(&[frame(0x89, b"one"), frame(0x89, b"two"), frame(0x89, b"three")].concat()).await;
    assert_eq!(raw.pong().await, b"three");
    raw.send(&frame(0x89, b"four")).await;
    assert_eq!(raw.pong().await, b"four");
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_the_connection_ends() {
    let server = Server::start().await;
    let mut raw = Raw::session(server.http, b"").await;
    raw.send(&frame(0x88, &3000_u16.to_be_bytes())).await;
    assert_eq!(raw.closed().await, 3000);
}

#[tokio::test]
async fn a_frame_that_comes_with_the_handshake_is_not_lost() {
    let server = Server::start().await;
    let early = frame(0x81, br#"{"id":1,"subscribe":{"topic":"a"}}"#);
    let mut raw = Raw::session(server.http, &early).await;
    raw.text("subscribed").await;
}

#[tokio::test]
async fn a_request_in_fragments_is_one_request() {
    let server = Server::start().await;
    let mut raw = Raw::session(server.http, b"").await;
    raw.send(&frame(0x01, br#"{"id":1,"subscribe":"#)).await;
    raw.send(&frame(0x89, b"")).await;
    raw.send(&frame(0x80, br#"{"topic":"a"}}"#)).await;
    raw.text("subscribed").await;
}

#[tokio::test]
async fn what_breaks_the_protocol_is_closed_with_its_code() {
    let server = Server::start().await;
    for (bytes, code) in [
        (vec![0x81, 0x01, b'x'], close::PROTOCOL_ERROR.code),
        (frame(0x81, b"\xff"), close::BAD_DATA.code),
        (frame(0x82, b"protobuf?"), close::UNSUPPORTED.code),
    ] {
        let mut raw = Raw::session(server.http, b"").await;
        raw.send(&bytes).await;
        assert_eq!(raw.closed().await, code, "{}", bytes.escape_ascii());
    }
}

#[tokio::test]
async fn an_unknown_field_is_answered_by_its_name_and_the_session_goes_on() {
    let server = Server::start().await;
    let mut raw = Raw::session(server.http, b"").await;
    raw.send(&frame(0x81, br#"{"id":1,"subscribe":{"topic":"a","fron":"now"}}"#)).await;
    let text = raw.text("error").await;
    assert!(text.contains("unknown_field") && text.contains("fron"), "{text}");
    raw.send(&frame(0x81, br#"{"id":2,"subscribe":{"topic":"a"}}"#)).await;
    raw.text("subscribed").await;
}

#[tokio::test]
async fn a_query_subscribes_at_once() {
    let server = Server::start().await;
    server.origin.say("a b/c", "old").await;
    let request = HANDSHAKE.replace("/ws", "/ws?topic=a%20b/c&from=last:1");
    let mut raw = Raw::connect(server.http, request.as_bytes()).await;
    raw.head().await;
    raw.text("subscribed").await;
    raw.text("old").await;
}

/// A browser shows its page nothing of a refused handshake, and pages connect again after one.
#[tokio::test]
async fn wrong_query_is_refused_in_the_session_with_a_code_that_says_no() {
    let server = Server::start().await;
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
        let mut raw = Raw::connect(server.http, request.as_bytes()).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{query}: {head}");
        raw.text(&format!("\"code\":\"{code}\"")).await;
        assert_eq!(raw.closed().await, close::BAD_FRAME.code, "{query}");
    }
}

#[tokio::test]
async fn a_handshake_that_cannot_be_is_answered_with_what_to_change() {
    let server = Server::start().await;
    for (from, to, status, says) in [
        ("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", "400", "pushonce.v1.proto"),
        ("Version: 13", "Version: 12", "426", "sec-websocket-version: 13"),
        ("Sec-WebSocket-Key: dG", "X: ", "400", "Sec-WebSocket-Key"),
        ("Upgrade: websocket\r\n", "", "426", "upgrade: websocket"),
        ("HTTP/1.1", "HTTP/1.0", "426", "upgrade: websocket"),
        ("GET", "POST", "405", "allow: GET"),
    ] {
        let request =
            HANDSHAKE.replace(from, to).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let answer = Raw::connect(server.http, request.as_bytes()).await.all().await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{to}: {answer}");
        assert!(answer.contains(says), "{to}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_let_go() {
    let server = Server::with(|config| config.heartbeat = Duration::from_millis(256)).await;
    let mut raw = Raw::session(server.http, b"").await;
    raw.text("heartbeat").await;
    assert_eq!(raw.closed().await, close::IDLE.code);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_let_go_and_others_do_not_wait() {
    let server = Server::with(|config| config.heartbeat = Duration::from_millis(256)).await;
    let request = frame(0x81, br#"{"id":1,"subscribe":{"topic":"a"}}"#);
    let mut stuck = Raw::session(server.http, &request).await;
    stuck.text("subscribed").await;
    for _ in 0..20 {
        server.origin.say("a", &"x".repeat(60_000)).await;
    }
    let mut brisk = Raw::session(server.http, &request).await;
    brisk.text("subscribed").await;
    server.origin.say("a", "for those who read").await;
    brisk.text("for those who read").await;
    drop(brisk);
    // The last subscriber is gone although its connection is not.
    server.origin.left_alone().await;
    drop(stuck);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let server = Server::with(|config| config.handshake_timeout = Duration::from_millis(100)).await;
    let mut silent = Raw::connect(server.http, b"GET /ws HT").await;
    silent.all().await;
}

#[tokio::test]
async fn an_overloaded_server_takes_nobody_in_and_one_that_recovered_does() {
    let server = Server::with(|config| config.heartbeat = Duration::from_millis(300)).await;
    server.uses(99);
    server.takes_nobody().await;
    let answer = Raw::knock(server.http).await;
    assert!(answer.contains("retry-after: 10"), "{answer}");
    server.uses(10);
    server.takes_in().await;
}

#[tokio::test]
async fn when_all_places_are_taken_the_next_is_told_to_come_later() {
    let server = Server::with(|config| config.connections_max = 1).await;
    let first = Raw::session(server.http, b"").await;
    let answer = Raw::knock(server.http).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after"), "{answer}");
    drop(first);
}

/// Clients are sent to nodes that say they take them in.
#[tokio::test]
async fn server_whose_places_are_all_taken_says_so_before_the_next_client_comes() {
    let server = Server::with(|config| {
        (config.connections_max, config.heartbeat) = (1, Duration::from_millis(300));
    })
    .await;
    assert_eq!(server.admission.rejecting(), 0);
    let session = Raw::session(server.http, b"").await;
    within(async {
        while server.admission.rejecting() < server.admission.lanes() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let why = server.admission.reasons().concat();
    assert!(why.contains("connections are open"), "{why}");
    assert_eq!(server.admission.overloaded(), 0);
    drop(session);
}

/// An orchestrator kills what does not answer its probe: of a full server, everybody's.
#[tokio::test]
async fn who_looks_after_a_full_server_is_answered_once_a_connection() {
    let server = Server::with(|config| (config.connections_max, config.lanes) = (1, 1)).await;
    let session = Raw::session(server.http, b"").await;
    let probe = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..40 {
        let answer = Raw::connect(server.http, probe).await.all().await;
        assert!(answer.starts_with("HTTP/1.1 ") && !answer.contains("503"), "{answer}");
    }
    // Connections that send nothing take no place from a probe: the oldest makes room.
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(Raw::connect(server.http, b"").await);
    }
    let answer = Raw::connect(server.http, probe).await.all().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = silent[0].all().await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After"), "{answer}");
    drop((silent, session));
}

/// What browsers offer.
const OFFER: &str = "permessage-deflate; client_max_window_bits";

const SUBSCRIBE: &[u8] = br#"{"id":1,"subscribe":{"topic":"a"}}"#;

#[tokio::test]
async fn a_message_comes_deflated_to_those_who_agreed_on_it_and_as_it_is_to_others() {
    let server = Server::start().await;
    let mut plain = Raw::session(server.http, &frame(0x81, SUBSCRIBE)).await;
    plain.text("subscribed").await;
    let mut sessions = Vec::new();
    for offer in [OFFER, "permessage-deflate; server_max_window_bits=12"] {
        let (mut raw, agreed) = Raw::session_with(server.http, offer).await;
        let agreed = agreed.expect("agreed");
        assert!(agreed.contains("server_no_context_takeover; client_no_context_takeover"));
        raw.send(&frame(0xc1, &deflated(SUBSCRIBE))).await;
        raw.text("subscribed").await;
        sessions.push(raw);
    }
    // The second must not need the first.
    for text in ["to and fro, ".repeat(50), "to and fro! ".repeat(60)] {
        server.origin.say("a", &text).await;
        let whole = plain.text("to and fro").await;
        for raw in &mut sessions {
            let (first, payload) = raw.news().await;
            assert_eq!(first, 0xc1, "{}", payload.escape_ascii());
            assert!(payload.len() < whole.len() / 2, "{} of {}", payload.len(), whole.len());
            assert_eq!(inflated(&payload), whole.as_bytes());
        }
    }
    server.origin.say("a", "short").await;
    for raw in &mut sessions {
        raw.text("short").await;
    }
}

#[tokio::test]
async fn where_nothing_was_agreed_on_nothing_comes_deflated_and_nothing_may_be_sent_so() {
    let server = Server::start().await;
    let switched_off = Server::with(|config| config.compression = false).await;
    for (server, offer) in
        [(&server, "permessage-deflate; server_max_window_bits=9"), (&switched_off, OFFER)]
    {
        let (mut raw, agreed) = Raw::session_with(server.http, offer).await;
        assert_eq!(agreed, None);
        raw.send(&frame(0x81, SUBSCRIBE)).await;
        raw.text("subscribed").await;
        server.origin.say("a", &"to and fro, ".repeat(50)).await;
        raw.text("to and fro").await;
        raw.send(&frame(0xc1, &deflated(SUBSCRIBE))).await;
        assert_eq!(raw.closed().await, close::PROTOCOL_ERROR.code);
    }
}

#[tokio::test]
async fn a_message_that_inflates_beyond_the_bound_ends_the_session() {
    let server = Server::start().await;
    let (mut raw, _) = Raw::session_with(server.http, OFFER).await;
    let bomb = deflated(&vec![b' '; 16 << 20]);
    assert!(bomb.len() < 20 << 10);
    raw.send(&frame(0xc1, &bomb)).await;
    assert_eq!(raw.closed().await, close::TOO_BIG.code);
}

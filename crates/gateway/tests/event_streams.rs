//! Event streams over HTTP/1: contents, resumption, notices, and the same limits as for every session.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use pushonce_core::{NamespaceChange, RevokedTokens, Timestamp};
use pushonce_gateway::AllowedOrigins;

use support::http::{get, post, send_request};
use support::issuer::{self, Issuer, LIFETIME};
use support::raw::RawConnection;
use support::{TestGateway, with_timeout};

/// Opens a stream and returns it behind its head, which must be that of a stream.
async fn open(server: &TestGateway, path: &str, headers: &str) -> (RawConnection, String) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{headers}\r\n"
    );
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    let head = raw.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
    (raw, head)
}

/// Opens a stream whose subscriptions have begun.
async fn open_stream(server: &TestGateway, path: &str, headers: &str) -> RawConnection {
    let (mut raw, _) = open(server, path, headers).await;
    while !raw.read_block().await.expect("a block").contains("id: ") {}
    raw
}

/// The status and the code of a request for a stream that is refused.
async fn refusal(server: &TestGateway, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = Request::get(path).header("accept", "text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send_request(server, request, "").await.error_status_and_code()
}

async fn event(raw: &mut RawConnection) -> String {
    raw.read_event().await.expect("an event")
}

/// Reads to the end and returns the last event.
async fn last_event(raw: &mut RawConnection) -> String {
    let mut last = None;
    with_timeout(async {
        while let Some(event) = raw.read_event().await {
            last = Some(event);
        }
    })
    .await;
    last.expect("an event")
}

#[tokio::test]
async fn stream_of_a_topic_has_its_payloads_and_their_positions() {
    let server = TestGateway::start().await;
    server.cluster.publish_text("a/b", "before").await;
    let (mut raw, head) = open(&server, "/topics/a%2Fb", "").await;
    for header in [
        "cache-control: no-cache, no-transform",
        "x-accel-buffering: no",
        "x-content-type-options: nosniff",
        "pushonce-position: 7:1",
        "connection: close",
    ] {
        assert!(head.contains(&format!("{header}\r\n")), "{header}: {head}");
    }
    let first = raw.read_block().await.expect("a block");
    let retry = first.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\nid: 7:1\n\n"));
    let retry: u32 = retry.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{first}"));
    assert!((500..2_500).contains(&retry));
    server.cluster.publish_text("a/b", "two\nlines\r\nid: 9:9").await;
    assert_eq!(event(&mut raw).await, "data: two\ndata: lines\ndata: id: 9:9\nid: 7:2\n\n");
    let json = Request::post("/topics/a/b").header("content-type", "application/json");
    send_request(&server, json, &b"{\"gb\":\n21}"[..]).await;
    assert_eq!(event(&mut raw).await, "data: {\"gb\": 21}\nid: 7:3\n\n");
    let image = Request::post("/topics/a/b").header("content-type", "image/png");
    send_request(&server, image, &b"\x89PNG"[..]).await;
    assert_eq!(event(&mut raw).await, "event: base64\ndata: iVBORw==\nid: 7:4\n\n");
}

#[tokio::test]
async fn stream_resumes_exactly_after_the_last_event() {
    let server = TestGateway::start().await;
    for n in 1..=5 {
        server.cluster.publish_text("a", &format!("message {n}")).await;
    }
    for (path, headers, first) in [
        ("/topics/a?from=start", "", 1),
        ("/topics/a?from=earliest", "", 1),
        ("/topics/a?from=last:2", "", 4),
        ("/topics/a?from=7:2", "", 3),
        ("/topics/a?from=start", "Last-Event-ID: 7:4\r\n", 5),
        ("/topics/a?last_event_id=7:3&from=start", "", 4),
    ] {
        let (mut raw, _) = open(&server, path, headers).await;
        for n in first..=5 {
            assert_eq!(
                event(&mut raw).await,
                format!("data: message {n}\nid: 7:{n}\n\n"),
                "{path}"
            );
        }
    }
    // Lost before its first message, it resumes where it began.
    let (mut raw, _) = open(&server, "/topics/a", "").await;
    let block = raw.read_block().await.expect("a block");
    assert!(block.ends_with("id: 7:5\n\n"), "{block}");
}

#[tokio::test]
async fn stream_of_several_topics_has_frames_and_one_id_for_all() {
    let server = TestGateway::start().await;
    server.cluster.publish_text("b", "old").await;
    let (mut raw, head) = open(&server, "/sse?topic=a&topic=b&topic=c%2Fd", "").await;
    assert!(!head.contains("pushonce-position"), "{head}");
    let mut opening = String::new();
    while !opening.ends_with("id: 0:0,7:1,0:0\n\n") {
        opening += &raw.read_block().await.expect("a block");
    }
    assert!(opening.starts_with("retry: "), "{opening}");
    for (id, topic, position) in [(1, "a", "0:0"), (2, "b", "7:1"), (3, "c/d", "0:0")] {
        let frame = format!(
            r#"{{"id":{id},"subscribed":{{"topic":"{topic}","position":"{position}","recovered":true}}}}"#
        );
        let event = format!("data: {frame}\nevent: subscribed\n");
        assert_eq!(opening.matches(&event).count(), 1, "{event}: {opening}");
    }
    server.cluster.publish_text("b", "new").await;
    let frame = event(&mut raw).await;
    let frame = frame.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
    let frame: serde_json::Value = serde_json::from_str(frame.expect("one line")).expect("JSON");
    assert_eq!(frame["message"]["topic"], "b");
    assert_eq!(frame["message"]["data"], "new");
    assert_eq!(raw.read_block().await.as_deref(), Some("id: 0:0,7:2,0:0\n\n"));
    drop(raw);
    server.cluster.publish_text("b", "missed").await;
    server.cluster.publish_text("a", "missed, too").await;
    let id = "Last-Event-ID: 0:0,7:2,0:0\r\n";
    let (mut raw, _) = open(&server, "/sse?topic=a&topic=b&topic=c%2Fd", id).await;
    let mut missed = String::new();
    while !missed.ends_with("id: 7:1,7:3,0:0\n\n") {
        missed += &raw.read_block().await.expect("a block");
        assert!(!missed.contains(",-") && !missed.contains("-,"), "a start is not known: {missed}");
    }
    assert_eq!(missed.matches("data: {\"message\"").count(), 2, "{missed}");
}

#[tokio::test]
async fn gap_stale_and_live_are_named_events() {
    let server = TestGateway::start().await;
    for n in 1..=5 {
        server.cluster.publish_text("a", &format!("message {n}")).await;
    }
    server.cluster.expire("a", 1);
    let (mut raw, _) = open(&server, "/topics/a", "Last-Event-ID: 7:2\r\n").await;
    let gap = event(&mut raw).await;
    assert!(gap.contains("\nevent: gap\n") && gap.contains("\nid: 7:4\n"), "{gap}");
    assert!(gap.contains(r#""from":"7:3""#) && gap.contains("expired"), "{gap}");
    assert_eq!(event(&mut raw).await, "data: message 5\nid: 7:5\n\n");
    server.cluster.set_live("a", false);
    let stale = event(&mut raw).await;
    assert!(stale.contains("event: stale") && stale.contains(r#""since":"7:5""#), "{stale}");
    server.cluster.set_live("a", true);
    assert!(event(&mut raw).await.contains("event: live"));
}

#[tokio::test]
async fn refused_request_gets_the_error_as_its_response() {
    let server = TestGateway::start().await;
    server.cluster.publish_text("a", "x").await;
    let many: String = (0..17).map(|n| format!("topic=t{n}&")).collect();
    let many = format!("/sse?{many}");
    for (path, expected) in [
        (many.as_str(), (400, "bad_request")),
        ("/sse", (400, "bad_request")),
        ("/topics/a?newest", (400, "bad_request")),
        ("/topics/a?token=x", (400, "bad_request")),
        ("/topics/a//b", (400, "bad_topic")),
        ("/topics/a?from=later", (400, "bad_position")),
        ("/topics/a?from=7:2", (400, "future_position")),
        ("/topics/$sys/a", (403, "not_allowed")),
    ] {
        let (status, code) = refusal(&server, path, &[]).await;
        assert_eq!((status, code.as_str()), expected, "{path}");
    }
    let posted = post(&server, "/sse?topic=a", "x").await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    let with_body = Request::get("/sse?topic=a");
    assert_eq!(send_request(&server, with_body, "x").await.status, StatusCode::BAD_REQUEST);
    let page = [("origin", "https://evil.example")];
    assert_eq!(refusal(&server, "/topics/a", &page).await, (403, "not_allowed".to_owned()));
}

#[tokio::test]
async fn page_of_a_listed_origin_may_read_the_stream_and_its_errors() {
    let server = TestGateway::with_config(|config| {
        config.origins = AllowedOrigins::parse(["https://www.example.com"]).expect("valid");
    })
    .await;
    let origin = "Origin: https://www.example.com\r\n";
    let (_, head) = open(&server, "/topics/a", origin).await;
    assert!(head.contains("access-control-allow-origin: https://www.example.com"), "{head}");
    assert!(head.contains("access-control-expose-headers") && head.contains("vary: "), "{head}");
    let request = Request::get("/topics/a?from=9:9")
        .header("accept", "text/event-stream")
        .header("origin", "https://www.example.com");
    let refused = send_request(&server, request, "").await;
    assert_eq!(refused.error_status_and_code(), (400, "future_position".to_owned()));
    assert_eq!(refused.header("access-control-allow-origin"), "https://www.example.com");
    let preflight = Request::options("/topics/a").header("origin", "https://www.example.com");
    let preflight = send_request(&server, preflight, "").await;
    assert!(preflight.header("access-control-allow-headers").contains("last-event-id"));
}

#[tokio::test]
async fn grants_decide_about_streams_as_about_every_subscription() {
    let issuer = Issuer::new();
    let server =
        TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await;
    server.change_view(|view| {
        let mut public = view.namespaces.default.clone();
        public.access.anonymous_read = true;
        view.namespaces.named.insert("public".to_owned(), public);
    });
    let bearer = format!("Bearer {}", issuer::token("alice", &["chat/*"]));
    let with_token = [("authorization", bearer.as_str())];
    assert_eq!(refusal(&server, "/topics/chat/7", &[]).await.0, 401);
    assert_eq!(refusal(&server, "/topics/news/7", &with_token).await.0, 403);
    assert_eq!(refusal(&server, "/sse?topic=chat/7&topic=news/7", &with_token).await.0, 403);
    assert_eq!(refusal(&server, "/topics/chat/7", &[("authorization", "Bearer x")]).await.0, 401);
    let (_, head) = open(&server, "/topics/public/1", "").await;
    assert!(head.contains("cache-control: no-cache, no-transform"), "{head}");
    let header = format!("Authorization: {bearer}\r\n");
    let (_, head) = open(&server, "/sse?topic=chat/7&topic=public/1", &header).await;
    assert!(head.contains("cache-control: private, no-store, no-transform"), "{head}");
    // A browser can send no header with an event stream.
    let request = Request::post("/tickets").header("authorization", &bearer);
    let ticket = send_request(&server, request, r#"{"topics":["chat/7"]}"#).await.json();
    let path =
        format!("/topics/chat/7?from=start&ticket={}", ticket["ticket"].as_str().expect("one"));
    let mut raw = open_stream(&server, &path, "").await;
    server.cluster.publish_text("chat/7", "goal").await;
    assert_eq!(event(&mut raw).await, "data: goal\nid: 7:1\n\n");
    assert_eq!(refusal(&server, &path, &[]).await.0, 401, "a ticket is used once");
}

#[tokio::test]
async fn stream_ends_with_its_token() {
    static ADVANCE_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || Timestamp(issuer::system_time().0 + ADVANCE_MS.load(Ordering::Relaxed));
    let issuer = Issuer::new();
    let server = TestGateway::with_access(|_| {}, |view| issuer.access(view, clock)).await;
    let header =
        |subject| format!("Authorization: Bearer {}\r\n", issuer::token(subject, &["chat/*"]));
    let mut revoked = open_stream(&server, "/topics/chat/7", &header("bob")).await;
    let mut expiring = open_stream(&server, "/topics/chat/7", &header("alice")).await;
    let tokens = RevokedTokens::OfSubject { subject: "bob".to_owned(), issued_before: None };
    server.change_view(|view| {
        let revocations = Arc::make_mut(&mut view.revocations);
        revocations.revoke(tokens, Timestamp(u64::MAX)).expect("room");
    });
    let event = last_event(&mut revoked).await;
    assert!(event.contains("event: error") && event.contains("not_authenticated"), "{event}");
    // The expiry, and the grace of ten seconds.
    ADVANCE_MS.store(LIFETIME.as_millis() as u64 + 10_000, Ordering::Relaxed);
    let event = last_event(&mut expiring).await;
    assert!(event.contains("event: expired") && event.contains("token_expired"), "{event}");
}

#[tokio::test]
async fn stream_ends_when_its_namespace_is_closed_to_everyone() {
    let issuer = Issuer::new();
    let server =
        TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await;
    server.change_view(|view| view.namespaces.default.access.anonymous_read = true);
    let mut raw = open_stream(&server, "/topics/chat/7", "").await;
    server.change_view(|view| view.namespaces.default.access.anonymous_read = false);
    let event = last_event(&mut raw).await;
    assert!(event.contains("event: error") && event.contains("not_authenticated"), "{event}");
}

#[tokio::test]
async fn old_stream_ends_with_rotate_and_a_time_to_come_back() {
    static ADVANCE_MS: AtomicU64 = AtomicU64::new(0);
    let clock = || Timestamp(issuer::system_time().0 + ADVANCE_MS.load(Ordering::Relaxed));
    let issuer = Issuer::new();
    let server = TestGateway::with_access(
        |config| config.sse_age_max = Some(Duration::from_secs(100)),
        |view| issuer.access(view, clock),
    )
    .await;
    server.change_view(|view| view.namespaces.default.access.anonymous_read = true);
    let mut raw = open_stream(&server, "/topics/a", "").await;
    ADVANCE_MS.store(121_000, Ordering::Relaxed);
    let event = last_event(&mut raw).await;
    assert!(event.contains("event: rotate") && event.contains("retry: "), "{event}");
}

#[tokio::test]
async fn node_that_drains_rotates_its_streams() {
    let server = TestGateway::start().await;
    let mut raw = open_stream(&server, "/topics/a", "").await;
    let mut several = open_stream(&server, "/sse?topic=a&topic=b", "").await;
    server.stop();
    for raw in [&mut raw, &mut several] {
        let event = last_event(raw).await;
        assert!(event.contains("event: rotate") && event.contains("shutting down"), "{event}");
    }
    server.wait_until_stopped().await;
}

#[tokio::test]
async fn overloaded_node_refuses_streams_and_rotates_those_it_has_with_a_longer_pause() {
    let server = TestGateway::with_config(|config| config.heartbeat = Duration::from_secs(1)).await;
    let mut raw = open_stream(&server, "/topics/a", "").await;
    server.set_memory_percent(101);
    let event = last_event(&mut raw).await;
    let retry = event.lines().find_map(|line| line.strip_prefix("retry: ")?.parse::<u32>().ok());
    assert!(event.contains("event: rotate") && retry.is_some_and(|ms| ms >= 10_000), "{event}");
    server.wait_until_rejecting().await;
    let (status, _) = refusal(&server, "/topics/a", &[]).await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn quiet_stream_has_a_comment_twice_in_an_interval() {
    let server = TestGateway::with_config(|config| config.heartbeat = Duration::from_secs(1)).await;
    let mut raw = open_stream(&server, "/topics/a", "").await;
    let begun = tokio::time::Instant::now();
    for _ in 0..6 {
        assert_eq!(raw.read_line().await, ":\n");
    }
    // Six at most in three and a half seconds; the streams of a WebSocket would take twice as long.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn stream_whose_client_is_gone_or_sends_without_end_is_closed() {
    let server = TestGateway::start().await;
    let raw = open_stream(&server, "/topics/a", "").await;
    drop(raw);
    server.cluster.wait_until_unwatched().await;
    let mut raw = open_stream(&server, "/topics/a", "").await;
    for _ in 0..8 {
        raw.send(&[b'x'; 16 << 10]).await;
    }
    server.cluster.wait_until_unwatched().await;
}

/// It must neither delay the others nor keep more than the rest of one frame.
#[tokio::test]
async fn client_that_reads_nothing_is_disconnected_and_delays_no_other() {
    let server =
        TestGateway::with_config(|config| config.heartbeat = Duration::from_millis(500)).await;
    let _stuck = open_stream(&server, "/topics/a", "").await;
    let mut reading = open_stream(&server, "/topics/a", "").await;
    let text = "x".repeat(60_000);
    for n in 1..=200 {
        server.cluster.publish_text("a", &text).await;
        let event = event(&mut reading).await;
        assert!(event.ends_with(&format!("id: 7:{n}\n\n")), "{}", &event[event.len() - 20..]);
    }
    drop(reading);
    // The stuck client is the only subscriber that is left.
    server.cluster.wait_until_unwatched().await;
}

#[tokio::test]
async fn slow_reader_gets_every_message_or_a_gap() {
    let server = TestGateway::start().await;
    let mut raw = open_stream(&server, "/topics/a", "").await;
    let text = "x".repeat(60_000);
    for _ in 0..100 {
        server.cluster.publish_text("a", &text).await;
    }
    let mut next = 1;
    while next <= 100 {
        let event = event(&mut raw).await;
        let offset = event.lines().find_map(|line| line.strip_prefix("id: 7:"));
        let offset: u64 = offset.and_then(|text| text.parse().ok()).expect("a position");
        assert!(
            offset == next || event.contains("event: gap") && offset > next,
            "{offset}, {next}"
        );
        next = offset + 1;
    }
}

#[tokio::test]
async fn delivery_of_the_query_holds_for_the_stream() {
    let server = TestGateway::start().await;
    let (mut raw, _) = open(&server, "/topics/a?delivery=rate:1&from=start", "").await;
    for n in 1..=20 {
        server.cluster.publish_text("a", &format!("message {n}")).await;
    }
    let mut events = 0;
    while !event(&mut raw).await.contains("data: message 20\n") {
        events += 1;
    }
    assert!(events < 19, "each of {events} messages was delivered");
    let limited = NamespaceChange { rate_max: Some(5), ..NamespaceChange::default() };
    server.change_namespaces(limited);
    let refused = refusal(&server, "/topics/a?delivery=all", &[]).await;
    assert_eq!(refused, (403, "not_allowed".to_owned()));
}

#[tokio::test]
async fn old_clients_and_reused_connections_get_streams_too() {
    let server = TestGateway::start().await;
    let request = "GET /sse?topic=a HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    assert!(raw.read_head().await.contains("text/event-stream"));
    let first = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut raw = RawConnection::connect(server.http, first.as_bytes()).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 200"));
    raw.send(b"GET /topics/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .await;
    // The two bytes of the first body are before the head.
    let head = raw.read_head().await;
    assert!(head.starts_with("okHTTP/1.1 200") && head.contains("event-stream"), "{head}");
    while !raw.read_block().await.expect("a block").contains("id: ") {}
    server.cluster.publish_text("a", "goal").await;
    assert_eq!(event(&mut raw).await, "data: goal\nid: 7:1\n\n");
}

#[tokio::test]
async fn padding_is_sent_on_request() {
    let server = TestGateway::start().await;
    let (mut raw, _) = open(&server, "/topics/a?pad", "").await;
    let first = raw.read_block().await.expect("a block");
    assert!(first.starts_with(':') && first.len() > 2_048 && first.contains("\nretry: "));
}

#[tokio::test]
async fn same_url_without_accept_is_the_newest_message() {
    let server = TestGateway::start().await;
    server.cluster.publish_text("a", "x").await;
    let newest = get(&server, "/topics/a").await;
    assert_eq!((newest.status, &newest.body[..]), (StatusCode::OK, &b"x"[..]));
    assert!(newest.header("vary").contains("accept"));
}

//! Reads over HTTP: pages of history, compression, cache rules and long polls.

mod support;

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::GzDecoder;
use futures::future::join_all;
use http::{Request, StatusCode};
use pushonce_core::{NamespaceChange, RevokedTokens, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use support::http::{TestResponse, get, send_request};
use support::issuer::{self, Issuer};
use support::{TestGateway, with_timeout};

const POSITION: &str = "pushonce-position";

async fn publish(server: &TestGateway, topic: &str, count: usize) {
    for n in 1..=count {
        server.cluster.publish_text(topic, &format!("message {n}")).await;
    }
}

/// The offsets of the messages of a page.
fn offsets(page: &TestResponse) -> Vec<u64> {
    let page = page.json();
    let frames = page["messages"].as_array().expect("an array").iter();
    let position = |frame: &Value| frame["message"]["position"].as_str().map(str::to_owned);
    let offset = |frame| position(frame)?.split_once(':')?.1.parse().ok();
    frames.map(|frame| offset(frame).expect("a position")).collect()
}

#[tokio::test]
async fn history_is_read_page_by_page_until_the_newest_message() {
    let server = TestGateway::start().await;
    publish(&server, "a", 25).await;
    let (mut at, mut read) = ("7:0".to_owned(), Vec::new());
    loop {
        let page = get(&server, &format!("/topics/a?after={at}&limit=10")).await;
        assert_eq!(page.status, StatusCode::OK);
        let offsets = offsets(&page);
        assert_eq!(page.json()["next"], page.header(POSITION));
        page.header(POSITION).clone_into(&mut at);
        if offsets.is_empty() {
            break;
        }
        read.extend(offsets);
    }
    assert_eq!(read, (1..=25).collect::<Vec<_>>());
    assert_eq!(at, "7:25");
    let frame = &get(&server, "/topics/a?after=7:24").await.json()["messages"][0];
    let expected = json!({"message": {
        "topic": "a", "position": "7:25", "time": 1_790_000_000_000_u64, "data": "message 25"
    }});
    assert_eq!(*frame, expected, "the frame of a JSON session");
}

#[tokio::test]
async fn full_page_is_immutable_and_a_part_page_is_as_fresh_as_the_newest() {
    let server = TestGateway::start().await;
    publish(&server, "a", 3).await;
    let rule = async |path: &str| get(&server, path).await.header("cache-control").to_owned();
    assert_eq!(rule("/topics/a?after=7:1&limit=2").await, "private, max-age=31536000, immutable");
    assert_eq!(rule("/topics/a?after=7:1&limit=3").await, "no-cache");
    assert_eq!(rule("/topics/a?after=0:0&limit=2").await, "no-cache", "zero begins again");
    let cached = NamespaceChange { cache_max_age_s: Some(1), ..NamespaceChange::default() };
    server.change_namespaces(cached);
    assert_eq!(rule("/topics/a?after=7:1&limit=2").await, "public, max-age=31536000, immutable");
    let newest = "public, max-age=1, stale-while-revalidate=5";
    assert_eq!(rule("/topics/a?after=7:1&limit=3").await, newest);
    assert_eq!(rule("/topics/a").await, newest);
    let page = get(&server, "/topics/a?after=7:1&limit=2").await;
    assert_eq!(page.header("vary"), "authorization, accept, accept-encoding");
    assert_eq!(page.header("etag"), "\"7:2-7:3\"");
}

#[tokio::test]
async fn topics_that_need_a_token_are_kept_by_no_cache() {
    let issuer = Issuer::new();
    let server =
        TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await;
    publish(&server, "chat/7", 100).await;
    let token = issuer::token("alice", &["chat/*"]);
    for path in ["/topics/chat/7", "/topics/chat/7?after=7:1&limit=2"] {
        let missing = get(&server, path).await;
        assert_eq!(missing.status, StatusCode::UNAUTHORIZED, "{path}");
        let request = Request::get(path)
            .header("authorization", format!("Bearer {token}"))
            .header("accept-encoding", "gzip");
        let read = send_request(&server, request, "").await;
        assert_eq!(
            (read.status, read.header("cache-control")),
            (StatusCode::OK, "private, no-store")
        );
    }
    // Its length would tell one publisher what the others wrote.
    let request = Request::get("/topics/chat/7?after=7:1&limit=90")
        .header("authorization", format!("Bearer {token}"))
        .header("accept-encoding", "gzip");
    let page = send_request(&server, request, "").await;
    assert!(page.body.len() > 1_000 && !page.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn each_representation_has_its_own_etag() {
    let server = TestGateway::start().await;
    server.cluster.publish_text("a", &"score ".repeat(500)).await;
    publish(&server, "page", 50).await;
    for path in ["/topics/a", "/topics/page?after=7:0&limit=50"] {
        let plain = get(&server, path).await;
        assert!(!plain.headers.contains_key("content-encoding"));
        let gzip = || Request::get(path).header("accept-encoding", "br, gzip");
        let compressed = send_request(&server, gzip(), "").await;
        assert_eq!(compressed.header("content-encoding"), "gzip", "{path}");
        assert_eq!(compressed.header("content-type"), plain.header("content-type"));
        assert!(compressed.body.len() < plain.body.len() / 2);
        let mut body = Vec::new();
        GzDecoder::new(&compressed.body[..]).read_to_end(&mut body).expect("gzip");
        assert_eq!(body, plain.body);
        let etag = compressed.header("etag").to_owned();
        assert!(etag.ends_with("-gz\"") && etag != plain.header("etag"), "{etag}");
        let known = send_request(&server, gzip().header("if-none-match", &etag), "").await;
        assert_eq!((known.status, known.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(known.header("etag"), etag);
        let other = Request::get(path).header("if-none-match", &etag);
        assert_eq!(send_request(&server, other, "").await.status, StatusCode::OK, "{path}");
    }
    server.cluster.publish_text("small", "1:0").await;
    let small = Request::get("/topics/small").header("accept-encoding", "gzip");
    assert!(!send_request(&server, small, "").await.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn head_has_the_headers_of_get_without_the_body() {
    let server = TestGateway::start().await;
    publish(&server, "a", 3).await;
    for path in ["/topics/a", "/topics/a?after=7:1&limit=2"] {
        let read = get(&server, path).await;
        let head = send_request(&server, Request::head(path), "").await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        for name in ["etag", POSITION, "cache-control", "content-type", "content-length"] {
            assert_eq!(head.header(name), read.header(name), "{name}");
        }
    }
}

#[tokio::test]
async fn invalid_and_future_positions_are_errors() {
    let server = TestGateway::start().await;
    publish(&server, "a", 3).await;
    for (path, expected) in [
        ("/topics/a?after=7", (400, "bad_position")),
        ("/topics/a?after=7:4", (400, "future_position")),
        ("/topics/a?after=7:1&limit=0", (400, "bad_request")),
        ("/topics/a?after=7:1&last=2", (400, "bad_request")),
        ("/topics/$sys/a?after=7:1", (403, "not_allowed")),
    ] {
        let (status, code) = get(&server, path).await.error_status_and_code();
        assert_eq!((status, code.as_str()), expected, "{path}");
    }
}

#[tokio::test]
async fn history_that_has_moved_on_is_410_with_the_position_to_continue_from() {
    let server = TestGateway::start().await;
    publish(&server, "a", 10).await;
    server.cluster.expire("a", 2);
    let gone = get(&server, "/topics/a?after=7:3").await;
    assert_eq!(gone.error_status_and_code(), (410, "gone".to_owned()));
    assert_eq!(gone.header(POSITION), "7:8");
    let page = get(&server, "/topics/a?after=7:8").await;
    assert_eq!(offsets(&page), [9, 10]);
}

#[tokio::test]
async fn long_poll_answers_at_once_when_there_is_a_message() {
    let server = TestGateway::start().await;
    publish(&server, "a", 3).await;
    let page = get(&server, "/topics/a?after=7:1&live=long-poll").await;
    assert_eq!(offsets(&page), [2, 3]);
}

#[tokio::test]
async fn long_poll_waits_for_the_next_message_and_many_get_the_same_page() {
    let server = TestGateway::start().await;
    publish(&server, "a", 3).await;
    let waiting = join_all((0..20).map(|_| get(&server, "/topics/a?after=7:3&live=long-poll")));
    let news = async {
        // Whether they wait already or not, they get the message.
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.cluster.publish_text("a", "news").await;
    };
    let (pages, ()) = with_timeout(async { tokio::join!(waiting, news) }).await;
    for page in pages {
        assert_eq!((page.status, offsets(&page)), (StatusCode::OK, vec![4]));
        assert_eq!(page.header(POSITION), "7:4");
    }
}

#[tokio::test]
async fn long_poll_ends_without_a_body_when_its_time_is_over_or_the_node_drains() {
    let server = TestGateway::start().await;
    publish(&server, "a", 3).await;
    let empty = get(&server, "/topics/a?after=7:3&live=long-poll&timeout=1").await;
    assert_eq!((empty.status, empty.body.len()), (StatusCode::NO_CONTENT, 0));
    assert_eq!(empty.header(POSITION), "7:3");
    assert_eq!(empty.header("cache-control"), "private, no-store");
    let begun = Instant::now();
    let waiting = get(&server, "/topics/a?after=7:3&live=long-poll");
    let stop = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.stop();
    };
    let (drained, ()) = tokio::join!(waiting, stop);
    assert_eq!(drained.status, StatusCode::NO_CONTENT);
    assert!(begun.elapsed() < Duration::from_secs(20), "it was answered by the end of its time");
}

#[tokio::test]
async fn long_poll_whose_token_is_revoked_while_it_waits_is_refused() {
    let issuer = Issuer::new();
    let server =
        TestGateway::with_access(|_| {}, |view| issuer.access(view, issuer::system_time)).await;
    publish(&server, "chat/7", 1).await;
    let token = issuer::token("alice", &["chat/*"]);
    let request = Request::get("/topics/chat/7?after=7:1&live=long-poll")
        .header("authorization", format!("Bearer {token}"));
    let waiting = send_request(&server, request, "");
    let revoke = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let tokens = RevokedTokens::OfSubject { subject: "alice".to_owned(), issued_before: None };
        server.change_view(|view| {
            let revocations = Arc::make_mut(&mut view.revocations);
            revocations.revoke(tokens, Timestamp(u64::MAX)).expect("room");
        });
        server.cluster.publish_text("chat/7", "secret").await;
    };
    let (refused, ()) = tokio::join!(waiting, revoke);
    assert_eq!(refused.error_status_and_code(), (401, "not_authenticated".to_owned()));
}

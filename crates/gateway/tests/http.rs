//! The routes: publish by POST, read by GET, and clear answers to everything else.

mod support;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pushonce_core::NamespaceChange;
use serde_json::{Value, json};

use support::raw::Raw;
use support::{Server, within};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    /// Status and code of an error, which must say something as well.
    fn refusal(&self) -> (u16, String) {
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert!(error["retry"].is_boolean(), "{error}");
        (self.status.as_u16(), error["code"].as_str().expect("a code").to_owned())
    }
}

async fn ask(server: &Server, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = request.body(Full::new(body.into())).expect("a request");
    let path = request.uri().clone();
    *request.uri_mut() = format!("http://{}{path}", server.http).parse().expect("a URL");
    let (parts, body) = within(client.request(request)).await.expect("an answer").into_parts();
    let body = within(body.collect()).await.expect("a body").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server, Request::get(path), "").await
}

async fn post(server: &Server, path: &str, body: &'static str) -> Answer {
    ask(server, Request::post(path), body).await
}

#[tokio::test]
async fn what_is_posted_is_read_back_as_it_was() {
    let server = Server::start().await;
    let posted = ask(
        &server,
        Request::post("/topics/a/b")
            .header("content-type", "image/png")
            .header("idempotency-key", "k"),
        &b"\x89PNG"[..],
    )
    .await;
    assert_eq!(posted.status, StatusCode::OK);
    assert_eq!(
        posted.json(),
        json!({
            "position": "7:1", "time": 1_790_000_000_000_u64, "durability": "replicated",
        })
    );
    let newest = get(&server, "/topics/a/b").await;
    assert_eq!(newest.status, StatusCode::OK);
    assert_eq!(&newest.body[..], b"\x89PNG");
    assert_eq!(newest.header("content-type"), "image/png");
    assert_eq!(newest.header("etag"), "\"7:1\"");
    assert_eq!(newest.header("pushonce-position"), "7:1");
    assert_eq!(newest.header("cache-control"), "no-cache");
    assert_eq!(newest.header("access-control-allow-origin"), "*");
    assert_eq!(newest.header("x-content-type-options"), "nosniff");
    assert!(newest.header("content-security-policy").contains("sandbox"));
}

#[tokio::test]
async fn browsers_may_publish_and_read_errors_from_any_page() {
    let server = Server::start().await;
    for path in ["/topics/a/b", "/dev/certificate", "/ws", "/health/live", "/nothing"] {
        let preflight = Request::builder().method(Method::OPTIONS).uri(path);
        let preflight = preflight
            .header("origin", "https://example.org")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,idempotency-key");
        let answer = ask(&server, preflight, "").await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(answer.header("access-control-allow-methods").contains("POST"));
        let headers = answer.header("access-control-allow-headers");
        assert!(headers.contains("content-type") && headers.contains("idempotency-key"));
    }
    let put = Request::builder().method(Method::PUT).uri("/topics/a");
    let old = Request::get("/ws").header("connection", "upgrade").header("upgrade", "websocket");
    let no_key = Request::get("/ws").header("connection", "upgrade").header("upgrade", "websocket");
    for (error, status) in [
        (get(&server, "/topics/a").await, 404),
        (get(&server, "/topics/a//b").await, 400),
        (get(&server, "/nothing").await, 404),
        (post(&server, "/topics/$sys/a", "x").await, 403),
        (ask(&server, put, "").await, 405),
        (post(&server, "/health/live", "x").await, 405),
        (get(&server, "/ws").await, 426),
        (ask(&server, old.header("sec-websocket-version", "8"), "").await, 426),
        (ask(&server, no_key.header("sec-websocket-version", "13"), "").await, 400),
        (post(&server, "/ws", "x").await, 405),
    ] {
        assert_eq!(error.status, status);
        assert_readable_by_any_page(&error);
    }
    assert_readable_by_any_page(&get(&server, "/health/live").await);
}

/// What a page of any origin needs to read an answer, and what keeps it from being run as a page.
fn assert_readable_by_any_page(answer: &Answer) {
    for (name, value) in
        [("access-control-allow-origin", "*"), ("x-content-type-options", "nosniff")]
    {
        let header = answer.headers.get(name).map(|value| value.as_bytes());
        assert_eq!(header, Some(value.as_bytes()), "{name}, {}", answer.status);
    }
}

/// One place, taken: every other connection has one answer.
#[tokio::test]
async fn browsers_may_read_that_the_server_is_full() {
    let server = Server::with(|config| (config.connections_max, config.lanes) = (1, 1)).await;
    let session = Raw::session(server.http, b"").await;
    for path in ["/ws", "/health/live"] {
        let answer = get(&server, path).await;
        assert_readable_by_any_page(&answer);
    }
    assert_eq!(get(&server, "/ws").await.refusal(), (503, "overloaded".to_owned()));
    // A connection for which there is no place at all is answered without a look at its request.
    let mut silent = Vec::new();
    for _ in 0..17 {
        silent.push(Raw::connect(server.http, b"").await);
    }
    let answer = silent[0].all().await.to_lowercase();
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    for header in ["access-control-allow-origin: *", "x-content-type-options: nosniff"] {
        assert!(answer.contains(header), "{answer}");
    }
    drop((silent, session));
}

#[tokio::test]
async fn what_would_be_ignored_is_refused() {
    let server = Server::start().await;
    for (request, status) in [
        (Request::post("/topics/a?key=k"), 400),
        (Request::post("/topics/a?"), 200),
        (Request::post("/topics/a").header("content-encoding", "gzip"), 415),
        (Request::post("/topics/a").header("if-match", "\"7:1\""), 400),
        (Request::post("/topics/a").header("x-idempotency-key", "k"), 400),
        (Request::get("/topics/a?last=1&newest"), 400),
        (Request::get("/topics/a?last=1&last=2"), 400),
        (Request::get("/topics/a?la%FFst=1"), 400),
        (Request::get("/topics/$sys/a"), 403),
    ] {
        let path = format!("{:?}", request.uri_ref());
        assert_eq!(ask(&server, request, "x").await.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn text_in_another_charset_is_read_back_as_it_was_posted() {
    let server = Server::start().await;
    let latin = "text/plain; charset=iso-8859-1";
    let request = Request::post("/topics/a").header("content-type", latin);
    assert_eq!(ask(&server, request, &b"caf\xe9"[..]).await.status, StatusCode::OK);
    let newest = get(&server, "/topics/a").await;
    assert_eq!((newest.header("content-type"), &newest.body[..]), (latin, &b"caf\xe9"[..]));
}

/// A client that sends its whole body before it looks for an answer, as many do.
#[tokio::test]
async fn refusal_reaches_a_client_that_is_still_writing() {
    let server = Server::start().await;
    let body = vec![b'x'; 8 << 20];
    let head = format!(
        "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    for _ in 0..5 {
        let mut raw = Raw::connect(server.http, head.as_bytes()).await;
        for piece in body.chunks(64 << 10) {
            raw.send(piece).await;
        }
        let answer = raw.head().await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}

#[tokio::test]
async fn how_many_watch_is_asked_of_the_topic_whatever_it_is_called() {
    let server = Server::start().await;
    for (path, topic, audience) in [
        ("/topics/a/b?audience", "a/b", 3),
        ("/topics/audience?audience=true", "audience", 8),
        ("/topics/a/audience?audience", "a/audience", 10),
    ] {
        let answer = get(&server, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.json(), json!({"topic": topic, "audience": audience}));
        assert_eq!(answer.header("cache-control"), "max-age=1");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    let away = get(&server, "/topics/away?audience").await;
    assert_eq!(away.refusal(), (503, "unavailable".to_owned()));
    for path in ["/topics/a?audience=7", "/topics/a?audience&last=1"] {
        assert_eq!(get(&server, path).await.refusal(), (400, "bad_request".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn who_has_the_newest_is_told_so_without_it() {
    let server = Server::start().await;
    server.origin.say("a", "one").await;
    let known = Request::get("/topics/a").header("if-none-match", "\"7:1\"");
    let same = ask(&server, known, "").await;
    assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(same.header("etag"), "\"7:1\"");
    server.origin.say("a", "two").await;
    let known = Request::get("/topics/a").header("if-none-match", "\"7:1\"");
    assert_eq!(ask(&server, known, "").await.body, "two");
}

#[tokio::test]
async fn the_last_few_are_an_array_of_messages() {
    let server = Server::start().await;
    for text in ["one", "two", "three"] {
        server.origin.say("a", text).await;
    }
    let array = get(&server, "/topics/a?last=2").await.json();
    let data = |index: usize| array[index]["message"]["data"].clone();
    assert_eq!([data(0), data(1)], [json!("two"), json!("three")]);
    assert_eq!(get(&server, "/topics/none?last=2").await.json(), json!([]));
    assert_eq!(get(&server, "/topics/a?last=0").await.refusal(), (400, "bad_request".into()));
    assert_eq!(get(&server, "/topics/a?first=1").await.refusal(), (400, "bad_request".into()));
}

#[tokio::test]
async fn as_many_of_the_last_may_be_asked_for_as_the_namespace_keeps() {
    let server = Server::start().await;
    for n in 0..1_002 {
        server.origin.say("a", &n.to_string()).await;
    }
    let refused = get(&server, "/topics/a?last=1002").await;
    assert_eq!(refused.refusal(), (400, "bad_request".to_owned()));
    for (count_max, last, found) in
        [(5_000, 5_000, 1_002), (5_000, 1_001, 1_001), (10, 1_000, 1_000)]
    {
        let change = NamespaceChange { history_count_max: Some(count_max), ..Default::default() };
        server.set(change);
        let answer = get(&server, &format!("/topics/a?last={last}")).await;
        assert_eq!(answer.json().as_array().map(Vec::len), Some(found), "{last} of {count_max}");
    }
    assert_eq!(get(&server, "/topics/a?last=5001").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_body_of_no_stated_kind_is_what_it_looks_like() {
    let server = Server::start().await;
    for (body, kind) in [("{\"a\":1}", "application/json"), ("goal!", "text/plain; charset=utf-8")]
    {
        post(&server, "/topics/a", body).await;
        assert_eq!(get(&server, "/topics/a").await.header("content-type"), kind);
        let form = "application/x-www-form-urlencoded";
        ask(&server, Request::post("/topics/a").header("content-type", form), body).await;
        assert_eq!(get(&server, "/topics/a").await.header("content-type"), kind);
    }
}

#[tokio::test]
async fn a_topic_in_a_path_is_percent_decoded() {
    let server = Server::start().await;
    post(&server, "/topics/caf%C3%A9/a%20b", "x").await;
    assert_eq!(get(&server, "/topics/caf%C3%A9%2Fa%20b").await.body, "x");
    assert_eq!(get(&server, "/topics/%FF").await.refusal(), (400, "bad_topic".into()));
}

#[tokio::test]
async fn what_is_wrong_with_a_publish_is_said() {
    let server = Server::start().await;
    let big = "x".repeat((64 << 10) + 1);
    let huge = "x".repeat((1 << 20) + 1);
    let json = |path| Request::post(path).header("content-type", "application/json");
    for (request, body, expected) in [
        (Request::post("/topics/a//b"), "x".to_owned(), (400, "bad_topic")),
        (Request::post("/topics/$sys/a"), "x".to_owned(), (403, "not_allowed")),
        (Request::post("/topics/a"), big, (413, "too_large")),
        (Request::post("/topics/a"), huge, (413, "too_large")),
        (json("/topics/a"), "{".to_owned(), (400, "bad_request")),
        (
            Request::post("/topics/a").header("idempotency-key", ""),
            String::new(),
            (400, "bad_request"),
        ),
    ] {
        let refusal = ask(&server, request, body).await.refusal();
        assert_eq!(refusal, (expected.0, expected.1.to_owned()));
    }
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let server = Server::start().await;
    assert_eq!(get(&server, "/topics/a").await.refusal(), (404, "no_message".into()));
    assert_eq!(get(&server, "/nothing").await.refusal(), (404, "not_found".into()));
    let put = ask(&server, Request::builder().method(Method::PUT).uri("/topics/a"), "").await;
    assert_eq!(put.refusal(), (405, "method_not_allowed".into()));
}

#[tokio::test]
async fn the_pages_of_the_node_are_served_beside() {
    let server = Server::start().await;
    assert_eq!(get(&server, "/health/live").await.body, "ok");
}

#[tokio::test]
async fn a_page_learns_which_certificate_to_accept() {
    let server = Server::start().await;
    let told = get(&server, "/dev/certificate").await.json();
    assert_eq!(told["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(told["sha256_base64"].as_str().map(str::len), Some(44));
    assert!(told["expires_ms"].is_u64());
}

/// The only place is taken by a client that asks for more than sockets hold, and does not read.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_let_go() {
    let server = Server::with(|config| {
        config.connections_max = 1;
        config.heartbeat = std::time::Duration::from_millis(50);
    })
    .await;
    for _ in 0..200 {
        server.origin.say("a", &"x".repeat(60_000)).await;
    }
    let request = b"GET /topics/a?last=200 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stuck = Raw::connect(server.http, request).await;
    stuck.head().await;
    within(async { while Raw::knock(server.http).await.contains("503") {} }).await;
    drop(stuck);
}

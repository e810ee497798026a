//! The HTTP routes: publish with POST, read with GET, and the error responses.

mod support;

use http::{Method, Request, StatusCode};
use pushonce_core::NamespaceChange;
use serde_json::json;

use support::http::{get, post, send_request};
use support::raw::RawConnection;
use support::{TestGateway, with_timeout};

#[tokio::test]
async fn posted_message_is_read_back_unchanged() {
    let server = TestGateway::start().await;
    let posted = send_request(
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
}

#[tokio::test]
async fn unsupported_headers_and_parameters_are_rejected() {
    let server = TestGateway::start().await;
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
        assert_eq!(send_request(&server, request, "x").await.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn text_in_another_charset_is_read_back_as_it_was_posted() {
    let server = TestGateway::start().await;
    let latin = "text/plain; charset=iso-8859-1";
    let request = Request::post("/topics/a").header("content-type", latin);
    assert_eq!(send_request(&server, request, &b"caf\xe9"[..]).await.status, StatusCode::OK);
    let newest = get(&server, "/topics/a").await;
    assert_eq!((newest.header("content-type"), &newest.body[..]), (latin, &b"caf\xe9"[..]));
}

/// Many clients read the response only after they have sent the whole body.
#[tokio::test]
async fn error_response_reaches_a_client_that_is_still_sending() {
    let server = TestGateway::start().await;
    let body = vec![b'x'; 8 << 20];
    let head = format!(
        "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    for _ in 0..5 {
        let mut raw = RawConnection::connect(server.http, head.as_bytes()).await;
        for piece in body.chunks(64 << 10) {
            raw.send(piece).await;
        }
        let response = raw.read_head().await;
        assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    }
}

#[tokio::test]
async fn audience_query_returns_the_subscriber_count_for_any_topic_name() {
    let server = TestGateway::start().await;
    for (path, topic, audience) in [
        ("/topics/a/b?audience", "a/b", 3),
        ("/topics/audience?audience=true", "audience", 8),
        ("/topics/a/audience?audience", "a/audience", 10),
    ] {
        let response = get(&server, path).await;
        assert_eq!(response.status, StatusCode::OK, "{path}");
        assert_eq!(response.json(), json!({"topic": topic, "audience": audience}));
        assert_eq!(response.header("cache-control"), "max-age=1");
    }
    let away = get(&server, "/topics/away?audience").await;
    assert_eq!(away.error_status_and_code(), (503, "unavailable".to_owned()));
    for path in ["/topics/a?audience=7", "/topics/a?audience&last=1"] {
        assert_eq!(
            get(&server, path).await.error_status_and_code(),
            (400, "bad_request".to_owned()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn matching_etag_returns_304_without_a_body() {
    let server = TestGateway::start().await;
    server.cluster.publish_text("a", "one").await;
    let known = Request::get("/topics/a").header("if-none-match", "\"7:1\"");
    let same = send_request(&server, known, "").await;
    assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(same.header("etag"), "\"7:1\"");
    server.cluster.publish_text("a", "two").await;
    let known = Request::get("/topics/a").header("if-none-match", "\"7:1\"");
    assert_eq!(send_request(&server, known, "").await.body, "two");
}

#[tokio::test]
async fn last_query_returns_an_array_of_messages() {
    let server = TestGateway::start().await;
    for text in ["one", "two", "three"] {
        server.cluster.publish_text("a", text).await;
    }
    let array = get(&server, "/topics/a?last=2").await.json();
    let data = |index: usize| array[index]["message"]["data"].clone();
    assert_eq!([data(0), data(1)], [json!("two"), json!("three")]);
    assert_eq!(get(&server, "/topics/none?last=2").await.json(), json!([]));
    assert_eq!(
        get(&server, "/topics/a?last=0").await.error_status_and_code(),
        (400, "bad_request".into())
    );
    assert_eq!(
        get(&server, "/topics/a?first=1").await.error_status_and_code(),
        (400, "bad_request".into())
    );
}

#[tokio::test]
async fn last_query_is_limited_by_the_history_of_the_namespace() {
    let server = TestGateway::start().await;
    for n in 0..1_002 {
        server.cluster.publish_text("a", &n.to_string()).await;
    }
    let rejected = get(&server, "/topics/a?last=1002").await;
    assert_eq!(rejected.error_status_and_code(), (400, "bad_request".to_owned()));
    for (count_max, last, found) in
        [(5_000, 5_000, 1_002), (5_000, 1_001, 1_001), (10, 1_000, 1_000)]
    {
        let change = NamespaceChange { history_count_max: Some(count_max), ..Default::default() };
        server.change_namespaces(change);
        let response = get(&server, &format!("/topics/a?last={last}")).await;
        assert_eq!(response.json().as_array().map(Vec::len), Some(found), "{last} of {count_max}");
    }
    assert_eq!(get(&server, "/topics/a?last=5001").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn content_type_is_guessed_if_none_is_given() {
    let server = TestGateway::start().await;
    for (body, kind) in [("{\"a\":1}", "application/json"), ("goal!", "text/plain; charset=utf-8")]
    {
        post(&server, "/topics/a", body).await;
        assert_eq!(get(&server, "/topics/a").await.header("content-type"), kind);
        let form = "application/x-www-form-urlencoded";
        send_request(&server, Request::post("/topics/a").header("content-type", form), body).await;
        assert_eq!(get(&server, "/topics/a").await.header("content-type"), kind);
    }
}

#[tokio::test]
async fn a_topic_in_a_path_is_percent_decoded() {
    let server = TestGateway::start().await;
    post(&server, "/topics/caf%C3%A9/a%20b", "x").await;
    assert_eq!(get(&server, "/topics/caf%C3%A9%2Fa%20b").await.body, "x");
    assert_eq!(
        get(&server, "/topics/%FF").await.error_status_and_code(),
        (400, "bad_topic".into())
    );
}

#[tokio::test]
async fn invalid_publish_is_rejected_with_its_error_code() {
    let server = TestGateway::start().await;
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
        let error = send_request(&server, request, body).await.error_status_and_code();
        assert_eq!(error, (expected.0, expected.1.to_owned()));
    }
}

#[tokio::test]
async fn missing_message_route_and_method_have_error_codes() {
    let server = TestGateway::start().await;
    assert_eq!(get(&server, "/topics/a").await.error_status_and_code(), (404, "no_message".into()));
    assert_eq!(get(&server, "/nothing").await.error_status_and_code(), (404, "not_found".into()));
    let put =
        send_request(&server, Request::builder().method(Method::PUT).uri("/topics/a"), "").await;
    assert_eq!(put.error_status_and_code(), (405, "method_not_allowed".into()));
}

#[tokio::test]
async fn extra_routes_are_served() {
    let server = TestGateway::start().await;
    assert_eq!(get(&server, "/health/live").await.body, "ok");
}

#[tokio::test]
async fn dev_certificate_route_returns_the_fingerprint() {
    let server = TestGateway::start().await;
    let fingerprint = get(&server, "/dev/certificate").await.json();
    assert_eq!(fingerprint["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(fingerprint["sha256_base64"].as_str().map(str::len), Some(44));
    assert!(fingerprint["expires_ms"].is_u64());
    assert_eq!(fingerprint["hashes"][0], fingerprint["sha256_base64"]);
    assert_eq!(fingerprint["port"], server.quic.port());
}

/// The only permit is used by a client that requests more than socket buffers hold and does not read.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn client_that_does_not_read_its_response_is_disconnected() {
    let server = TestGateway::with_config(|config| {
        config.connections_max = 1;
        config.heartbeat = std::time::Duration::from_millis(50);
    })
    .await;
    for _ in 0..200 {
        server.cluster.publish_text("a", &"x".repeat(60_000)).await;
    }
    let request = b"GET /topics/a?last=200 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stuck = RawConnection::connect(server.http, request).await;
    stuck.read_head().await;
    with_timeout(async {
        while RawConnection::handshake_response(server.http).await.contains("503") {}
    })
    .await;
    drop(stuck);
}

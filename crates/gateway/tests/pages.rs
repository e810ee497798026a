//! Browsers: which pages may use the node, and what a browser may do with a response.

mod support;

use http::{Method, Request, StatusCode};
use pushonce_gateway::AllowedOrigins;

use support::TestGateway;
use support::http::{TestResponse, get, post, send_request};
use support::raw::{HANDSHAKE, RawConnection};

/// The origin that the gateway of [`with_listed_origin`] allows.
const LISTED: &str = "https://www.example.com";
const FOREIGN: &str = "https://evil.example";

async fn with_listed_origin() -> TestGateway {
    let origins = AllowedOrigins::parse([LISTED]).expect("an origin");
    TestGateway::with_config(|config| config.origins = origins).await
}

/// The header that lets a page read the response, if the response has it.
fn allowed_origin(response: &TestResponse) -> Option<&str> {
    response.headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text"))
}

/// Every request of a browser that has an effect or an answer of interest.
fn requests() -> Vec<http::request::Builder> {
    // What HTML forms and `fetch` without a preflight can send.
    let forms = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    let simple = forms.map(|kind| Request::post("/topics/a").header("content-type", kind));
    let preflight = Request::builder().method(Method::OPTIONS).uri("/topics/a");
    let preflight = preflight.header("access-control-request-method", "POST");
    let reads =
        ["/topics/a", "/topics/a?last=1", "/topics/a?audience", "/health/live", "/dev/certificate"];
    let handshake =
        Request::get("/ws").header("connection", "upgrade").header("upgrade", "websocket");
    simple.into_iter().chain(reads.map(Request::get)).chain([preflight, handshake]).collect()
}

#[tokio::test]
async fn page_of_a_foreign_origin_can_neither_read_nor_publish_nor_connect() {
    for server in [TestGateway::start().await, with_listed_origin().await] {
        let other_port = format!("http://{}:1", server.http.ip());
        for origin in [FOREIGN, "null", "http://www.example.com", &other_port] {
            for request in requests() {
                let response = send_request(&server, request.header("origin", origin), "x").await;
                assert_eq!(response.error_status_and_code(), (403, "not_allowed".to_owned()));
                assert_eq!(allowed_origin(&response), None, "{origin}");
                let message = response.json()["error"]["message"].to_string();
                assert!(message.contains("--origins"), "{message}");
            }
            let request = HANDSHAKE.replace("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"));
            let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
            assert!(raw.read_head().await.starts_with("HTTP/1.1 403"), "{origin}");
        }
        assert_eq!(get(&server, "/topics/a").await.status, StatusCode::NOT_FOUND, "published");
    }
}

#[tokio::test]
async fn page_of_the_node_and_page_of_a_listed_origin_may_do_everything() {
    let server = with_listed_origin().await;
    let own = format!("http://{}", server.http);
    for (origin, allowed) in [(own.as_str(), None), (LISTED, Some(LISTED))] {
        for request in requests() {
            let is_handshake = request.uri_ref().is_some_and(|uri| uri.path() == "/ws");
            let response = send_request(&server, request.header("origin", origin), "x").await;
            // The handshake of this list is incomplete.
            assert_eq!(response.status.is_success(), !is_handshake, "{}", response.status);
            assert_eq!(allowed_origin(&response), allowed);
            assert!(response.headers.get_all("vary").iter().any(|name| name == "origin"));
        }
        let request = HANDSHAKE.replace("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"));
        let request = request.replace("Host: localhost", &format!("Host: {}", server.http));
        let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }
}

#[tokio::test]
async fn listed_page_can_read_errors_and_preflights() {
    let server = with_listed_origin().await;
    let put = Request::builder().method(Method::PUT).uri("/topics/a");
    for (request, status) in [
        (Request::get("/topics/a"), 404),
        (Request::get("/topics/a//b"), 400),
        (Request::get("/nothing"), 404),
        (Request::post("/topics/$sys/a"), 403),
        (put, 405),
        (Request::get("/ws"), 426),
        (Request::post("/ws"), 405),
    ] {
        let response = send_request(&server, request.header("origin", LISTED), "x").await;
        assert_eq!(response.status, status);
        assert_eq!(allowed_origin(&response), Some(LISTED));
    }
    let preflight = Request::builder().method(Method::OPTIONS).uri("/topics/a");
    let response = send_request(&server, preflight.header("origin", LISTED), "").await;
    assert_eq!(response.status, StatusCode::NO_CONTENT);
    assert!(response.header("access-control-allow-methods").contains("POST"));
    for name in ["authorization", "content-type", "idempotency-key"] {
        assert!(response.header("access-control-allow-headers").contains(name), "{name}");
    }
    assert!(!response.headers.contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn every_page_may_use_a_node_that_allows_any_origin() {
    let origins = AllowedOrigins::parse(["*"]).expect("valid");
    let server = TestGateway::with_config(|config| config.origins = origins).await;
    for origin in [FOREIGN, "null"] {
        let publish = Request::post("/topics/a").header("origin", origin);
        let response = send_request(&server, publish, "x").await;
        assert_eq!((response.status, allowed_origin(&response)), (StatusCode::OK, Some("*")));
        let rebound = Request::get("/topics/a").header("host", "rebound.example");
        assert_eq!(send_request(&server, rebound, "").await.status, StatusCode::OK);
    }
}

/// The name of the page first resolves to its own server and then to the loopback address of the visitor.
#[tokio::test]
async fn dns_rebinding_to_a_loopback_listener_is_rejected() {
    let server = with_listed_origin().await;
    for host in ["rebound.example", "rebound.example:7080", "localhost.rebound.example", "10.0.0.1"]
    {
        for request in [Request::post("/topics/a"), Request::get("/topics/a"), Request::get("/ws")]
        {
            let origin = format!("http://{host}");
            let request = request.header("host", host).header("origin", origin);
            let response = send_request(&server, request, "x").await;
            assert_eq!(response.error_status_and_code(), (403, "not_allowed".to_owned()), "{host}");
        }
    }
    for host in ["localhost", "127.0.0.1:9", "[::1]", "www.example.com"] {
        let response =
            send_request(&server, Request::get("/health/live").header("host", host), "").await;
        assert_eq!(response.status, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn cookies_change_nothing_and_are_never_set() {
    let server = with_listed_origin().await;
    for cookie in ["token=secret", "session=1; authorization=Bearer x"] {
        let foreign = Request::post("/topics/a").header("origin", FOREIGN).header("cookie", cookie);
        assert_eq!(send_request(&server, foreign, "x").await.status, StatusCode::FORBIDDEN);
        let plain = get(&server, "/topics/a").await;
        let with_cookie =
            send_request(&server, Request::get("/topics/a").header("cookie", cookie), "").await;
        assert_eq!((plain.status, plain.body), (with_cookie.status, with_cookie.body));
        assert!(!with_cookie.headers.contains_key("set-cookie"));
        assert!(!with_cookie.headers.contains_key("access-control-allow-credentials"));
    }
}

#[tokio::test]
async fn payload_is_never_active_content_of_the_node() {
    let server = TestGateway::start().await;
    for (kind, is_file) in [
        ("text/html", true),
        ("image/svg+xml", true),
        ("application/xml", true),
        ("text/javascript", true),
        ("image/png", false),
        ("text/plain; charset=utf-8", false),
    ] {
        let publish = Request::post("/topics/a").header("content-type", kind);
        send_request(&server, publish, "<script>alert(1)</script>").await;
        let response = get(&server, "/topics/a").await;
        assert_eq!(response.header("content-type"), kind);
        assert_inert(&response);
        assert_eq!(response.headers.contains_key("content-disposition"), is_file, "{kind}");
    }
    for path in
        ["/topics/a?last=1", "/topics/a?audience", "/health/live", "/nothing", "/ws", "/topics/%"]
    {
        assert_inert(&get(&server, path).await);
    }
}

fn assert_inert(response: &TestResponse) {
    let policy = response.header("content-security-policy");
    assert!(policy.contains("sandbox") && policy.contains("default-src 'none'"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(response.header(name), value);
    }
}

#[tokio::test]
async fn content_type_that_could_break_out_of_its_header_is_rejected() {
    let server = TestGateway::start().await;
    let long = format!("a/{}", "b".repeat(200));
    for kind in ["a", "a/b/c", "text/plain; a=\"\u{e9}\"", &long] {
        let publish = Request::post("/topics/a").header("content-type", kind.as_bytes());
        assert_eq!(
            send_request(&server, publish, "x").await.status,
            StatusCode::BAD_REQUEST,
            "{kind}"
        );
    }
    let request = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\rX: y\r\nContent-Length: 1\r\n\r\nx";
    let mut raw = RawConnection::connect(server.http, request.as_bytes()).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 400"));
    // Line breaks in a payload are content.
    post(&server, "/topics/a", "a\r\n\r\nHTTP/1.1 200 OK\r\n").await;
    assert_eq!(get(&server, "/topics/a").await.body, "a\r\n\r\nHTTP/1.1 200 OK\r\n");
}

/// `%2F` in a path is the separator of the segments of a topic; other spellings are other topics.
#[tokio::test]
async fn names_that_resemble_each_other_are_different_topics_or_rejected() {
    let server = TestGateway::start().await;
    post(&server, "/topics/a_b/c", "1").await;
    post(&server, "/topics/a%252Fb", "2").await;
    for (path, body) in [("/topics/a_b/c", "1"), ("/topics/a_b%2fc", "1"), ("/topics/a%252Fb", "2")]
    {
        assert_eq!(get(&server, path).await.body, body, "{path}");
    }
    for path in ["/topics/a/b_c", "/topics/A_b/c", "/topics/a/b", "/topics/%D0%B0_b/c"] {
        assert_eq!(get(&server, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in [
        "/topics/a%E2%80%AEb",
        "/topics/a%E2%80%8Bb",
        "/topics/a%C2%A0b",
        "/topics/a%0D%0AX:%20y",
        "/topics/a%00",
        "/topics/a/%2e%2e/b",
        "/topics/a/../b",
        "/topics/a%20",
        "/topics/%2Fa",
    ] {
        let response = post(&server, path, "x").await;
        assert_eq!(response.error_status_and_code(), (400, "bad_topic".to_owned()), "{path}");
    }
}

/// The only permit is in use, so every other connection gets one response.
#[tokio::test]
async fn listed_page_can_read_the_503_of_a_full_server() {
    let origins = AllowedOrigins::parse([LISTED]).expect("an origin");
    let server = TestGateway::with_config(|config| {
        config.origins = origins;
        (config.connections_max, config.lanes) = (1, 1);
    })
    .await;
    let session = RawConnection::session(server.http, b"").await;
    let response = send_request(&server, Request::get("/ws").header("origin", LISTED), "").await;
    assert_eq!(response.error_status_and_code(), (503, "overloaded".to_owned()));
    assert_eq!(allowed_origin(&response), Some(LISTED));
    // A connection without a permit gets 503 before its request is read.
    let mut silent = Vec::new();
    for _ in 0..17 {
        silent.push(RawConnection::connect(server.http, b"").await);
    }
    let response = silent[0].read_to_end().await.to_lowercase();
    assert!(response.starts_with("http/1.1 503"), "{response}");
    assert!(response.contains("x-content-type-options: nosniff"), "{response}");
    assert!(!response.contains("access-control"), "the origin is not known yet: {response}");
    drop((silent, session));
}

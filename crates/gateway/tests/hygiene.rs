//! Requests that HTTP parsers read differently, and handshakes with parts that do not belong to one.

mod support;

use pushonce_proto::close;

use support::TestGateway;
use support::raw::{HANDSHAKE, RawConnection};

const GET: &str = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends requests, the last of which ends the connection, and returns all responses.
async fn response_to(server: &TestGateway, requests: &str) -> String {
    RawConnection::connect(server.http, requests.as_bytes()).await.read_to_end().await
}

#[tokio::test]
async fn ambiguous_request_is_rejected_with_the_reason_and_ends_the_connection() {
    let server = TestGateway::start().await;
    let post = |lengths: &str, body: &str| {
        format!("POST /topics/a HTTP/1.1\r\nHost: localhost\r\n{lengths}\r\n\r\n{body}")
    };
    for (request, reason) in [
        (GET.replace("\r\n", "\n"), "CR LF"),
        (GET.replace("localhost\r\n", "localhost\n"), "CR LF"),
        (GET.replacen("\r\n", "\n", 1), "CR LF"),
        (post("Content-Length: 1\r\nContent-Length: 1", "x"), "Content-Length once"),
        (
            post("Content-Length: 1\r\nTransfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n"),
            "not both",
        ),
        (
            post("Transfer-Encoding: chunked\r\nContent-Length: 1", "1\r\nx\r\n0\r\n\r\n"),
            "not both",
        ),
        (
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            "Transfer-Encoding once",
        ),
    ] {
        // The request behind it would be a smuggled one.
        let response = response_to(&server, &format!("{request}{GET}")).await;
        assert!(response.starts_with("HTTP/1.1 400"), "{request:?}: {response}");
        assert!(response.contains(reason) && response.contains("bad_request"), "{response}");
        assert!(response.to_lowercase().contains("connection: close"), "{response}");
        assert_eq!(response.matches("HTTP/1.1").count(), 1, "{request:?}: {response}");
    }
}

/// As a gRPC client sends it that was given the wrong port.
#[tokio::test]
async fn http2_without_tls_is_answered_with_its_reason() {
    let server = TestGateway::start().await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let response = response_to(&server, preface).await;
    assert!(response.starts_with("HTTP/1.1 505 "), "{response}");
}

/// hyper rejects these by itself, without a body.
#[tokio::test]
async fn malformed_request_is_rejected() {
    let server = TestGateway::start().await;
    for request in [
        GET.replace("\r\n\r\n", "\r\n folded\r\n\r\n"),
        GET.replace("\r\n\r\n", "\r\nX: a\r\n\tfolded\r\n\r\n"),
        GET.replace("localhost", "local\0host"),
        GET.replace("/health/live", "/health/live\0"),
        GET.replace("\r\n\r\n", "\r\nX\0: a\r\n\r\n"),
        GET.replace("Host:", "Host :"),
        GET.replace("\r\n\r\n", "\r\nX: a\rb\r\n\r\n"),
        GET.replace("\r\n\r\n", "\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        GET.replace("\r\n\r\n", "\r\nContent-Length: +1\r\n\r\n"),
        GET.replace("\r\n\r\n", "\r\nContent-Length: -1\r\n\r\n"),
        GET.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
        GET.replace("HTTP/1.1", "HTTP/1.9"),
        GET.replace("GET /", "GET  /"),
    ] {
        let response = response_to(&server, &format!("{request}{GET}")).await;
        assert!(response.starts_with("HTTP/1.1 400"), "{request:?}: {response}");
        assert_eq!(response.matches("HTTP/1.1").count(), 1, "{request:?}: {response}");
    }
}

#[tokio::test]
async fn wrong_host_target_or_path_is_rejected_with_the_reason() {
    let server = TestGateway::start().await;
    for (request, reason) in [
        (GET.replace("Host: localhost\r\n", ""), "Host exactly once"),
        (
            GET.replace("Host: localhost\r\n", "Host: localhost\r\nHost: localhost\r\n"),
            "Host exactly once",
        ),
        (GET.replace("localhost", ""), "HOST:PORT"),
        (GET.replace("localhost", "user@localhost"), "HOST:PORT"),
        (GET.replace("localhost", "localhost:x"), "HOST:PORT"),
        (GET.replace("/health/live", "http://localhost/health/live"), "no proxy"),
        (GET.replace("GET /health/live", "CONNECT localhost:80"), "no proxy"),
        (GET.replace("/health/live", "/topics/%"), "%25"),
        (GET.replace("/health/live", "/topics/a%2"), "%25"),
        (GET.replace("/health/live", "/topics/%zz"), "%25"),
        (HANDSHAKE.replace("/ws", "/ws%"), "%25"),
        (HANDSHAKE.replace("Host: localhost\r\n", ""), "Host exactly once"),
    ] {
        let request = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let response = response_to(&server, &request).await;
        assert!(response.starts_with("HTTP/1.1 400"), "{request:?}: {response}");
        assert!(response.contains(reason), "{request:?}: {response}");
    }
}

#[tokio::test]
async fn well_formed_pipelined_requests_are_served() {
    let server = TestGateway::start().await;
    let chunked = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        2;a=b\r\n\n\0\r\n1\r\nx\r\n0\r\n\r\n";
    let sized = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n\nx\n";
    let http_1_0 = "GET /health/live HTTP/1.0\r\n\r\n";
    let response =
        response_to(&server, &[GET, chunked, "\r\n", sized, GET, http_1_0].concat()).await;
    assert_eq!(response.matches(" 200 OK\r\n").count(), 5, "{response}");
}

#[tokio::test]
async fn ambiguous_request_behind_a_good_one_is_rejected_after_its_response() {
    let server = TestGateway::start().await;
    let sized = "POST /topics/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n\nx\n";
    let response =
        response_to(&server, &[GET, sized, &GET.replace("\r\n", "\n"), GET].concat()).await;
    let statuses: Vec<_> =
        response.split("HTTP/1.1 ").skip(1).filter_map(|part| part.split(' ').next()).collect();
    assert_eq!(statuses, ["200", "200", "400"], "{response}");
}

#[tokio::test]
async fn handshake_with_a_body_is_rejected() {
    let server = TestGateway::start().await;
    for length in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let request = HANDSHAKE.replace("\r\n\r\n", &format!("\r\n{length}\r\n\r\n"));
        let response = response_to(&server, &request).await;
        assert!(response.starts_with("HTTP/1.1 400") && response.contains("no body"), "{response}");
    }
}

#[tokio::test]
async fn frame_length_that_is_not_in_its_shortest_form_closes_the_session() {
    let server = TestGateway::start().await;
    for frame in [
        &b"\x81\xfe\0\x02\0\0\0\0hi"[..],
        b"\x81\xfe\0\x7d\0\0\0\0",
        b"\x81\xff\0\0\0\0\0\0\0\x02\0\0\0\0hi",
        b"\x81\xff\0\0\0\0\0\0\xff\xff\0\0\0\0",
    ] {
        let mut raw = RawConnection::session(server.http, frame).await;
        assert_eq!(raw.read_close_code().await, close::PROTOCOL_ERROR.code, "{frame:?}");
    }
}

//! Set-up: three nodes and one well-behaved subscriber.
//! Fault: clients with invalid input over every protocol: invalid topics, oversized payloads, unknown fields,
//! malformed frames, and random bytes.
//! Claim: each receives an error that tells what to change, other clients are not affected, and no node
//! fails.

use pushonce_client::Transport;
use pushonce_cluster_tests::{
    Ports, ProcessCluster, TestSubscriber, WebSocketClient, http_client, secs,
};
use pushonce_core::{Publish, StartFrom};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn invalid_input_is_answered_and_other_clients_are_unaffected() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let ports = cluster.node(1).ports;
    let mut viewer = cluster.subscriber(1, Transport::Ws, "good", StartFrom::Now);
    viewer.wait_subscribed(secs(5)).await;

    invalid_frames_get_error_replies(ports).await;
    assert_still_serves(&cluster, &mut viewer).await;
    malformed_frames_close_the_session(ports).await;
    assert_still_serves(&cluster, &mut viewer).await;
    invalid_handshakes_are_rejected(ports).await;
    assert_still_serves(&cluster, &mut viewer).await;
    invalid_queries_close_the_session(ports).await;
    assert_still_serves(&cluster, &mut viewer).await;
    invalid_http_requests_are_rejected(ports).await;
    assert_still_serves(&cluster, &mut viewer).await;
    invalid_grpc_calls_are_rejected(ports).await;
    assert_still_serves(&cluster, &mut viewer).await;
    random_bytes_do_not_harm_the_node(ports).await;
    assert_still_serves(&cluster, &mut viewer).await;
}

async fn invalid_frames_get_error_replies(ports: Ports) {
    let mut socket = WebSocketClient::open(ports.http, "").await;
    socket.subscribe("bad/frames").await;
    let large = "x".repeat(Publish::PAYLOAD_BYTES_DEFAULT + 1);
    let large = format!(r#"{{"id":7,"publish":{{"topic":"a","data":"{large}"}}}}"#);
    for (request, code, text) in [
        (r#"{"id":7,"subscribe":{"topic":"a//b"}}"#, "bad_topic", "empty"),
        (r#"{"id":7,"publish":{"topic":"","data":"x"}}"#, "bad_topic", "empty"),
        (r#"{"id":7,"publish":{"topic":"$sys/x","data":"x"}}"#, "not_allowed", "$"),
        (r#"{"id":7,"subscribe":{"topic":"bad/frames"}}"#, "already_subscribed", ""),
        (r#"{"id":7,"unsubscribe":{"topic":"never"}}"#, "not_subscribed", ""),
        (r#"{"id":7,"subscribe":{"topic":"a","fron":"now"}}"#, "unknown_field", "fron"),
        (r#"{"id":7,"shout":{"topic":"a"}}"#, "unknown_field", "shout"),
        (r#"{"id":7,"subscribe":{"topic":"a","from":{"position":"x"}}}"#, "bad_position", "x"),
        (
            r#"{"id":7,"subscribe":{"topic":"a","from":{"position":"9:9"}}}"#,
            "future_position",
            "9:9",
        ),
        (r#"{"id":7,"subscribe":{"topic":"a","delivery":"newest"}}"#, "bad_request", "latest"),
        (r#"{"id":7,"subscribe":{"topic":"a","delta":"vcdiff"}}"#, "not_supported", "fossil"),
        (&large, "too_large", "65536"),
    ] {
        let answer = socket.request(request).await;
        assert_error(&answer, code, text);
        assert_eq!(answer["id"], 7, "{answer}");
        assert_eq!(answer["error"]["retry"], false, "{answer}");
    }
    socket.subscribe("bad/but/this/is/good").await;
}

async fn malformed_frames_close_the_session(ports: Ports) {
    for text in ["", "hello", "[1,2", "null", "{\"id\":1", "\u{0}\u{1}"] {
        let mut socket = WebSocketClient::open(ports.http, "").await;
        assert_error(&socket.request(text).await, "bad_frame", "");
        assert_eq!(socket.next_frame().await, Err(4400), "{text:?}");
    }
}

async fn invalid_handshakes_are_rejected(ports: Ports) {
    let upgrade = "upgrade: websocket";
    let version = "sec-websocket-version: 13";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let chat = "sec-websocket-protocol: chat";
    for (path, headers, status, text) in [
        ("/ws", vec![upgrade, version, key, chat], 400, "pushonce.v1.json"),
        ("/ws", vec![upgrade, key, "sec-websocket-version: 8"], 426, "13"),
    ] {
        let headers: Vec<_> = headers.into_iter().chain(["connection: upgrade"]).collect();
        let answer = http_client::request(ports.http, "GET", path, &headers, b"").await;
        let answer = answer.expect("a response");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!([&answer.body, &answer.header_text].iter().any(|t| t.contains(text)), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    }
}

async fn invalid_queries_close_the_session(ports: Ports) {
    for (query, code) in [("?topic=a//b", "bad_topic"), ("?topic=a&from=yesterday", "bad_position")]
    {
        let mut socket = WebSocketClient::open(ports.http, query).await;
        assert_error(&socket.next_frame().await.expect("an error frame"), code, "");
        assert_eq!(socket.next_frame().await, Err(4400), "{query:?}");
    }
}

async fn invalid_http_requests_are_rejected(ports: Ports) {
    let over_namespace_limit = vec![b'x'; Publish::PAYLOAD_BYTES_DEFAULT + 1];
    let over_hard_limit = vec![b'x'; Publish::PAYLOAD_BYTES_CAP + 1];
    for (method, path, body, status, code) in [
        ("POST", "/topics/a//b", &b"x"[..], 400, "bad_topic"),
        ("POST", "/topics/%ff", b"x", 400, "bad_topic"),
        ("POST", "/topics/$sys/x", b"x", 403, "not_allowed"),
        ("POST", "/topics/a", &over_namespace_limit, 413, "too_large"),
        ("POST", "/topics/a", &over_hard_limit, 413, "too_large"),
        ("GET", "/topics/a//b", b"", 400, "bad_topic"),
        ("GET", "/topics/nobody/wrote", b"", 404, "no_message"),
        ("GET", "/topics/a?last=0", b"", 400, "bad_request"),
        ("GET", "/topics/a?first=1", b"", 400, "bad_request"),
        ("GET", "/nowhere", b"", 404, "not_found"),
        ("DELETE", "/topics/a", b"", 405, "method_not_allowed"),
        ("POST", "/cluster", b"x", 405, "method_not_allowed"),
        ("GET", "/cluster?topics=a", b"", 400, "bad_request"),
    ] {
        let answer =
            http_client::request(ports.http, method, path, &[], body).await.expect("a response");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
        let origin = answer.header("access-control-allow-origin");
        assert_eq!(origin, None, "no other origin is listed: {answer:?}");
        assert_error(&answer.json(), code, "");
    }
}

async fn invalid_grpc_calls_are_rejected(ports: Ports) {
    let client = PublisherServiceClient::connect(format!("http://{}", ports.grpc)).await;
    let mut client = client.expect("connect");
    let publish = |topic: &str, len: usize| pb::PublishRequest {
        topic: topic.to_owned(),
        payload: vec![b'x'; len].into(),
        ..Default::default()
    };
    let invalid = Code::InvalidArgument;
    for (request, text) in [
        (publish("a//b", 1), "empty"),
        (publish("$sys/x", 1), "$"),
        (publish("a", Publish::PAYLOAD_BYTES_DEFAULT + 1), "65536"),
        (pb::PublishRequest { key: "k".repeat(129), ..publish("a", 1) }, "key"),
        (pb::PublishRequest { content_type: "application/json".into(), ..publish("a", 1) }, "JSON"),
    ] {
        let status = client.publish(request.clone()).await.expect_err("a rejection");
        assert_eq!(status.code(), invalid, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");

        // In a stream the error is one of the replies, and the stream continues.
        let requests = futures::stream::iter([request, publish("bad/stream", 1)].map(Into::into));
        let mut answers =
            client.publish_stream(requests).await.expect("open a stream").into_inner();
        use pb::publish_stream_response::Outcome;
        let mut next =
            async || answers.message().await.expect("the stream continues").and_then(|a| a.outcome);
        assert!(matches!(next().await, Some(Outcome::Failed(f)) if f.message.contains(text)));
        assert!(matches!(next().await, Some(Outcome::Published(_))));
    }
    for (topic, position, code) in
        [("a//b", "1:1", invalid), ("a", "x", invalid), ("a", "9:9", Code::OutOfRange)]
    {
        let kind = Some(pb::start_from::Kind::Position(position.to_owned()));
        let request = pb::SubscribeRequest {
            topic: topic.to_owned(),
            start_from: Some(pb::StartFrom { kind }),
            ..pb::SubscribeRequest::default()
        };
        let status = client.subscribe(request).await.expect_err("a rejection");
        assert_eq!(status.code(), code, "{status:?}");
    }
}

/// Random bytes on every port, as on the public internet.
async fn random_bytes_do_not_harm_the_node(ports: Ports) {
    let mut rng = StdRng::seed_from_u64(41);
    for address in [ports.http, ports.grpc, ports.peer] {
        for len in [1, 100, 10_000, 100_000] {
            let mut noise = vec![0; len];
            rng.fill_bytes(&mut noise);
            for start in [&b""[..], b"GET /ws HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
                let mut stream = TcpStream::connect(address).await.expect("connect");
                // The node may close the connection before it has read everything.
                let _ = stream.write_all(&[start, &noise].concat()).await;
                let _ = stream.shutdown().await;
                let mut answer = Vec::new();
                let closed = tokio::time::timeout(secs(15), stream.read_to_end(&mut answer)).await;
                assert!(closed.is_ok(), "{address} does not close the connection");
            }
        }
    }
    let socket = UdpSocket::bind((ports.quic.ip(), 0)).await.expect("bind a free port");
    for len in (0..1_500).step_by(3) {
        let mut noise = vec![0; len];
        rng.fill_bytes(&mut noise);
        socket.send_to(&noise, ports.quic).await.expect("send");
    }
}

/// Checks that well-behaved clients are still served over every transport.
async fn assert_still_serves(cluster: &ProcessCluster, viewer: &mut TestSubscriber) {
    let log = cluster.publish_numbers(1, "good", 0..1).await;
    assert_eq!(viewer.next_messages(1, secs(5)).await, log);
    for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
        let mut late_viewer = cluster.subscriber(1, transport, "good", StartFrom::Last(1));
        assert_eq!(late_viewer.next_messages(1, secs(5)).await, log);
    }
}

fn assert_error(answer: &Value, code: &str, text: &str) {
    let error = &answer["error"];
    assert_eq!(error["code"], code, "{answer}");
    let message = error["message"].as_str().expect("an error message");
    assert!(!message.is_empty() && message.contains(text), "{text:?} is not in {message:?}");
}

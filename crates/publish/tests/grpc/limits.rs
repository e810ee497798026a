//! Hostile HTTP/2 clients. Each has a publisher beside it that must not notice.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::publisher::v1::PublishStreamRequest;
use pushonce_proto::pb::publisher::v1::publish_stream_response::Outcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{LIVE, NEW_TOPIC_RATE, SUBSCRIBE_RATE, TestServer, request, subscribe_request};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PUBLISH: &str = "/pushonce.publisher.v1.PublisherService/Publish";
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Types of HTTP/2 frames (RFC 9113, 6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// Flags of HEADERS.
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of a publish (RFC 7541): indexed fields of the static table, and literals without indexing.
fn publish_headers() -> Vec<u8> {
    let literal = |index: &[u8], value: &str| {
        let length = u8::try_from(value.len()).expect("below 127");
        [index, &[length], value.as_bytes()].concat()
    };
    let path = literal(&[0x04], PUBLISH);
    let authority = literal(&[0x01], "node");
    let content_type = literal(&[0x0f, 0x10], "application/grpc");
    [&[0x83, 0x86][..], &path, &authority, &content_type].concat()
}

/// Opens an HTTP/2 connection from this address, without reading what the server sends.
async fn connect_from(source: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((source, 0).into()).expect("an address of this host");
    let mut stream = socket.connect(server).await.expect("connected");
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    stream.write_all(&opening).await.expect("sent");
    stream
}

/// Reads to the end of the connection and returns the types of the received frames.
async fn frames_until_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    // A reset is an end as well.
    while let Ok(len @ 1..) = timeout(TEST_TIMEOUT, stream.read(&mut buffer)).await.expect("an end")
    {
        received.extend(&buffer[..len]);
    }
    let (mut kinds, mut rest) = (Vec::new(), &received[..]);
    while let [high, middle, low, kind, ..] = *rest {
        kinds.push(kind);
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    kinds
}

async fn assert_publishes(node: &TestServer) {
    let mut publisher = node.publisher().await;
    for _ in 0..10 {
        publisher.publish(request("a", "x")).await.expect("others must not notice");
    }
}

#[tokio::test]
async fn client_that_resets_its_calls_at_once_is_disconnected() {
    let node = TestServer::start().await;
    let mut publisher = node.publisher().await;
    let mut hostile = connect_from([127, 0, 0, 2], node.addr).await;
    let headers = publish_headers();
    let begin_and_reset = |call: u32| {
        let begin = frame(HEADERS, END_HEADERS, 2 * call + 1, &headers);
        [begin, frame(RST_STREAM, 0, 2 * call + 1, &8_u32.to_be_bytes())].concat()
    };
    let flood: Vec<u8> = (0..10_000).flat_map(begin_and_reset).collect();
    // Sending fails when the server has closed the connection already.
    let _ = hostile.write_all(&flood).await;
    let kinds = frames_until_end(&mut hostile).await;
    assert!(kinds.len() < 1_000, "the server answered {} frames", kinds.len());
    publisher.publish(request("a", "x")).await.expect("an open connection is not affected");
    assert_publishes(&node).await;
}

#[tokio::test]
async fn endless_header_block_ends_the_connection() {
    let node = TestServer::start().await;
    let mut hostile = connect_from([127, 0, 0, 2], node.addr).await;
    let begin = frame(HEADERS, 0, 1, &publish_headers());
    hostile.write_all(&begin).await.expect("sent");
    let literal = [&[0x00, 0x01, b'x', 0x7f, 0x01][..], &[b'y'; 128]].concat();
    let part = frame(CONTINUATION, 0, 1, &literal.repeat(100));
    for _ in 0..1_000 {
        if hostile.write_all(&part).await.is_err() {
            break;
        }
    }
    let kinds = frames_until_end(&mut hostile).await;
    assert!(kinds.len() < 100, "the server answered {} frames", kinds.len());
    assert_publishes(&node).await;
}

#[tokio::test]
async fn frame_above_the_maximum_ends_the_connection() {
    let node = TestServer::start().await;
    let mut hostile = connect_from([127, 0, 0, 2], node.addr).await;
    let _ = hostile.write_all(&frame(HEADERS, END_HEADERS, 1, &vec![0; 1 << 20])).await;
    let kinds = frames_until_end(&mut hostile).await;
    assert!(kinds.contains(&GOAWAY) || kinds.is_empty(), "{kinds:?}");
    assert_publishes(&node).await;
}

#[tokio::test(start_paused = true)]
async fn connection_that_answers_no_ping_is_closed() {
    let node = TestServer::start().await;
    let mut silent = connect_from([127, 0, 0, 2], node.addr).await;
    // The clock is paused: it advances to the next deadline of the server.
    let mut buffer = [0; 4096];
    let ended = async { while silent.read(&mut buffer).await.is_ok_and(|len| len > 0) {} };
    timeout(Duration::from_secs(120), ended).await.expect("a silent connection is closed");
}

/// A call whose message is half sent.
struct HalfSent {
    response: h2::client::ResponseFuture,
    _body: h2::SendStream<Bytes>,
}

/// Begins a publish of a message of `announced` bytes and sends `sent` of them.
async fn send_half(
    connection: &mut h2::client::SendRequest<Bytes>,
    announced: u32,
    sent: usize,
) -> HalfSent {
    let call = http::Request::post(format!("http://node{PUBLISH}"))
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    let (response, mut body) = connection.send_request(call, false).expect("open");
    let bytes = [&[0][..], &announced.to_be_bytes(), &vec![0; sent]].concat();
    body.send_data(bytes.into(), false).expect("open");
    HalfSent { response, _body: body }
}

#[tokio::test]
async fn half_sent_messages_above_the_budget_are_refused_and_a_publisher_beside_them_is_not() {
    let node = TestServer::start().await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 2], 0).into()).expect("an address of this host");
    let stream = socket.connect(node.addr).await.expect("connected");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("open");
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(send_half(&mut client, 2_000_000, 1_000_000).await);
    }
    let responses = futures::future::select_all(calls.iter_mut().map(|call| &mut call.response));
    let (response, _, _) = timeout(TEST_TIMEOUT, responses).await.expect("one is refused");
    let response = response.expect("a response");
    assert_eq!(response.headers()["grpc-status"], "8", "{response:?}");
    assert_eq!(response.headers()[pushonce_proto::publisher::OUTCOME_HEADER], "refused");
    let status = tonic::Status::from_header_map(response.headers()).expect("a status");
    let reason = pushonce_proto::error_details::ErrorReason::from_status(&status).expect("ours");
    assert!(reason.code == ErrorCode::Overloaded && reason.retry && reason.retry_delay.is_some());
    assert_publishes(&node).await;
}

#[tokio::test(start_paused = true)]
async fn message_that_is_not_complete_in_time_is_refused() {
    let node = TestServer::start().await;
    let stream = TcpStream::connect(node.addr).await.expect("connected");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("open");
    let call = send_half(&mut client, 100, 10).await;
    let response = timeout(Duration::from_secs(60), call.response).await.expect("in time");
    let response = response.expect("a response");
    assert_eq!(response.headers()["grpc-status"], "8", "{response:?}");
}

#[tokio::test]
async fn subscribe_rate_of_a_caller_is_limited_and_another_caller_is_not() {
    let node = TestServer::start().await;
    let mut stranger = node.stranger().await;
    let mut streams = Vec::new();
    let status = loop {
        match stranger.subscribe(subscribe_request(LIVE)).await {
            Ok(stream) => streams.push(stream),
            Err(status) => break status,
        }
    };
    // More than the burst only if the machine took a second for it.
    assert!(streams.len() >= 10 * SUBSCRIBE_RATE as usize, "{}", streams.len());
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    let reason = ErrorReason::from_status(&status).expect("a reason");
    assert!(reason.retry && reason.retry_delay.is_some(), "{reason:?}");
    assert!(status.message().contains("--subscribe-rate-max"), "{status:?}");
    assert_eq!(node.recorder.value("pushonce_listener_subscribes_rejected_total", &[]), 1.0);
    node.publisher().await.subscribe(subscribe_request(LIVE)).await.expect("this host");
}

#[tokio::test]
async fn caller_that_creates_topics_too_fast_waits_and_another_caller_does_not() {
    let node = TestServer::start().await;
    let mut stranger = node.stranger().await;
    let mut created = 0;
    let status = loop {
        match stranger.publish(request(&format!("new/{created}"), "x")).await {
            Ok(_) => created += 1,
            Err(status) => break status,
        }
    };
    assert!(created > 100 * NEW_TOPIC_RATE, "{created}");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    let outcome = status.metadata().get(pushonce_proto::publisher::OUTCOME_HEADER);
    assert_eq!(outcome.expect("an outcome"), "refused");
    let reason = ErrorReason::from_status(&status).expect("a reason");
    assert!(reason.retry && reason.retry_delay.is_some(), "{reason:?}");
    assert!(status.message().contains("--new-topic-rate-max"), "{status:?}");

    let created_by_stream =
        |nth: u32| PublishStreamRequest::from(request(&format!("s/{nth}"), "x"));
    let requests = stream::iter((0..500).map(created_by_stream));
    let replies = stranger.publish_stream(requests).await.expect("open").into_inner();
    let replies: Vec<_> = replies.map(|reply| reply.expect("a reply").outcome).collect().await;
    assert!(replies.iter().any(|outcome| matches!(outcome, Some(Outcome::Failed(failure))
        if failure.code == tonic::Code::ResourceExhausted as i32 && failure.retry)));
    assert!(node.recorder.value("pushonce_listener_new_topics_rejected_total", &[]) >= 2.0);
    assert_publishes(&node).await;
}

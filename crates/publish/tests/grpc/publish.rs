//! `Publish` and `PublishStream`: acknowledgements, rejections, messages that cannot be decoded.

use bytes::{Buf, BufMut, Bytes};
use futures::{StreamExt, stream};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::publisher::v1::publish_stream_response::Outcome;
use pushonce_proto::pb::publisher::v1::{PublishRequest, PublishStreamRequest};
use pushonce_proto::publisher;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use super::{TestServer, request};

#[tokio::test]
async fn publish_is_acknowledged_with_its_position() {
    let mut publisher = TestServer::start().await.publisher().await;
    for offset in 1..=2 {
        let reply = publisher.publish(request("a", "{}")).await.expect("acknowledged");
        assert_eq!(reply.into_inner().position, format!("7:{offset}"));
    }
}

#[tokio::test]
async fn invalid_publish_is_rejected_with_a_hint() {
    let mut publisher = TestServer::start().await.publisher().await;
    for (invalid, hint, reason) in [
        (request("a//b", "x"), "segment 2 of the topic is empty", ErrorCode::BadTopic),
        (request("", "x"), "the topic is empty", ErrorCode::BadTopic),
        (request("$sys/nodes", "x"), "choose another name", ErrorCode::NotAllowed),
        (request("a", vec![b'x'; (64 << 10) + 1]), "at most 65536", ErrorCode::TooLarge),
        (
            PublishRequest { key: "k".repeat(129), ..request("a", "x") },
            "a key is 1 to 128",
            ErrorCode::BadRequest,
        ),
        (
            PublishRequest { content_type: "application/json".to_owned(), ..request("a", "{") },
            "not JSON",
            ErrorCode::BadRequest,
        ),
    ] {
        let status = publisher.publish(invalid).await.expect_err("rejected");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(ErrorReason::from_status(&status), Some(reason.into()), "{status:?}");
        assert!(status.message().contains(hint), "{status:?}");
    }
}

#[tokio::test]
async fn oversized_message_is_rejected_and_the_connection_stays_open() {
    let mut publisher = TestServer::start().await.publisher().await;
    let status = publisher.publish(request("a", vec![0; 3 << 20])).await.expect_err("rejected");
    // The outcome must be set: without it a publisher treats the status as unknown and retries.
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let reason = Some(ErrorCode::TooLarge.into());
    assert_eq!(ErrorReason::from_status(&status), reason, "{status:?}");
    assert_eq!(
        status.metadata().get(publisher::OUTCOME_HEADER),
        Some(&"refused".parse().expect("ASCII")),
        "{status:?}"
    );
    assert!(publisher.publish(request("a", "x")).await.is_ok());
    let requests =
        [request("a", "x"), request("a", vec![0; 3 << 20])].map(PublishStreamRequest::from);
    let replies = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    let mut replies = replies.into_inner();
    assert_eq!(replies.message().await.expect("acknowledged").expect("a reply").sequence, 1);
    let status = replies.message().await.expect_err("the stream ends");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

/// A codec that sends bytes unchanged.
#[derive(Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(bytes);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A `PublishStreamRequest` with the topic `a` and nothing else.
const MESSAGE: Bytes = Bytes::from_static(b"\x0a\x03\x0a\x01a");

/// A topic that is longer than the message.
const GARBAGE: Bytes = Bytes::from_static(b"\x0a\xffgarbage");

/// Asserts a rejection that a publisher does not retry.
fn assert_rejected_permanently(status: &Status, text: &str) {
    assert!(status.message().contains(text), "{status:?}");
    let failure = publisher::PublishFailure::from(status);
    let is_rejected = matches!(failure, publisher::PublishFailure::Rejected { retry: false, .. });
    assert!(is_rejected, "{failure:?}: {status:?}");
}

#[tokio::test]
async fn undecodable_message_is_rejected_permanently() {
    let mut grpc = tonic::client::Grpc::new(TestServer::start().await.channel().await);
    let path = |call: &str| {
        let path = format!("/pushonce.publisher.v1.PublisherService/{call}");
        tonic::codegen::http::uri::PathAndQuery::try_from(path).expect("a path")
    };
    grpc.ready().await.expect("ready");
    let rejected = grpc.unary(tonic::Request::new(GARBAGE), path("Publish"), RawCodec).await;
    assert_rejected_permanently(&rejected.expect_err("rejected"), "cannot be decoded");

    grpc.ready().await.expect("ready");
    let requests = tonic::Request::new(stream::iter([MESSAGE, GARBAGE, MESSAGE]));
    let replies = grpc.streaming(requests, path("PublishStream"), RawCodec).await.expect("open");
    let mut replies = replies.into_inner();
    assert!(replies.message().await.expect("a reply to the first message").is_some());
    let end = replies.message().await.expect_err("the stream ends");
    assert_rejected_permanently(&end, "cannot be decoded");
}

#[tokio::test]
async fn compressed_message_is_rejected_permanently() {
    let publisher = TestServer::start().await.publisher().await;
    let mut publisher = publisher.send_compressed(CompressionEncoding::Gzip);
    let status = publisher.publish(request("a", "x")).await.expect_err("rejected");
    assert_rejected_permanently(&status, "without compression");
    let accepted = status.metadata().get("grpc-accept-encoding");
    assert_eq!(accepted, Some(&"identity".parse().expect("ASCII")), "{status:?}");

    let replies = publisher.publish_stream(stream::iter([request("a", "x").into()])).await;
    assert_rejected_permanently(&replies.expect_err("rejected"), "without compression");
}

#[tokio::test]
async fn idempotency_key_in_metadata_is_rejected() {
    let mut publisher = TestServer::start().await.publisher().await;
    let mut misplaced = tonic::Request::new(request("a", "x"));
    misplaced.metadata_mut().insert("idempotency-key", "k".parse().expect("ASCII"));
    let status = publisher.publish(misplaced).await.expect_err("rejected");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(
        status.metadata().get(publisher::OUTCOME_HEADER),
        Some(&"refused".parse().expect("ASCII")),
        "{status:?}"
    );
    assert!(status.message().contains("`key`"), "{status:?}");
}

#[tokio::test]
async fn time_of_every_publish_is_recorded_by_call() {
    let server = TestServer::start().await;
    let mut publisher = server.publisher().await;
    publisher.publish(request("a", "x")).await.expect("acknowledged");
    publisher.publish(request("$no", "x")).await.expect_err("rejected");
    let requests = ["a", "$no", "b"].map(|topic| request(topic, "x").into());
    let replies = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    assert_eq!(replies.into_inner().count().await, 3);
    let count = |call| server.recorder.observations("pushonce_publish_grpc_seconds", &[call]).len();
    assert_eq!((count("unary"), count("stream")), (2, 3));
}

#[tokio::test]
async fn publish_stream_is_acknowledged_in_order_and_continues_after_a_rejection() {
    let mut publisher = TestServer::start().await.publisher().await;
    let topics = (0..1_000).map(|n| if n == 500 { "$no" } else { ["a", "b", "c"][n % 3] });
    let requests: Vec<_> = topics.map(|topic| request(topic, "x").into()).collect();
    let replies = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    let replies: Vec<_> = replies.into_inner().map(|reply| reply.expect("a reply")).collect().await;
    let sequences: Vec<_> = replies.iter().map(|reply| reply.sequence).collect();
    assert_eq!(sequences, (1..=1_000).collect::<Vec<_>>());
    for (n, reply) in replies.into_iter().enumerate() {
        match reply.outcome.expect("an outcome") {
            Outcome::Published(_) => assert_ne!(n, 500),
            Outcome::Failed(failure) => {
                assert_eq!(
                    (n, failure.code, failure.retry),
                    (500, Code::InvalidArgument as i32, false)
                );
            }
        }
    }
}

#[tokio::test]
async fn publish_rate_of_a_namespace_holds_for_calls_and_streams() {
    let server = TestServer::start().await;
    let mut publisher = server.stranger().await;
    let status = loop {
        if let Err(status) = publisher.publish(request("limited/7", "x")).await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let reason = ErrorReason::from_status(&status).expect("a reason");
    assert!(reason.retry && reason.retry_delay.is_some(), "{reason:?}");
    let requests = vec![PublishStreamRequest::from(request("limited/7", "x")); 100];
    let replies = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    let replies: Vec<_> = replies.into_inner().map(|reply| reply.expect("a reply")).collect().await;
    let is_limited = |outcome: Option<Outcome>| {
        matches!(outcome, Some(Outcome::Failed(failure))
            if failure.code == Code::ResourceExhausted as i32 && failure.retry)
    };
    assert!(replies.into_iter().any(|reply| is_limited(reply.outcome)));
    assert!(publisher.publish(request("a", "x")).await.is_ok(), "another namespace");
}

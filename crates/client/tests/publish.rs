//! Set-up: a publisher and scripted gRPC servers. Claim: it retries the same message at the next server
//! with the same identity, and returns the three outcomes.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use pushonce_client::{ErrorCode, PublishFailure, Publisher, ServerAddress};
use pushonce_core::{
    Acknowledgement, InvalidPublish, MessageKey, Publish, PublishError, PublishRejection,
    Timestamp, UnavailableReason, test_util,
};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_server::{self, PublisherServiceServer};
use pushonce_proto::publisher::publish_status;
use pushonce_test_node::TestNode;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Gives the same reply to every publish, and records the requests.
struct RecordingPublisherService {
    reply: Result<Acknowledgement, PublishError>,
    requests: RecordedRequests,
}

type RecordedRequests = Arc<Mutex<Vec<pb::PublishRequest>>>;

#[tonic::async_trait]
impl publisher_service_server::PublisherService for RecordingPublisherService {
    type PublishStreamStream = BoxStream<'static, Result<pb::PublishStreamResponse, Status>>;
    type SubscribeStream = BoxStream<'static, Result<pb::SubscribeResponse, Status>>;

    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        self.requests.lock().unwrap().push(request.into_inner());
        match &self.reply {
            Ok(acknowledgement) => Ok(Response::new((*acknowledgement).into())),
            Err(error) => Err(publish_status(error)),
        }
    }

    /// Replies to two requests, then ends the call.
    async fn publish_stream(
        &self,
        requests: Request<Streaming<pb::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (reply, recorded) = (self.reply.clone(), self.requests.clone());
        let responses = requests.into_inner().take(2).enumerate().map(move |(index, request)| {
            recorded.lock().unwrap().push(request?.publish.unwrap());
            Ok(pb::PublishStreamResponse::from_outcome(index as u64 + 1, reply.clone()))
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn subscribe(
        &self,
        _: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(Response::new(stream::empty().boxed()))
    }
}

async fn serve(reply: Result<Acknowledgement, PublishError>) -> (ServerAddress, RecordedRequests) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let requests = RecordedRequests::default();
    let service = PublisherServiceServer::new(RecordingPublisherService {
        reply,
        requests: requests.clone(),
    });
    let serving = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    (server, requests)
}

async fn unused_address() -> ServerAddress {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

fn acknowledgement() -> Acknowledgement {
    Acknowledgement { time: Timestamp(5), ..test_util::acknowledgement(3, 4) }
}

fn message() -> Publish {
    test_util::publish("game/7", "goal")
}

#[tokio::test]
async fn unreachable_server_is_skipped() {
    let (reachable, _) = serve(Ok(self::acknowledgement())).await;
    let publisher = Publisher::new(vec![unused_address().await, reachable]).unwrap();
    assert_eq!(publisher.publish(message()).await, Ok(acknowledgement()));
}

#[tokio::test]
async fn unavailable_server_is_skipped() {
    let rejection = PublishRejection::from(UnavailableReason::NoMajority);
    let (unavailable, _) = serve(Err(rejection.into())).await;
    let (available, _) = serve(Ok(acknowledgement())).await;
    let publisher = Publisher::new(vec![unavailable, available]).unwrap();
    assert_eq!(publisher.publish(message()).await, Ok(acknowledgement()));
}

#[tokio::test]
async fn unknown_outcome_is_retried_with_the_same_key_or_nonce() {
    for key in [None, Some(MessageKey::new("k").unwrap())] {
        let (unsure, first) = serve(Err(PublishError::unknown("the link broke"))).await;
        let (other, second) = serve(Ok(acknowledgement())).await;
        let publisher = Publisher::new(vec![unsure, other]).unwrap();
        let outcome = publisher.publish(Publish { key: key.clone(), ..message() }).await;
        assert_eq!(outcome, Ok(acknowledgement()));
        let (first, second) = (first.lock().unwrap(), second.lock().unwrap());
        assert_eq!(first[..], second[..], "not the same request");
        let request = Publish::try_from(first[0].clone()).unwrap();
        assert_eq!((request.is_idempotent(), request.key), (true, key));
    }
}

#[tokio::test]
async fn each_message_gets_its_own_nonce() {
    let (server, requests) = serve(Ok(acknowledgement())).await;
    let publisher = Publisher::new(vec![server]).unwrap();
    for _ in 0..2 {
        publisher.publish(message()).await.unwrap();
    }
    let requests = requests.lock().unwrap();
    assert_ne!(requests[0].nonce, requests[1].nonce);
}

#[tokio::test]
async fn rejection_after_an_unknown_outcome_leaves_it_unknown() {
    let (unsure, _) = serve(Err(PublishError::unknown("the link broke"))).await;
    let (rejecting, _) = serve(Err(InvalidPublish::SystemTopic.into())).await;
    let publisher = Publisher::new(vec![unsure, rejecting]).unwrap();
    assert!(matches!(publisher.publish(message()).await, Err(PublishFailure::Unknown(_))));
}

#[tokio::test]
async fn invalid_message_is_rejected_without_a_retry() {
    let rejection = InvalidPublish::SystemTopic;
    let (server, requests) = serve(Err(rejection.into())).await;
    let publisher = Publisher::new(vec![server]).unwrap();
    let result = publisher.publish(message()).await;
    let Err(PublishFailure::Rejected { code, reason, message, retry: false }) = result else {
        panic!("{result:?}")
    };
    assert_eq!((code, reason), (Code::InvalidArgument, ErrorCode::NotAllowed));
    assert_eq!(message, InvalidPublish::SystemTopic.to_string());
    assert_eq!(requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn failed_stream_continues_at_the_next_server_with_the_same_numbers() {
    let (first, first_requests) = serve(Ok(acknowledgement())).await;
    let (second, second_requests) = serve(Ok(acknowledgement())).await;
    let mut stream = Publisher::new(vec![first, second]).unwrap().stream().await.unwrap();
    let mut acknowledgements = Vec::new();
    for _ in 0..4 {
        acknowledgements.push(stream.send(message()).await.unwrap());
    }
    // Each server replies to two requests and ends its call.
    for received in acknowledgements {
        assert_eq!(received.await, Ok(acknowledgement()));
    }
    let numbers = |requests: &RecordedRequests| -> Vec<_> {
        let requests = requests.lock().unwrap();
        requests.iter().map(|request| request.producer.clone().unwrap()).collect()
    };
    let (first, second) = (numbers(&first_requests), numbers(&second_requests));
    assert_eq!(first.iter().map(|p| (p.epoch, p.sequence)).collect::<Vec<_>>(), [(1, 1), (1, 2)]);
    assert_eq!(second.iter().map(|p| (p.epoch, p.sequence)).collect::<Vec<_>>(), [(1, 3), (1, 4)]);
    assert_eq!(first[0].id, second[0].id);
}

#[tokio::test]
async fn dropped_stream_leaves_the_outcome_unknown() {
    let (server, _) = serve(Ok(acknowledgement())).await;
    let mut stream = Publisher::new(vec![server]).unwrap().stream().await.unwrap();
    let outcome = stream.send(message()).await.unwrap();
    drop(stream);
    assert!(matches!(outcome.await, Err(PublishFailure::Unknown(_))));
}

#[tokio::test]
async fn flush_waits_for_the_outcomes_of_all_earlier_messages() {
    let node = TestNode::start().await;
    let publisher = Publisher::new([node.grpc().parse().unwrap()]).unwrap();
    let mut stream = publisher.stream().await.unwrap();
    stream.flush().await;
    let mut outcomes = Vec::new();
    for _ in 0..100 {
        outcomes.push(stream.send(message()).await.unwrap());
    }
    stream.flush().await;
    for outcome in &mut outcomes {
        let outcome = outcome.now_or_never().expect("an outcome before the end of the flush");
        outcome.expect("stored");
    }
    let last = stream.send(message()).await.unwrap();
    stream.drain().await;
    last.now_or_never().expect("an outcome before the end of the drain").expect("stored");
}

#[tokio::test]
async fn wrong_port_is_reported_with_its_cause_and_not_tried_again() {
    let node = TestNode::start().await;
    let http = node.websocket().replace("ws://", "http://");
    let tls = node.grpc().replace("http://", "https://");
    for (server, words) in [(http, "give the address of a node's --grpc"), (tls, "write http://")] {
        let publisher = Publisher::new([server.parse().unwrap()]).unwrap();
        let PublishFailure::Rejected { retry: false, message, .. } =
            publisher.publish(self::message()).await.expect_err("another protocol")
        else {
            panic!("{server}")
        };
        assert!(message.contains(words) && message.contains(&server), "{message}");
        let failure = publisher.stream().await.expect_err("another protocol");
        assert!(failure.to_string().contains(words), "{failure}");
        // The other server is used.
        let addresses = [server.parse().unwrap(), node.grpc().parse().unwrap()];
        let publisher = Publisher::new(addresses).unwrap();
        publisher.publish(self::message()).await.expect("stored by the other server");
    }
}

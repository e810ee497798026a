//! Set-up: scripted gRPC servers. Fault: a server dies between two calls, a call fails, a position is
//! rejected. Claim: a message that was never sent goes to the next server, one that was sent is retried
//! until it is acknowledged, and a subscriber resumes as over every other transport.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use pushonce_client::{
    ErrorCode, PublishFailure, Publisher, ServerAddress, Subscriber, SubscriberEvent, Transport,
};
use pushonce_core::{
    Acknowledgement, ContentType, FetchError, Message, Position, Publish, StartFrom, Timestamp,
    TopicEvent, test_util,
};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_server::{self, PublisherServiceServer};
use pushonce_proto::publisher;
use stage::{next_event, topic};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// A call of `Subscribe`: its start, and the sender of its responses.
type SubscribeCall = (StartFrom, mpsc::Sender<Result<pb::SubscribeResponse, Status>>);

/// Acknowledges every publish; passes every subscription to the test.
struct FakePublisherService {
    calls: mpsc::Sender<SubscribeCall>,
}

#[tonic::async_trait]
impl publisher_service_server::PublisherService for FakePublisherService {
    type PublishStreamStream = BoxStream<'static, Result<pb::PublishStreamResponse, Status>>;
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn publish(
        &self,
        _: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        Ok(Response::new(acknowledgement().into()))
    }

    /// Acknowledges the first message, and the second out of order.
    async fn publish_stream(
        &self,
        requests: Request<Streaming<pb::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let responses =
            requests.into_inner().zip(futures::stream::iter([1, 3])).map(|(_, sequence)| {
                Ok(pb::PublishStreamResponse::from_outcome(sequence, Ok(acknowledgement())))
            });
        Ok(Response::new(responses.boxed()))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let from = StartFrom::try_from(request.into_inner().start_from.unwrap()).unwrap();
        if from == StartFrom::Position(Position::new(9, 9)) {
            let (requested, head) = (Position::new(9, 9), Position::new(5, 1));
            return Err(publisher::fetch_status(&FetchError::FuturePosition { requested, head }));
        }
        let (responses, stream) = mpsc::channel(8);
        self.calls.send((from, responses)).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct FakeGrpcServer {
    address: ServerAddress,
    calls: mpsc::Receiver<SubscribeCall>,
}

impl FakeGrpcServer {
    async fn open() -> FakeGrpcServer {
        FakeGrpcServer::open_on(&Handle::current()).await
    }

    async fn open_on(runtime: &Handle) -> FakeGrpcServer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (sender, calls) = mpsc::channel(8);
        let service = PublisherServiceServer::new(FakePublisherService { calls: sender });
        let router = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        FakeGrpcServer { address, calls }
    }
}

fn acknowledgement() -> Acknowledgement {
    Acknowledgement { time: Timestamp(5), ..test_util::acknowledgement(3, 4) }
}

fn goal_publish(content_type: ContentType) -> Publish {
    Publish { content_type, ..test_util::publish("game/7", "goal") }
}

fn subscribed_response(offset: u64) -> Result<pb::SubscribeResponse, Status> {
    let position = Position::new(5, offset);
    Ok(publisher::SubscribeEvent::Subscribed { position, recovered: true }.into())
}

fn message_response(offset: u64) -> Result<pb::SubscribeResponse, Status> {
    let message = Message { time: Timestamp(1), ..test_util::message(5, offset) };
    Ok(publisher::SubscribeEvent::Item(TopicEvent::Message(Arc::new(message))).into())
}

#[tokio::test]
async fn publish_goes_to_the_next_server_when_the_first_is_dead() {
    // The connections die with their runtime, as with a process.
    let process = Runtime::new().unwrap();
    let (first, second) =
        (FakeGrpcServer::open_on(process.handle()).await, FakeGrpcServer::open().await);
    let publisher = Publisher::new(vec![first.address, second.address]).unwrap();
    assert_eq!(publisher.publish(goal_publish(ContentType::Text)).await, Ok(acknowledgement()));
    process.shutdown_background();
    // A dead connection that is detected only by its use leaves the outcome unknown: the publish is
    // retried.
    assert_eq!(publisher.publish(goal_publish(ContentType::Text)).await, Ok(acknowledgement()));
}

#[tokio::test]
async fn invalid_message_is_rejected_without_contacting_a_server() {
    let unreachable = "http://127.0.0.1:1".parse().unwrap();
    let publisher = Publisher::new([unreachable]).unwrap();
    let result = publisher.publish(goal_publish(ContentType::Json)).await;
    assert!(matches!(result, Err(PublishFailure::Rejected { retry: false, .. })), "{result:?}");
}

#[tokio::test]
async fn server_that_acknowledges_out_of_order_is_replaced() {
    let server = FakeGrpcServer::open().await;
    let mut stream = Publisher::new(vec![server.address]).unwrap().stream().await.unwrap();
    let first = stream.send(goal_publish(ContentType::Text)).await.unwrap();
    let second = stream.send(goal_publish(ContentType::Text)).await.unwrap();
    assert_eq!(first.await, Ok(acknowledgement()));
    // The next call acknowledges its first message, which is the second by then.
    assert_eq!(second.await, Ok(acknowledgement()));
}

#[tokio::test]
async fn stream_continues_at_another_server_when_its_server_dies() {
    let process = Runtime::new().unwrap();
    let (first, second) =
        (FakeGrpcServer::open_on(process.handle()).await, FakeGrpcServer::open().await);
    let publisher = Publisher::new(vec![first.address, second.address]).unwrap();
    let mut stream = publisher.stream().await.unwrap();
    let before = stream.send(goal_publish(ContentType::Text)).await.unwrap();
    assert_eq!(before.await, Ok(acknowledgement()));
    process.shutdown_background();
    let after = stream.send(goal_publish(ContentType::Text)).await.unwrap();
    assert_eq!(after.await, Ok(acknowledgement()));
}

#[tokio::test]
async fn failed_call_is_repeated_from_the_last_message() {
    let mut server = FakeGrpcServer::open().await;
    let mut subscriber = Subscriber::builder([server.address.clone()])
        .transport(Transport::Grpc)
        .topic(topic(), StartFrom::Last(2))
        .connect()
        .expect("the servers fit the transport");
    let (from, responses) = server.calls.recv().await.unwrap();
    assert_eq!(from, StartFrom::Last(2));
    responses.send(subscribed_response(7)).await.unwrap();
    responses.send(message_response(6)).await.unwrap();
    responses.send(Err(Status::unavailable("the node shuts down"))).await.unwrap();
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Connected { .. }));
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Subscribed { .. }));
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Message { .. }));
    assert!(matches!(
        next_event(&mut subscriber).await,
        SubscriberEvent::Disconnected { retry_in: Some(_), .. }
    ));
    let (from, _responses) = server.calls.recv().await.unwrap();
    assert_eq!(from, StartFrom::Position(Position::new(5, 6)));
}

#[tokio::test]
async fn future_position_is_rejected_permanently() {
    let server = FakeGrpcServer::open().await;
    let mut subscriber = Subscriber::builder([server.address])
        .transport(Transport::Grpc)
        .topic(topic(), StartFrom::Position(Position::new(9, 9)))
        .connect()
        .expect("the servers fit the transport");
    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Connected { .. }));
    let SubscriberEvent::Rejected { topic: rejected, code, .. } = next_event(&mut subscriber).await
    else {
        panic!("expected a rejection")
    };
    assert_eq!((rejected, code), (Some(topic()), ErrorCode::FuturePosition));
    assert!(matches!(
        next_event(&mut subscriber).await,
        SubscriberEvent::Disconnected { retry_in: None, .. }
    ));
}

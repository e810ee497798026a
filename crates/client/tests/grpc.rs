//! Set-up: gRPC servers that follow a script. Fault: a server dies between two calls, a call breaks,
//! a position is refused. Claim: what was never sent goes to the next server, what was sent and not
//! acknowledged is unknown, and a subscriber resumes as over every other transport.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use pushonce_client::{ErrorCode, Event, Failure, Publisher, Server, Subscriber, Transport};
use pushonce_core::{
    ContentType, FetchError, From, Item, Message, Placed, Position, Publish, Timestamp, Topic,
};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_server::{self, PublisherServer};
use pushonce_proto::publisher;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(20);

/// A call of `Subscribe`: where it begins, and the way to answer it.
type Call = (From, mpsc::Sender<Result<pb::SubscribeResponse, Status>>);

/// Places every publish; hands every subscription to the test.
struct Fake {
    calls: mpsc::Sender<Call>,
}

#[tonic::async_trait]
impl publisher_server::Publisher for Fake {
    type PublishStreamStream = BoxStream<'static, Result<pb::PublishStreamResponse, Status>>;
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn publish(
        &self,
        _: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        Ok(Response::new(placed().into()))
    }

    /// Acknowledges one message, the second out of turn.
    async fn publish_stream(
        &self,
        requests: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let answers = requests
            .into_inner()
            .zip(futures::stream::iter([1, 3]))
            .map(|(_, sequence)| Ok(pb::PublishStreamResponse::of(sequence, Ok(placed()))));
        Ok(Response::new(answers.boxed()))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let from = From::try_from(request.into_inner().from.unwrap()).unwrap();
        if from == From::Position(Position::new(9, 9)) {
            let (asked, head) = (Position::new(9, 9), Position::new(5, 1));
            return Err(publisher::fetch_status(&FetchError::Future { asked, head }));
        }
        let (answers, stream) = mpsc::channel(8);
        self.calls.send((from, answers)).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Door {
    server: Server,
    calls: mpsc::Receiver<Call>,
}

impl Door {
    async fn open() -> Door {
        Door::open_on(&Handle::current()).await
    }

    async fn open_on(runtime: &Handle) -> Door {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (send, calls) = mpsc::channel(8);
        let fake = PublisherServer::new(Fake { calls: send });
        let router = tonic::transport::Server::builder().add_service(fake);
        runtime.spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        Door { server, calls }
    }
}

fn topic() -> Topic {
    Topic::new("game/7").unwrap()
}

fn placed() -> Placed {
    Placed { position: Position::new(3, 4), time: Timestamp(5), durability: Default::default() }
}

fn goal(content_type: ContentType) -> Publish {
    let payload = Bytes::from_static(b"goal");
    Publish { topic: topic(), content_type, key: None, stamp: None, payload }
}

fn subscribed(offset: u64) -> Result<pb::SubscribeResponse, Status> {
    let position = Position::new(5, offset);
    Ok(publisher::Event::Subscribed { position, recovered: true }.into())
}

fn message(offset: u64) -> Result<pb::SubscribeResponse, Status> {
    let message = Message {
        position: Position::new(5, offset),
        time: Timestamp(1),
        content_type: ContentType::Text,
        key: None,
        payload: Bytes::new(),
    };
    Ok(publisher::Event::Item(Item::Message(Arc::new(message))).into())
}

async fn next(subscriber: &mut Subscriber) -> Event {
    let next = tokio::time::timeout(LIMIT, subscriber.next()).await;
    next.expect("an event in time").expect("it goes on")
}

#[tokio::test]
async fn what_a_dead_server_never_got_goes_to_the_next() {
    // Its connections die with the runtime they live on, as with a process.
    let process = Runtime::new().unwrap();
    let (first, second) = (Door::open_on(process.handle()).await, Door::open().await);
    let publisher = Publisher::new(vec![first.server, second.server]);
    assert_eq!(publisher.publish(goal(ContentType::Text)).await, Ok(placed()));
    process.shutdown_background();
    // A connection that is found dead only by using it leaves the outcome open: it is asked again.
    assert_eq!(publisher.publish(goal(ContentType::Text)).await, Ok(placed()));
}

#[tokio::test]
async fn a_message_that_no_server_would_take_is_refused_without_asking_one() {
    let publisher = Publisher::new(vec![]);
    let refused = publisher.publish(goal(ContentType::Json)).await;
    assert!(matches!(refused, Err(Failure::Refused { retry: false, .. })), "{refused:?}");
}

#[tokio::test]
async fn publisher_without_servers_is_refused_and_says_what_to_give() {
    let refused = Publisher::new(vec![]).publish(goal(ContentType::Text)).await;
    let Err(Failure::Refused { retry: false, message, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(message.contains("http://HOST:7090"), "{message}");
}

#[tokio::test]
async fn a_server_that_acknowledges_out_of_turn_is_left() {
    let door = Door::open().await;
    let mut stream = Publisher::new(vec![door.server]).stream().await.unwrap();
    let first = stream.send(goal(ContentType::Text)).await.unwrap();
    let second = stream.send(goal(ContentType::Text)).await.unwrap();
    assert_eq!(first.await.unwrap(), Ok(placed()));
    // The next call acknowledges its first message, which is the second by now.
    assert_eq!(second.await.unwrap(), Ok(placed()));
}

#[tokio::test]
async fn a_stream_whose_server_dies_goes_on_at_another() {
    let process = Runtime::new().unwrap();
    let (first, second) = (Door::open_on(process.handle()).await, Door::open().await);
    let publisher = Publisher::new(vec![first.server, second.server]);
    let mut stream = publisher.stream().await.unwrap();
    let before = stream.send(goal(ContentType::Text)).await.unwrap();
    assert_eq!(before.await.unwrap(), Ok(placed()));
    process.shutdown_background();
    let after = stream.send(goal(ContentType::Text)).await.unwrap();
    assert_eq!(after.await.unwrap(), Ok(placed()));
}

#[tokio::test]
async fn a_call_that_breaks_is_made_again_from_the_last_message() {
    let mut door = Door::open().await;
    let mut subscriber = Subscriber::builder([door.server.clone()])
        .transport(Transport::Grpc)
        .topic(topic(), From::Last(2))
        .connect()
        .expect("the servers fit the transport");
    let (from, answers) = door.calls.recv().await.unwrap();
    assert_eq!(from, From::Last(2));
    answers.send(subscribed(7)).await.unwrap();
    answers.send(message(6)).await.unwrap();
    answers.send(Err(Status::unavailable("the node goes down"))).await.unwrap();
    assert!(matches!(next(&mut subscriber).await, Event::Connected { .. }));
    assert!(matches!(next(&mut subscriber).await, Event::Subscribed { .. }));
    assert!(matches!(next(&mut subscriber).await, Event::Message { .. }));
    assert!(matches!(next(&mut subscriber).await, Event::Disconnected { retry_in: Some(_), .. }));
    let (from, _answers) = door.calls.recv().await.unwrap();
    assert_eq!(from, From::Position(Position::new(5, 6)));
}

#[tokio::test]
async fn a_position_that_was_never_given_out_is_refused_for_good() {
    let door = Door::open().await;
    let mut subscriber = Subscriber::builder([door.server])
        .transport(Transport::Grpc)
        .topic(topic(), From::Position(Position::new(9, 9)))
        .connect()
        .expect("the servers fit the transport");
    assert!(matches!(next(&mut subscriber).await, Event::Connected { .. }));
    let Event::Refused { code, message } = next(&mut subscriber).await else { panic!("refused") };
    assert_eq!(code, ErrorCode::FuturePosition);
    assert!(message.starts_with("game/7: "), "{message}");
    assert!(matches!(next(&mut subscriber).await, Event::Disconnected { retry_in: None, .. }));
}

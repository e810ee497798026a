//! Set-up: a publisher and gRPC servers that answer as they are told. Claim: it asks the next server
//! for the same message, under the same name, and the three outcomes come through.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use pushonce_client::{Failure, Publisher, Server};
use pushonce_core::{
    ContentType, InvalidPublish, Key, Placed, Position, Publish, PublishError, Refusal, Timestamp,
    Topic,
};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_server::{self, PublisherServer};
use pushonce_proto::publisher::publish_status;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Answers every publish alike, and keeps them.
struct Fake {
    answer: Result<Placed, PublishError>,
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<pb::PublishRequest>>>;

#[tonic::async_trait]
impl publisher_server::Publisher for Fake {
    type PublishStreamStream = BoxStream<'static, Result<pb::PublishStreamResponse, Status>>;
    type SubscribeStream = BoxStream<'static, Result<pb::SubscribeResponse, Status>>;

    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        match &self.answer {
            Ok(placed) => Ok(Response::new((*placed).into())),
            Err(error) => Err(publish_status(error)),
        }
    }

    /// Answers two requests, then ends the call.
    async fn publish_stream(
        &self,
        requests: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (answer, asked) = (self.answer.clone(), self.asked.clone());
        let answers = requests.into_inner().take(2).enumerate().map(move |(index, request)| {
            asked.lock().unwrap().push(request?);
            Ok(pb::PublishStreamResponse::of(index as u64 + 1, answer.clone()))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn subscribe(
        &self,
        _: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(Response::new(stream::empty().boxed()))
    }
}

async fn serve(answer: Result<Placed, PublishError>) -> (Server, Asked) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Asked::default();
    let fake = PublisherServer::new(Fake { answer, asked: asked.clone() });
    let serving = tonic::transport::Server::builder().add_service(fake);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
    (server, asked)
}

async fn nobody() -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

fn placed() -> Placed {
    Placed { position: Position::new(3, 4), time: Timestamp(5), durability: Default::default() }
}

fn message() -> Publish {
    Publish {
        topic: Topic::new("game/7").unwrap(),
        content_type: ContentType::Text,
        key: None,
        stamp: None,
        payload: Bytes::from_static(b"goal"),
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_passed_over() {
    let (there, _) = serve(Ok(placed())).await;
    let publisher = Publisher::new(vec![nobody().await, there]);
    assert_eq!(publisher.publish(message()).await, Ok(placed()));
}

#[tokio::test]
async fn a_server_that_cannot_now_is_passed_over_because_nothing_happened() {
    let refusal = Refusal::Unavailable("no owner".to_owned());
    let (cannot, _) = serve(Err(refusal.into())).await;
    let (can, _) = serve(Ok(placed())).await;
    let publisher = Publisher::new(vec![cannot, can]);
    assert_eq!(publisher.publish(message()).await, Ok(placed()));
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_for_again_under_the_same_name() {
    for key in [None, Some(Key::new("k").unwrap())] {
        let (unsure, first) = serve(Err(PublishError::unknown("the link broke"))).await;
        let (other, second) = serve(Ok(placed())).await;
        let publisher = Publisher::new(vec![unsure, other]);
        let outcome = publisher.publish(Publish { key: key.clone(), ..message() }).await;
        assert_eq!(outcome, Ok(placed()));
        let (first, second) = (first.lock().unwrap(), second.lock().unwrap());
        assert_eq!(first[..], second[..], "not the same request");
        let named = Publish::try_from(first[0].clone()).unwrap();
        assert_eq!((named.is_repeatable(), named.key), (true, key));
    }
}

#[tokio::test]
async fn no_two_messages_get_the_same_nonce() {
    let (server, asked) = serve(Ok(placed())).await;
    let publisher = Publisher::new(vec![server]);
    for _ in 0..2 {
        publisher.publish(message()).await.unwrap();
    }
    let asked = asked.lock().unwrap();
    assert_ne!(asked[0].nonce, asked[1].nonce);
}

#[tokio::test]
async fn a_refusal_after_an_unknown_outcome_does_not_settle_it() {
    let (unsure, _) = serve(Err(PublishError::unknown("the link broke"))).await;
    let (refuses, _) = serve(Err(InvalidPublish::SystemTopic.into())).await;
    let publisher = Publisher::new(vec![unsure, refuses]);
    assert!(matches!(publisher.publish(message()).await, Err(Failure::Unknown(_))));
}

#[tokio::test]
async fn a_message_that_breaks_a_rule_is_refused_once() {
    let refusal = InvalidPublish::SystemTopic;
    let (server, asked) = serve(Err(refusal.into())).await;
    let publisher = Publisher::new(vec![server]);
    let refused = publisher.publish(message()).await;
    assert!(matches!(refused, Err(Failure::Refused { retry: false, .. })), "{refused:?}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_at_the_next_server_with_the_same_numbers() {
    let (first, asked_first) = serve(Ok(placed())).await;
    let (second, asked_second) = serve(Ok(placed())).await;
    let mut stream = Publisher::new(vec![first, second]).stream().await.unwrap();
    let mut acknowledgements = Vec::new();
    for _ in 0..4 {
        acknowledgements.push(stream.send(message()).await.unwrap());
    }
    // Each server answers two requests and ends its call.
    for acknowledgement in acknowledgements {
        assert_eq!(acknowledgement.await.unwrap(), Ok(placed()));
    }
    let numbers = |asked: &Asked| -> Vec<_> {
        let asked = asked.lock().unwrap();
        asked.iter().map(|request| request.producer.clone().unwrap()).collect()
    };
    let (first, second) = (numbers(&asked_first), numbers(&asked_second));
    assert_eq!(first.iter().map(|p| (p.epoch, p.sequence)).collect::<Vec<_>>(), [(1, 1), (1, 2)]);
    assert_eq!(second.iter().map(|p| (p.epoch, p.sequence)).collect::<Vec<_>>(), [(1, 3), (1, 4)]);
    assert_eq!(first[0].id, second[0].id);
}

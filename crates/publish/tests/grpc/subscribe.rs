//! `Subscribe`: events, delivery, rejections, heartbeats.

use std::time::Duration;

use futures::{StreamExt, future};
use pushonce_core::{Position, TopicEvent};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::publisher::v1::subscribe_response::Event;
use pushonce_proto::pb::publisher::v1::{SubscribeRequest, start_from};
use pushonce_proto::publisher;
use tonic::Code;

use super::{LIVE, TestServer, subscribe_request};

#[tokio::test]
async fn subscription_starts_with_subscribed_and_reports_gaps() {
    let mut publisher = TestServer::start().await.publisher().await;
    let request = subscribe_request(LIVE);
    let events = publisher.subscribe(request).await.expect("open").into_inner();
    let events: Vec<_> = events.take(3).map(|event| event.expect("an event").event).collect().await;
    let [Some(Event::Subscribed(subscribed)), Some(Event::Gap(gap)), Some(Event::Message(message))] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((subscribed.position.as_str(), subscribed.recovered), ("7:3", false));
    assert_eq!(
        (gap.first.as_str(), gap.last.as_str(), gap.reason.as_str()),
        ("7:1", "7:2", "expired")
    );
    assert_eq!((message.position.as_str(), &message.payload[..]), ("7:3", &b"goal!"[..]));
}

#[tokio::test]
async fn subscription_with_latest_or_rate_delivery_reports_gaps_only_if_conflated() {
    let mut publisher = TestServer::start().await.publisher().await;
    for (delivery, conflated, gaps) in
        [("latest", false, 0), ("rate:3", true, 1), ("all", false, 1)]
    {
        let request = SubscribeRequest {
            delivery: delivery.to_owned(),
            conflated,
            ..subscribe_request(LIVE)
        };
        let events = publisher.subscribe(request).await.expect("open").into_inner();
        let events = events.skip(1).map(|event| event.expect("an event").event.expect("not empty"));
        let before = events.take_while(|event| future::ready(!matches!(event, Event::Message(_))));
        assert_eq!(before.count().await, gaps, "{delivery}");
    }
}

#[tokio::test]
async fn rejected_subscription_returns_the_reason() {
    let mut publisher = TestServer::start().await.publisher().await;
    for (topic, position, code, reason) in [
        ("a//b", "7:1", Code::InvalidArgument, ErrorCode::BadTopic),
        ("$sys/nodes", "7:1", Code::InvalidArgument, ErrorCode::NotAllowed),
        (LIVE, "seven", Code::InvalidArgument, ErrorCode::BadPosition),
        (LIVE, "7:4", Code::OutOfRange, ErrorCode::FuturePosition),
    ] {
        let kind = Some(start_from::Kind::Position(position.to_owned()));
        let start_from = Some(pushonce_proto::pb::publisher::v1::StartFrom { kind });
        let request = SubscribeRequest { start_from, ..subscribe_request(topic) };
        let status = publisher.subscribe(request).await.expect_err("rejected");
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(ErrorReason::from_status(&status), Some(reason.into()), "{status:?}");
    }
    let start_from = Some(pushonce_proto::pb::publisher::v1::StartFrom {
        kind: Some(start_from::Kind::Start(true)),
    });
    let request = SubscribeRequest { start_from, ..subscribe_request(LIVE) };
    let status = publisher.subscribe(request).await;
    let status = status.expect_err("the node is overloaded");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let retry_delay = Some(Duration::from_secs(10));
    let reason = ErrorReason { retry_delay, ..ErrorCode::Overloaded.into() };
    assert_eq!(ErrorReason::from_status(&status), Some(reason), "{status:?}");
    assert!(status.message().contains("raise --memory-max"), "{status:?}");
    let request = SubscribeRequest { delivery: "newest".to_owned(), ..subscribe_request(LIVE) };
    let status = publisher.subscribe(request).await.expect_err("rejected");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("latest"), "{status:?}");
}

#[tokio::test]
async fn heartbeat_carries_the_last_sent_position() {
    let mut publisher = TestServer::start().await.publisher().await;
    let request = subscribe_request("a");
    let mut events = publisher.subscribe(request).await.expect("open").into_inner();
    let mut received = Vec::new();
    while received.len() < 4 {
        let event = events.message().await.expect("readable").expect("an event");
        received.push(publisher::SubscribeEvent::try_from(event).expect("an event"));
    }
    assert!(matches!(received[0], publisher::SubscribeEvent::Subscribed { .. }));
    assert!(matches!(received[2], publisher::SubscribeEvent::Item(TopicEvent::Message(_))));
    let position = Some(Position::new(7, 3));
    assert_eq!(received[3], publisher::SubscribeEvent::Heartbeat { position });
}

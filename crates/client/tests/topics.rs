//! Set-up: a node, and a subscriber over each transport. Claim: topics are added and removed while the subscriber runs;
//! a topic that returns starts anew; a closed subscriber sends a close frame.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use futures::StreamExt as _;
use pushonce_client::{
    ContentType, ErrorCode, Publish, Publisher, StartFrom, SubscribeOptions, Subscriber,
    SubscriberEvent, Topic, Transport,
};
use pushonce_core::test_util;
use pushonce_proto::client::ServerEvent;
use pushonce_test_node::TestNode;
use stage::{ScriptedWebSocketServer, TEST_TIMEOUT, at, next_event, subscribe};

const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Quic, Transport::Grpc];

fn subscriber(node: &TestNode, transport: Transport) -> Subscriber {
    let server = match transport {
        Transport::Quic => node.quic(),
        Transport::Grpc => node.grpc(),
        _ => node.websocket(),
    };
    Subscriber::builder([server.parse().unwrap()]).transport(transport).connect().unwrap()
}

async fn publish(node: &TestNode, topic: &Topic, text: &str) {
    let publisher = Publisher::new([node.grpc().parse().unwrap()]).unwrap();
    let publish = Publish::new(topic.clone(), ContentType::Text, text.to_owned());
    publisher.publish(publish).await.unwrap();
}

/// The next payload of any topic.
async fn next_text(subscriber: &mut Subscriber) -> (Topic, String) {
    loop {
        match next_event(subscriber).await {
            SubscriberEvent::Message { topic, message } => {
                return (topic, String::from_utf8(message.payload.to_vec()).unwrap());
            }
            lost @ (SubscriberEvent::Gap { .. }
            | SubscriberEvent::Rejected { .. }
            | SubscriberEvent::Disconnected { .. }) => panic!("{lost:?}"),
            _ => {}
        }
    }
}

async fn wait_until_subscribed(subscriber: &mut Subscriber) {
    while !matches!(next_event(subscriber).await, SubscriberEvent::Subscribed { .. }) {}
}

#[tokio::test]
async fn topics_are_added_and_removed_in_a_running_session() {
    let node = TestNode::start().await;
    for transport in TRANSPORTS {
        let [a, b] = ["a", "b"].map(|name| test_util::topic(&format!("live/{transport}/{name}")));
        let mut subscriber = subscriber(&node, transport);
        publish(&node, &a, "1").await;
        subscriber.add_topic(a.clone(), StartFrom::Start, SubscribeOptions::default());
        assert_eq!(next_text(&mut subscriber).await, (a.clone(), "1".to_owned()), "{transport}");

        subscriber.add_topic(b.clone(), StartFrom::Now, SubscribeOptions::default());
        wait_until_subscribed(&mut subscriber).await;
        subscriber.remove_topic(a.clone());
        // A request after the removal shows that the removal has been processed.
        subscriber.add_topic(b.clone(), StartFrom::Now, SubscribeOptions::default());
        wait_until_subscribed(&mut subscriber).await;
        publish(&node, &a, "2").await;
        publish(&node, &b, "3").await;
        assert_eq!(next_text(&mut subscriber).await, (b.clone(), "3".to_owned()), "{transport}");

        subscriber.add_topic(a.clone(), StartFrom::Start, SubscribeOptions::default());
        for text in ["1", "2"] {
            let expected = (a.clone(), text.to_owned());
            assert_eq!(next_text(&mut subscriber).await, expected, "{transport}");
        }
        subscriber.close().await;
    }
}

#[tokio::test]
async fn rejected_topic_is_named_and_the_others_continue() {
    let node = TestNode::start().await;
    let [good, bad] = ["good", "bad"].map(|name| test_util::topic(&format!("rejected/{name}")));
    let mut subscriber = subscriber(&node, Transport::Ws);
    subscriber.add_topic(good.clone(), StartFrom::Now, SubscribeOptions::default());
    wait_until_subscribed(&mut subscriber).await;
    let future = StartFrom::Position("99:1".parse().unwrap());
    subscriber.add_topic(bad.clone(), future, SubscribeOptions::default());
    let SubscriberEvent::Rejected { topic, code, .. } = next_event(&mut subscriber).await else {
        panic!("expected a rejection")
    };
    assert_eq!((topic, code), (Some(bad), ErrorCode::FuturePosition));
    publish(&node, &good, "goal").await;
    assert_eq!(next_text(&mut subscriber).await, (good, "goal".to_owned()));
}

#[tokio::test]
async fn subscriber_is_a_stream() {
    let node = TestNode::start().await;
    let topic = test_util::topic("stream/7");
    for text in ["1", "2"] {
        publish(&node, &topic, text).await;
    }
    let subscriber = subscriber(&node, Transport::Ws);
    subscriber.add_topic(topic, StartFrom::Start, SubscribeOptions::default());
    let messages = subscriber.filter_map(async |event| match event {
        SubscriberEvent::Message { message, .. } => Some(message.payload.to_vec()),
        _ => None,
    });
    let two = tokio::time::timeout(TEST_TIMEOUT, messages.take(2).collect::<Vec<_>>()).await;
    assert_eq!(two.expect("two messages in time"), [b"1", b"2"]);
}

#[tokio::test]
async fn close_sends_a_close_frame_also_while_the_queue_is_full() {
    let server = ScriptedWebSocketServer::open().await;
    let address = server.address();
    let subscriber = Subscriber::builder([address])
        .topic(stage::topic(), StartFrom::Now)
        .queue_events_max(1)
        .connect()
        .unwrap();
    let mut client = server.accept().await;
    client.requested_start().await;
    client.send_subscribed(at(0)).await;
    for offset in 1..9 {
        client.send_message(offset).await;
    }
    subscriber.close().await;
    assert_eq!(client.close_code().await, Some(1000));
}

#[tokio::test]
async fn request_is_repeated_after_the_time_that_the_server_asked_for() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Now);
    let mut client = server.accept().await;
    client.requested_start().await;
    let retry_after = std::time::Duration::from_millis(700);
    let rejected_at = std::time::Instant::now();
    client
        .send_event(ServerEvent::rate_error(Some(1), "too many subscriptions", retry_after))
        .await;
    client.requested_start().await;
    assert!(rejected_at.elapsed() >= retry_after, "{:?}", rejected_at.elapsed());
    client.send_subscribed(at(0)).await;
    wait_until_subscribed(&mut subscriber).await;
}

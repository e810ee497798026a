//! Set-up: a subscriber and a scripted WebSocket server. Fault: the server skips messages, rejects, shuts
//! down, or uses another protocol. Claim: the subscriber shows no hole, reports what was rejected, and
//! leaves when asked to.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue};
use pushonce_client::{Encoding, ErrorCode, ServerAddress, Subscriber, SubscriberEvent};
use pushonce_core::{Delivery, Gap, GapReason, StartFrom};
use pushonce_proto::client;
use stage::{ScriptedWebSocketServer, TEST_TIMEOUT, at, subscribe, topic};
use tokio::net::TcpListener;
use tokio_websockets::{Message, ServerBuilder};

/// The first event that `select` accepts; earlier ones are dropped.
async fn find_event<T>(
    subscriber: &mut Subscriber,
    select: impl Fn(SubscriberEvent) -> Option<T>,
) -> T {
    let found = async {
        loop {
            let event = subscriber.next().await.expect("not the last event");
            if let Some(found) = select(event) {
                return found;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, found).await.expect("an event in time")
}

fn message_offset(event: SubscriberEvent) -> Option<u64> {
    match event {
        SubscriberEvent::Message { message, .. } => Some(message.position.offset.0),
        _ => None,
    }
}

fn disconnect_reason(event: SubscriberEvent) -> Option<String> {
    match event {
        SubscriberEvent::Disconnected { reason, .. } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn unreported_gap_is_fetched_from_another_server() {
    let (first, second) =
        (ScriptedWebSocketServer::open().await, ScriptedWebSocketServer::open().await);
    let mut subscriber = subscribe(&[&first, &second], StartFrom::Start);
    let mut client = first.accept().await;
    client.requested_start().await;
    client.send_subscribed(at(3)).await;
    client.send_message(1).await;
    client.send_message(3).await;
    assert_eq!(find_event(&mut subscriber, message_offset).await, 1);
    assert!(find_event(&mut subscriber, disconnect_reason).await.contains("without a gap"));

    let mut client = second.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Position(at(1)));
    client.send_subscribed(at(3)).await;
    client.send_message(2).await;
    client.send_message(3).await;
    assert_eq!(find_event(&mut subscriber, message_offset).await, 2);
    assert_eq!(find_event(&mut subscriber, message_offset).await, 3);
}

#[tokio::test]
async fn gap_is_reported_and_later_messages_are_delivered() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Position(at(1)));
    let mut client = server.accept().await;
    client.requested_start().await;
    client.send_subscribed(at(9)).await;
    let gap = Gap { from: at(2), to: at(8), reason: GapReason::Expired };
    client.send_event(client::ServerEvent::Gap { topic: topic(), gap }).await;
    client.send_message(9).await;
    let reported = find_event(&mut subscriber, |event| match event {
        SubscriberEvent::Gap { gap, .. } => Some(gap),
        _ => None,
    });
    assert_eq!(reported.await, gap);
    assert_eq!(find_event(&mut subscriber, message_offset).await, 9);
}

#[tokio::test]
async fn rejected_topic_is_reported_and_the_subscriber_ends_without_topics() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Position(at(100)));
    let mut client = server.accept().await;
    client.requested_start().await;
    client
        .send_event(client::ServerEvent::error(
            Some(1),
            ErrorCode::FuturePosition,
            "never assigned",
        ))
        .await;
    let rejected = find_event(&mut subscriber, |event| match event {
        SubscriberEvent::Rejected { topic, code, .. } => Some((topic, code)),
        _ => None,
    });
    assert_eq!(rejected.await, (Some(topic()), ErrorCode::FuturePosition));
    assert!(
        find_event(&mut subscriber, disconnect_reason).await.contains("every topic was rejected")
    );
    assert_eq!(subscriber.next().await, None);
}

#[tokio::test]
async fn server_without_the_topic_is_replaced_by_the_next() {
    let (first, second) =
        (ScriptedWebSocketServer::open().await, ScriptedWebSocketServer::open().await);
    let mut subscriber = subscribe(&[&first, &second], StartFrom::Last(1));
    let mut client = first.accept().await;
    client.requested_start().await;
    client
        .send_event(client::ServerEvent::error(Some(1), ErrorCode::Unavailable, "no owner"))
        .await;
    let mut client = second.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Last(1));
    client.send_subscribed(at(4)).await;
    client.send_message(4).await;
    assert_eq!(find_event(&mut subscriber, message_offset).await, 4);
}

#[tokio::test]
async fn unavailable_topic_does_not_interrupt_the_others() {
    let server = ScriptedWebSocketServer::open().await;
    let other = pushonce_core::Topic::new("game/8").unwrap();
    let builder = Subscriber::builder([server.address()]).topic(topic(), StartFrom::Start);
    let mut subscriber = builder
        .topic(other.clone(), StartFrom::Last(1))
        .connect()
        .expect("the servers fit the transport");
    let mut client = server.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Start);
    assert_eq!(client.requested_start().await, StartFrom::Last(1));
    client.send_subscribed(at(1)).await;
    client
        .send_event(client::ServerEvent::error(Some(2), ErrorCode::Unavailable, "no owner"))
        .await;
    client.send_message(1).await;
    assert_eq!(find_event(&mut subscriber, message_offset).await, 1);

    assert_eq!(client.requested_start().await, StartFrom::Last(1), "on the same session");
    let (id, position) = (Some(3), at(4));
    let subscribed = client::ServerEvent::Subscribed {
        id,
        topic: other,
        position,
        recovered: true,
        delivery: Delivery::All,
    };
    client.send_event(subscribed).await;
    let subscribed = find_event(&mut subscriber, |event| match event {
        SubscriberEvent::Subscribed { topic, .. } => Some(topic.to_string()),
        _ => None,
    });
    assert_eq!(subscribed.await, "game/8");
}

#[tokio::test]
async fn subscriber_moves_to_the_next_server_on_goaway() {
    let (first, second) =
        (ScriptedWebSocketServer::open().await, ScriptedWebSocketServer::open().await);
    let mut subscriber = subscribe(&[&first, &second], StartFrom::Start);
    let mut client = first.accept().await;
    client.requested_start().await;
    client.send_subscribed(at(1)).await;
    let reason = "draining".to_owned();
    client
        .send_event(client::ServerEvent::Goaway { after_ms: 20, retry_after_ms: 0, reason })
        .await;
    assert!(find_event(&mut subscriber, disconnect_reason).await.contains("draining"));
    let mut client = second.accept().await;
    client.requested_start().await;
}

#[tokio::test]
async fn messages_are_delivered_between_goaway_and_disconnect() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Start);
    let mut client = server.accept().await;
    client.requested_start().await;
    client.send_subscribed(at(1)).await;
    // Drawn from a period of 49 days, the time is not reached while the test runs.
    let (after_ms, reason) = (u32::MAX, "draining".to_owned());
    client.send_event(client::ServerEvent::Goaway { after_ms, retry_after_ms: 0, reason }).await;
    client.send_message(1).await;
    assert_eq!(find_event(&mut subscriber, message_offset).await, 1);
}

#[tokio::test]
async fn json_encoding_delivers_messages_and_ignores_unknown_frames() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server: ServerAddress =
        format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let mut subscriber = Subscriber::builder([server])
        .encoding(Encoding::Json)
        .topic(topic(), StartFrom::Start)
        .connect()
        .expect("the servers fit the transport");
    let (stream, _) = listener.accept().await.unwrap();
    let protocol = HeaderName::from_static("sec-websocket-protocol");
    let json = HeaderValue::from_static("pushonce.v1.json");
    let builder = ServerBuilder::new().add_header(protocol, json).unwrap();
    let (request, mut socket) = builder.accept(stream).await.unwrap();
    assert_eq!(request.uri().path(), "/ws");
    let request = socket.next().await.unwrap().unwrap();
    assert_eq!(
        request.as_text(),
        Some(r#"{"id":1,"subscribe":{"topic":"game/7","from":"start"}}"#)
    );
    for frame in [
        r#"{"weather":{"from":"a newer server"}}"#,
        r#"{"id":1,"subscribed":{"topic":"game/7","position":"5:1","recovered":true}}"#,
        r#"{"message":{"topic":"game/7","position":"5:1","time":1,"data":{"gb":21}}}"#,
    ] {
        socket.send(Message::text(frame)).await.unwrap();
    }
    let payload = find_event(&mut subscriber, |event| match event {
        SubscriberEvent::Message { message, .. } => Some(message.payload.clone()),
        _ => None,
    });
    assert_eq!(payload.await, r#"{"gb":21}"#);
}

#[tokio::test]
async fn server_with_another_subprotocol_is_not_retried() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = Subscriber::builder([server.address()])
        .encoding(Encoding::Json)
        .topic(topic(), StartFrom::Now)
        .connect()
        .expect("the servers fit the transport");
    // The server replies to every client with protobuf.
    let client = tokio::spawn(async move { server.accept().await });
    assert!(
        find_event(&mut subscriber, disconnect_reason)
            .await
            .contains("does not support pushonce.v1.json")
    );
    assert_eq!(subscriber.next().await, None);
    drop(client.await);
}

#[tokio::test]
async fn subscriber_moves_from_a_stale_server_to_another_without_a_gap() {
    let (first, second) =
        (ScriptedWebSocketServer::open().await, ScriptedWebSocketServer::open().await);
    let mut subscriber = subscribe(&[&first, &second], StartFrom::Start);
    let mut client = first.accept().await;
    client.requested_start().await;
    client.send_subscribed(at(1)).await;
    client.send_message(1).await;
    client.send_event(client::ServerEvent::Stale { topic: topic(), since: at(1) }).await;
    let since = |event| match event {
        SubscriberEvent::Stale { since, .. } => Some(since),
        _ => None,
    };
    assert_eq!(find_event(&mut subscriber, since).await, at(1));
    assert!(find_event(&mut subscriber, disconnect_reason).await.contains("lost contact"));

    let mut client = second.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Position(at(1)));
    client.send_subscribed(at(2)).await;
    client.send_message(2).await;
    assert_eq!(find_event(&mut subscriber, message_offset).await, 2);
}

#[tokio::test]
async fn stale_server_is_kept_when_there_is_no_other() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Start);
    let mut client = server.accept().await;
    client.requested_start().await;
    client.send_subscribed(at(1)).await;
    client.send_event(client::ServerEvent::Stale { topic: topic(), since: at(1) }).await;
    // Longer than the stale timeout with another server.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    client.send_message(1).await;
    client.send_event(client::ServerEvent::Live { topic: topic(), position: at(1) }).await;
    let live = |event| match event {
        SubscriberEvent::Live { position, .. } => Some(position),
        SubscriberEvent::Disconnected { reason, .. } => panic!("{reason}"),
        _ => None,
    };
    assert_eq!(find_event(&mut subscriber, live).await, at(1));
}

//! Set-up: a subscriber and scripted servers. Fault: sessions end in every possible way. Claim: the
//! subscriber connects to the next server, resumes after the last message it received, delivers nothing
//! twice, and does not return when the server forbids it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::time::Duration;

use pushonce_client::{Subscriber, SubscriberEvent};
use pushonce_core::{Position, StartFrom};
use stage::{ScriptedWebSocketServer, at, next_event, subscribe, topic};

async fn next_position(subscriber: &mut Subscriber) -> Position {
    loop {
        match next_event(subscriber).await {
            SubscriberEvent::Message { message, .. } => return message.position,
            SubscriberEvent::Gap { gap, .. } => panic!("{gap}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn subscriber_resumes_at_the_next_server_after_the_last_message_seen() {
    let (first, second) =
        (ScriptedWebSocketServer::open().await, ScriptedWebSocketServer::open().await);
    let mut subscriber = subscribe(&[&first, &second], StartFrom::Start);

    let mut client = first.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Start);
    client.send_subscribed(at(2)).await;
    client.send_message(1).await;
    client.send_message(2).await;
    assert_eq!(next_position(&mut subscriber).await, at(1));
    assert_eq!(next_position(&mut subscriber).await, at(2));
    drop(client);

    let mut client = second.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Position(at(2)));
    client.send_subscribed(at(3)).await;
    client.send_message(2).await;
    client.send_message(3).await;
    assert_eq!(next_position(&mut subscriber).await, at(3), "no message is delivered twice");
}

#[tokio::test]
async fn messages_during_a_disconnect_are_not_skipped_by_a_subscriber_from_now() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Now);

    let mut client = server.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Now);
    client.send_subscribed(at(9)).await;
    while !matches!(next_event(&mut subscriber).await, SubscriberEvent::Subscribed { .. }) {}
    drop(client);

    let mut client = server.accept().await;
    assert_eq!(client.requested_start().await, StartFrom::Position(at(9)));
}

#[tokio::test]
async fn unreachable_server_is_skipped() {
    let unreachable = ScriptedWebSocketServer::open().await.address();
    let server = ScriptedWebSocketServer::open().await;
    let addresses = [unreachable, server.address()];
    let mut subscriber = Subscriber::builder(addresses)
        .topic(topic(), StartFrom::Now)
        .connect()
        .expect("the servers fit the transport");

    let mut client = server.accept().await;
    client.requested_start().await;
    let SubscriberEvent::Disconnected { retry_in, .. } = next_event(&mut subscriber).await else {
        panic!("expected an event for the unreachable server");
    };
    assert!(retry_in.is_some());
}

#[tokio::test]
async fn close_code_without_reconnect_ends_the_subscriber() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Now);
    let mut client = server.accept().await;
    client.requested_start().await;
    client.close(4400).await;

    assert!(matches!(next_event(&mut subscriber).await, SubscriberEvent::Connected { .. }));
    let SubscriberEvent::Disconnected { retry_in, .. } = next_event(&mut subscriber).await else {
        panic!("expected the end of the session");
    };
    assert_eq!(retry_in, None);
    assert_eq!(subscriber.next().await, None);
}

#[tokio::test]
async fn close_code_with_later_reconnect_is_retried_after_a_delay() {
    let server = ScriptedWebSocketServer::open().await;
    let mut subscriber = subscribe(&[&server], StartFrom::Now);
    let mut client = server.accept().await;
    client.requested_start().await;
    client.close(4503).await;

    loop {
        if let SubscriberEvent::Disconnected { retry_in, .. } = next_event(&mut subscriber).await {
            assert!(retry_in.is_some_and(|pause| pause >= Duration::from_millis(100)));
            return;
        }
    }
}

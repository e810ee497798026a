//! Set-up: a subscriber and servers that follow a script. Fault: sessions end in every way there is.
//! Claim: the subscriber turns to the next server, resumes behind what it saw, shows nothing twice,
//! and stays away when the server says so.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::time::Duration;

use pushonce_client::{Event, Subscriber};
use pushonce_core::{From, Position};
use stage::{Door, at, topic};

/// Far more than anything here takes; nothing waits for it unless it fails.
const LIMIT: Duration = Duration::from_secs(20);

fn watch(doors: &[&Door], from: From) -> Subscriber {
    let servers = doors.iter().map(|door| door.server());
    Subscriber::builder(servers)
        .topic(topic(), from)
        .connect()
        .expect("the servers fit the transport")
}

async fn next(subscriber: &mut Subscriber) -> Option<Event> {
    tokio::time::timeout(LIMIT, subscriber.next()).await.expect("an event in time")
}

async fn message(subscriber: &mut Subscriber) -> Position {
    loop {
        match next(subscriber).await.expect("it goes on") {
            Event::Message { message, .. } => return message.position,
            Event::Gap { gap, .. } => panic!("{gap}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn it_resumes_at_the_next_server_behind_the_last_message_it_saw() {
    let (first, second) = (Door::open().await, Door::open().await);
    let mut subscriber = watch(&[&first, &second], From::Start);

    let mut client = first.client().await;
    assert_eq!(client.asks_from().await, From::Start);
    client.subscribed(at(2)).await;
    client.message(1).await;
    client.message(2).await;
    assert_eq!(message(&mut subscriber).await, at(1));
    assert_eq!(message(&mut subscriber).await, at(2));
    drop(client);

    let mut client = second.client().await;
    assert_eq!(client.asks_from().await, From::Position(at(2)));
    client.subscribed(at(3)).await;
    client.message(2).await;
    client.message(3).await;
    assert_eq!(message(&mut subscriber).await, at(3), "and nothing twice");
}

#[tokio::test]
async fn what_came_while_it_was_away_is_not_skipped_even_if_it_had_seen_nothing() {
    let door = Door::open().await;
    let mut subscriber = watch(&[&door], From::Now);

    let mut client = door.client().await;
    assert_eq!(client.asks_from().await, From::Now);
    client.subscribed(at(9)).await;
    while !matches!(next(&mut subscriber).await, Some(Event::Subscribed { .. })) {}
    drop(client);

    let mut client = door.client().await;
    assert_eq!(client.asks_from().await, From::Position(at(9)));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_passed_over() {
    let gone = Door::open().await.server();
    let door = Door::open().await;
    let servers = [gone, door.server()];
    let mut subscriber = Subscriber::builder(servers)
        .topic(topic(), From::Now)
        .connect()
        .expect("the servers fit the transport");

    let mut client = door.client().await;
    client.asks_from().await;
    let Some(Event::Disconnected { retry_in, .. }) = next(&mut subscriber).await else {
        panic!("it says that the first was not there");
    };
    assert!(retry_in.is_some());
}

#[tokio::test]
async fn a_close_that_says_no_is_the_end() {
    let door = Door::open().await;
    let mut subscriber = watch(&[&door], From::Now);
    let mut client = door.client().await;
    client.asks_from().await;
    client.close(4400).await;

    loop {
        match next(&mut subscriber).await {
            Some(Event::Disconnected { retry_in, .. }) => assert_eq!(retry_in, None),
            Some(Event::Connected { .. }) => {}
            None => return,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_close_that_says_later_is_tried_again() {
    let door = Door::open().await;
    let mut subscriber = watch(&[&door], From::Now);
    let mut client = door.client().await;
    client.asks_from().await;
    client.close(4503).await;

    loop {
        if let Some(Event::Disconnected { retry_in, .. }) = next(&mut subscriber).await {
            assert!(retry_in.is_some_and(|pause| pause >= Duration::from_millis(100)));
            return;
        }
    }
}

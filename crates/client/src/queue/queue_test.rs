use bytes::Bytes;
use futures::FutureExt as _;
use pushonce_core::{ContentType, Timestamp};

use super::*;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn at(offset: u64) -> Position {
    Position::new(7, offset)
}

fn message(offset: u64) -> Arc<Message> {
    let (position, time, payload) = (at(offset), Timestamp(0), Bytes::new());
    Arc::new(Message { position, time, content_type: ContentType::Text, key: None, payload })
}

fn newest(sender: &Sender, name: &str, offset: u64) {
    sender.replace(topic(name), News::Message(message(offset)), false).unwrap();
}

fn stale(name: &str, offset: u64) -> Event {
    Event::Stale { topic: topic(name), since: at(offset) }
}

fn shown(name: &str, offset: u64) -> Event {
    Event::Message { topic: topic(name), message: message(offset) }
}

fn taken(receiver: &mut Receiver) -> Vec<Event> {
    std::iter::from_fn(|| receiver.recv().now_or_never().flatten()).collect()
}

#[test]
fn one_newest_message_a_topic_waits_however_many_come() {
    let (sender, mut receiver) = queue();
    for offset in 1..=100_000 {
        newest(&sender, "a", offset);
        newest(&sender, "b", 2 * offset);
    }
    assert_eq!(taken(&mut receiver), [shown("a", 100_000), shown("b", 200_000)]);
    newest(&sender, "a", 100_001);
    assert_eq!(taken(&mut receiver), [shown("a", 100_001)]);
}

#[test]
fn topic_that_moves_fast_keeps_its_turn() {
    let (sender, mut receiver) = queue();
    newest(&sender, "fast", 1);
    newest(&sender, "slow", 1);
    newest(&sender, "fast", 2);
    assert_eq!(receiver.recv().now_or_never(), Some(Some(shown("fast", 2))));
}

#[test]
fn what_was_passed_over_is_one_gap_before_the_newest() {
    let (sender, mut receiver) = queue();
    let passed = |from, to| Gap { from: at(from), to: at(to), reason: GapReason::Conflated };
    let replace = |news| sender.replace(topic("a"), news, true).unwrap();
    replace(News::Message(message(3)));
    replace(News::PassedOver(passed(4, 6)));
    replace(News::Message(message(7)));
    replace(News::Message(message(8)));
    let gap = Event::Gap { topic: topic("a"), gap: passed(3, 7) };
    assert_eq!(taken(&mut receiver), [gap, shown("a", 8)]);
}

#[test]
fn message_does_not_overtake_what_was_said_of_its_topic_before() {
    let (sender, mut receiver) = queue();
    newest(&sender, "a", 1);
    assert_eq!(sender.send(stale("a", 1)).now_or_never(), Some(Ok(())));
    newest(&sender, "a", 2);
    newest(&sender, "a", 3);
    assert_eq!(taken(&mut receiver), [shown("a", 1), stale("a", 1), shown("a", 3)]);
}

#[test]
fn newest_audience_takes_the_place_of_an_older_one() {
    let (sender, mut receiver) = queue();
    let audience = |count| Event::Audience { topic: topic("a"), count };
    for count in 0..1_000 {
        assert_eq!(sender.send(audience(count)).now_or_never(), Some(Ok(())));
    }
    assert_eq!(taken(&mut receiver), [audience(999)]);
}

#[tokio::test]
async fn full_queue_makes_the_sender_of_ordered_events_wait_and_nobody_else() {
    let (sender, mut receiver) = queue();
    let mut sent = 0;
    while sender.send(stale("a", sent)).now_or_never().is_some() {
        sent += 1;
    }
    assert_eq!(sent, EVENTS_MAX as u64);
    newest(&sender, "b", 1);
    let waiting = async {
        sender.send(stale("a", sent)).await.unwrap();
        drop(sender);
    };
    let reading = async {
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        events
    };
    let (events, ()) = futures::join!(reading, waiting);
    assert_eq!(events.len(), EVENTS_MAX + 2);
    assert_eq!(events.iter().filter(|event| **event == shown("b", 1)).count(), 1);
    assert_eq!(events.last(), Some(&stale("a", sent)));
}

#[test]
fn sender_learns_that_nobody_takes_events_any_more() {
    let (sender, receiver) = queue();
    drop(receiver);
    assert_eq!(sender.send(stale("a", 1)).now_or_never(), Some(Err(Closed)));
    assert_eq!(sender.replace(topic("a"), News::Message(message(1)), false), Err(Closed));
}

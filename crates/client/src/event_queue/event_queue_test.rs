use futures::FutureExt as _;
use pushonce_core::test_util::{self, topic};

use super::*;

fn at(offset: u64) -> Position {
    Position::new(7, offset)
}

fn message(offset: u64) -> Arc<Message> {
    Arc::new(test_util::message(7, offset))
}

fn send_latest(sender: &EventSender, name: &str, offset: u64) {
    sender.replace_latest(topic(name), LatestUpdate::Message(message(offset)), false).unwrap();
}

fn stale(name: &str, offset: u64) -> SubscriberEvent {
    SubscriberEvent::Stale { topic: topic(name), since: at(offset) }
}

fn message_event(name: &str, offset: u64) -> SubscriberEvent {
    SubscriberEvent::Message { topic: topic(name), message: message(offset) }
}

fn drain(receiver: &mut EventReceiver) -> Vec<SubscriberEvent> {
    std::iter::from_fn(|| receiver.recv().now_or_never().flatten()).collect()
}

#[test]
fn only_the_latest_message_of_each_topic_is_queued() {
    let (sender, mut receiver) = channel(EVENTS_MAX_DEFAULT);
    for offset in 1..=100_000 {
        send_latest(&sender, "a", offset);
        send_latest(&sender, "b", 2 * offset);
    }
    assert_eq!(drain(&mut receiver), [message_event("a", 100_000), message_event("b", 200_000)]);
    send_latest(&sender, "a", 100_001);
    assert_eq!(drain(&mut receiver), [message_event("a", 100_001)]);
}

#[test]
fn fast_topic_keeps_its_place_in_the_queue() {
    let (sender, mut receiver) = channel(EVENTS_MAX_DEFAULT);
    send_latest(&sender, "fast", 1);
    send_latest(&sender, "slow", 1);
    send_latest(&sender, "fast", 2);
    assert_eq!(receiver.recv().now_or_never(), Some(Some(message_event("fast", 2))));
}

#[test]
fn skipped_messages_become_one_gap_before_the_latest() {
    let (sender, mut receiver) = channel(EVENTS_MAX_DEFAULT);
    let skipped = |from, to| Gap { from: at(from), to: at(to), reason: GapReason::Conflated };
    let replace = |update| sender.replace_latest(topic("a"), update, true).unwrap();
    replace(LatestUpdate::Message(message(3)));
    replace(LatestUpdate::Skipped(skipped(4, 6)));
    replace(LatestUpdate::Message(message(7)));
    replace(LatestUpdate::Message(message(8)));
    let gap = SubscriberEvent::Gap { topic: topic("a"), gap: skipped(3, 7) };
    assert_eq!(drain(&mut receiver), [gap, message_event("a", 8)]);
}

#[test]
fn message_does_not_overtake_earlier_events_of_its_topic() {
    let (sender, mut receiver) = channel(EVENTS_MAX_DEFAULT);
    send_latest(&sender, "a", 1);
    assert_eq!(sender.send(stale("a", 1)).now_or_never(), Some(Ok(())));
    send_latest(&sender, "a", 2);
    send_latest(&sender, "a", 3);
    assert_eq!(drain(&mut receiver), [message_event("a", 1), stale("a", 1), message_event("a", 3)]);
}

#[test]
fn newer_audience_replaces_an_older_one() {
    let (sender, mut receiver) = channel(EVENTS_MAX_DEFAULT);
    let audience = |count| SubscriberEvent::Audience { topic: topic("a"), count };
    for count in 0..1_000 {
        assert_eq!(sender.send(audience(count)).now_or_never(), Some(Ok(())));
    }
    assert_eq!(drain(&mut receiver), [audience(999)]);
}

#[tokio::test]
async fn full_queue_blocks_ordered_events_but_not_latest_messages() {
    let (sender, mut receiver) = channel(EVENTS_MAX_DEFAULT);
    let mut sent = 0;
    while sender.send(stale("a", sent)).now_or_never().is_some() {
        sent += 1;
    }
    assert_eq!(sent, EVENTS_MAX_DEFAULT as u64);
    send_latest(&sender, "b", 1);
    let sending = async {
        sender.send(stale("a", sent)).await.unwrap();
        drop(sender);
    };
    let receiving = async {
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        events
    };
    let (events, ()) = futures::join!(receiving, sending);
    assert_eq!(events.len(), EVENTS_MAX_DEFAULT + 2);
    assert_eq!(events.iter().filter(|event| **event == message_event("b", 1)).count(), 1);
    assert_eq!(events.last(), Some(&stale("a", sent)));
}

#[test]
fn sender_fails_after_the_receiver_is_dropped() {
    let (sender, receiver) = channel(EVENTS_MAX_DEFAULT);
    drop(receiver);
    assert_eq!(sender.send(stale("a", 1)).now_or_never(), Some(Err(ReceiverDropped)));
    assert_eq!(
        sender.replace_latest(topic("a"), LatestUpdate::Message(message(1)), false),
        Err(ReceiverDropped)
    );
}

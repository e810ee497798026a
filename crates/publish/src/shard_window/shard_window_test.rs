//! Tests of the order of a window under any replies of the owners.

use std::collections::BTreeMap;

use proptest::prelude::*;
use pushonce_core::test_util::{acknowledgement, claim, owners, publish};
use pushonce_core::{ProducerId, ProducerSequence, PublishId, UnavailableReason};

use super::*;

const SHARD: ShardId = ShardId(0);

fn owners_with_claim(owner: u64, term: u64) -> ShardOwners {
    owners([claim(SHARD.0, owner, term)])
}

fn acknowledged(offset: u64) -> Result<Acknowledgement, PublishError> {
    Ok(acknowledgement(1, offset))
}

fn not_owner(owner: Option<u64>) -> Result<Acknowledgement, PublishError> {
    Err(PublishRejection::NotOwner { owner: owner.map(NodeId) }.into())
}

/// Adds messages 0, 1, … to one topic and submits all of them.
fn submit_all(window: &mut ShardWindow, owners: &ShardOwners, count: u64, now: Instant) {
    for stream_index in 0..count {
        window.push(stream_index, publish("a", ""), now + Duration::from_secs(5));
    }
    assert_eq!(submit_ready(window, owners, now), (0..count).collect::<Vec<_>>());
}

fn submit_ready(window: &mut ShardWindow, owners: &ShardOwners, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| window.next_submission(owners, now))
        .map(|submission| submission.number)
        .collect()
}

#[test]
fn after_a_rejection_nothing_is_submitted_until_all_replies_arrive() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    let owners = owners_with_claim(2, 1);
    submit_all(&mut window, &owners, 3, now);
    window.on_reply(0, not_owner(Some(3)), now, &mut outcomes);
    window.push(3, publish("a", ""), now + Duration::from_secs(5));
    assert_eq!(submit_ready(&mut window, &owners, now), Vec::<u64>::new());
    window.on_reply(1, not_owner(Some(3)), now, &mut outcomes);
    window.on_reply(2, not_owner(Some(3)), now, &mut outcomes);
    assert_eq!(submit_ready(&mut window, &owners, now), [0], "one message is sent first");
    assert!(outcomes.is_empty());
    window.on_reply(0, acknowledged(1), now, &mut outcomes);
    assert_eq!(submit_ready(&mut window, &owners, now), [1, 2, 3]);
}

#[test]
fn overtaken_message_is_rejected_and_not_retried() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    let owners = owners_with_claim(2, 1);
    submit_all(&mut window, &owners, 2, now);
    window.on_reply(0, not_owner(Some(3)), now, &mut outcomes);
    window.on_reply(1, acknowledged(1), now, &mut outcomes);
    assert_eq!(outcomes[0], (1, acknowledged(1)));
    assert!(matches!(
        outcomes[1],
        (0, Err(PublishError::Rejected(PublishRejection::Unavailable(_))))
    ));
    assert_eq!(submit_ready(&mut window, &owners, now), Vec::<u64>::new());
}

#[test]
fn message_with_a_producer_sequence_is_retried() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    let owners = owners_with_claim(2, 1);
    for stream_index in 0..2 {
        let (producer, epoch, number) = (ProducerId(7), 1, stream_index + 1);
        let publish_id = Some(PublishId::Sequence(ProducerSequence { producer, epoch, number }));
        window.push(
            stream_index,
            Publish { publish_id, ..publish("a", "") },
            now + Duration::from_secs(5),
        );
    }
    assert_eq!(submit_ready(&mut window, &owners, now), [0, 1]);
    window.on_reply(0, not_owner(Some(3)), now, &mut outcomes);
    window.on_reply(1, Err(PublishError::unknown("the link broke")), now, &mut outcomes);
    assert!(matches!(outcomes[..], [(1, Err(PublishError::Unknown { .. }))]), "{outcomes:?}");
    assert_eq!(submit_ready(&mut window, &owners, now), [0]);
}

#[test]
fn message_of_another_topic_does_not_block_a_retry() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    let owners = owners_with_claim(2, 1);
    window.push(0, publish("a", ""), now + Duration::from_secs(5));
    window.push(1, publish("b", ""), now + Duration::from_secs(5));
    assert_eq!(submit_ready(&mut window, &owners, now), [0, 1]);
    window.on_reply(0, not_owner(Some(3)), now, &mut outcomes);
    window.on_reply(1, acknowledged(1), now, &mut outcomes);
    assert_eq!(submit_ready(&mut window, &owners, now), [0]);
}

#[test]
fn nothing_is_sent_to_a_new_owner_while_messages_are_in_flight_to_the_old_one() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    submit_all(&mut window, &owners_with_claim(2, 1), 1, now);
    let new_owners = owners_with_claim(3, 2);
    window.push(1, publish("a", ""), now + Duration::from_secs(5));
    assert_eq!(submit_ready(&mut window, &new_owners, now), Vec::<u64>::new());
    window.on_reply(0, acknowledged(1), now, &mut outcomes);
    assert_eq!(submit_ready(&mut window, &new_owners, now), [1]);
}

#[test]
fn rejecting_node_is_retried_after_the_retry_delay() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    let owners = owners_with_claim(2, 1);
    submit_all(&mut window, &owners, 1, now);
    window.on_reply(0, not_owner(None), now, &mut outcomes);
    assert_eq!(submit_ready(&mut window, &owners, now), Vec::<u64>::new());
    assert_eq!(window.wake_at(), Some(now + RETRY_DELAY));
    assert_eq!(submit_ready(&mut window, &owners, now + RETRY_DELAY), [0]);
}

#[test]
fn unavailable_owner_is_retried_until_the_deadline() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    let owners = owners_with_claim(2, 1);
    submit_all(&mut window, &owners, 1, now);
    let unavailable = PublishRejection::from(UnavailableReason::NoLink(NodeId(2)));
    window.on_reply(0, Err(unavailable.clone().into()), now, &mut outcomes);
    assert_eq!(
        submit_ready(&mut window, &owners_with_claim(3, 2), now),
        [0],
        "another owner is tried immediately"
    );
    window.on_reply(0, Err(unavailable.into()), now, &mut outcomes);
    assert!(outcomes.is_empty());
    window.expire(now + Duration::from_secs(5), &mut outcomes);
    let [(0, Err(rejected))] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(rejected.to_string().contains("n3 replied: there is no link to n2"), "{rejected}");
}

#[test]
fn message_without_an_owner_is_rejected_at_its_deadline() {
    let (mut window, now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
    window.push(0, publish("a", ""), now + Duration::from_secs(5));
    assert_eq!(submit_ready(&mut window, &ShardOwners::default(), now), Vec::<u64>::new());
    let deadline = window.wake_at().expect("a timer is set");
    window.expire(deadline, &mut outcomes);
    assert!(matches!(
        outcomes[..],
        [(0, Err(PublishError::Rejected(PublishRejection::Unavailable(_))))]
    ));
    assert_eq!(window.wake_at(), None);
}

#[derive(Clone, Copy, Debug)]
enum WindowOp {
    Push(bool),
    Reply(usize, bool),
    ChangeOwner(u64),
    Advance(u64),
}

fn window_op() -> impl Strategy<Value = WindowOp> {
    prop_oneof![
        any::<bool>().prop_map(WindowOp::Push),
        (0usize..4, any::<bool>())
            .prop_map(|(index, is_accepted)| WindowOp::Reply(index, is_accepted)),
        (1u64..4).prop_map(WindowOp::ChangeOwner),
        (1u64..800).prop_map(WindowOp::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The owners in this model store messages in the order in which they accept them, and reject at
    /// random; replies arrive in any order.
    #[test]
    fn stream_order_of_a_topic_is_kept_under_any_owner_changes(
        ops in prop::collection::vec(window_op(), 1..80),
    ) {
        let (mut window, mut now, mut outcomes) = (ShardWindow::new(SHARD), Instant::now(), vec![]);
        let (mut owners, mut term) = (owners_with_claim(1, 1), 1);
        let mut in_flight: Vec<Submission> = vec![];
        let mut logs: BTreeMap<Topic, Vec<u64>> = BTreeMap::new();
        let mut pushed = 0;
        for op in ops {
            match op {
                WindowOp::Push(is_topic_a) => {
                    let topic = if is_topic_a { "a" } else { "b" };
                    window.push(pushed, publish(topic, ""), now + Duration::from_secs(2));
                    pushed += 1;
                }
                WindowOp::Reply(index, is_accepted) if index < in_flight.len() => {
                    let submission = in_flight.remove(index);
                    if is_accepted {
                        // An accepted message is stored when its reply is processed, so a reply that
                        // overtakes is a message that overtakes.
                        let log = logs.entry(submission.publish.topic.clone()).or_default();
                        let overtaken = log.last().is_some_and(|&last| last > submission.number);
                        let reply = if overtaken { not_owner(None) } else { acknowledged(1) };
                        log.extend((!overtaken).then_some(submission.number));
                        window.on_reply(submission.number, reply, now, &mut outcomes);
                    } else {
                        window.on_reply(submission.number, not_owner(Some(2)), now, &mut outcomes);
                    }
                }
                WindowOp::Reply(..) => {}
                WindowOp::ChangeOwner(owner) => {
                    term += 1;
                    owners = owners_with_claim(owner, term);
                }
                WindowOp::Advance(ms) => {
                    now += Duration::from_millis(ms);
                    window.expire(now, &mut outcomes);
                }
            }
            while let Some(submission) = window.next_submission(&owners, now) {
                let log = logs.get(&submission.publish.topic).and_then(|log| log.last());
                prop_assert!(
                    log.is_none_or(|&last| last < submission.number),
                    "message {} was sent after {log:?} was stored", submission.number,
                );
                let is_ordered = |other: &Submission| {
                    other.publish.topic != submission.publish.topic || other.number < submission.number
                };
                prop_assert!(in_flight.iter().all(is_ordered), "sent behind a later message");
                let same_node = in_flight.iter().all(|other| other.node == submission.node);
                prop_assert!(same_node, "messages were in flight to two nodes");
                in_flight.push(submission);
            }
        }
        let mut completed: Vec<u64> = outcomes.iter().map(|(ticket, _)| *ticket).collect();
        completed.sort_unstable();
        let are_distinct = completed.windows(2).all(|pair| pair[0] != pair[1]);
        prop_assert!(are_distinct, "a message was completed twice");
    }
}

//! The order of a line, whatever the owners answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use pushonce_core::{Claim, ContentType, Position, ProducerId, Sequence, Stamp, Term, Timestamp};

use super::*;

const SHARD: ShardId = ShardId(0);

fn publish(topic: &str) -> Publish {
    let topic = Topic::new(topic).expect("valid");
    Publish {
        topic,
        content_type: ContentType::Binary,
        key: None,
        stamp: None,
        payload: Bytes::new(),
    }
}

fn owned_by(owner: u64, term: u64) -> Owners {
    let mut owners = Owners::default();
    owners.hear(Claim {
        shard: SHARD,
        owner: NodeId(owner),
        term: Term(term),
        membership: 1,
        voters: vec![],
        learners: vec![],
    });
    owners
}

fn placed(offset: u64) -> Result<Placed, PublishError> {
    Ok(Placed {
        position: Position::new(1, offset),
        time: Timestamp(0),
        durability: Default::default(),
    })
}

fn not_owner(owner: Option<u64>) -> Result<Placed, PublishError> {
    Err(Refusal::NotOwner { owner: owner.map(NodeId) }.into())
}

/// A line of messages 0, 1, … to one topic, all handed over.
fn flying(line: &mut Line, owners: &Owners, count: u64, now: Instant) {
    for ticket in 0..count {
        line.push(ticket, publish("a"), now + Duration::from_secs(5));
    }
    assert_eq!(numbers(line, owners, now), (0..count).collect::<Vec<_>>());
}

fn numbers(line: &mut Line, owners: &Owners, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| line.submit(owners, now)).map(|submission| submission.number).collect()
}

#[test]
fn after_a_refusal_everything_comes_back_before_anything_goes_out() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    let old = owned_by(2, 1);
    flying(&mut line, &old, 3, now);
    line.landed(0, not_owner(Some(3)), now, &mut out);
    line.push(3, publish("a"), now + Duration::from_secs(5));
    assert_eq!(numbers(&mut line, &old, now), Vec::<u64>::new());
    line.landed(1, not_owner(Some(3)), now, &mut out);
    line.landed(2, not_owner(Some(3)), now, &mut out);
    assert_eq!(numbers(&mut line, &old, now), [0], "one goes first");
    assert!(out.is_empty());
    line.landed(0, placed(1), now, &mut out);
    assert_eq!(numbers(&mut line, &old, now), [1, 2, 3]);
}

#[test]
fn a_message_that_was_overtaken_is_refused_and_not_tried_again() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    let owners = owned_by(2, 1);
    flying(&mut line, &owners, 2, now);
    line.landed(0, not_owner(Some(3)), now, &mut out);
    line.landed(1, placed(1), now, &mut out);
    assert_eq!(out[0], (1, placed(1)));
    assert!(matches!(out[1], (0, Err(PublishError::Refused(Refusal::Unavailable(_))))));
    assert_eq!(numbers(&mut line, &owners, now), Vec::<u64>::new());
}

#[test]
fn a_message_with_a_number_is_tried_again_since_nothing_can_overtake_it() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    let owners = owned_by(2, 1);
    for ticket in 0..2 {
        let (producer, epoch, number) = (ProducerId(7), 1, ticket + 1);
        let stamp = Some(Stamp::Sequence(Sequence { producer, epoch, number }));
        line.push(ticket, Publish { stamp, ..publish("a") }, now + Duration::from_secs(5));
    }
    assert_eq!(numbers(&mut line, &owners, now), [0, 1]);
    line.landed(0, not_owner(Some(3)), now, &mut out);
    line.landed(1, Err(PublishError::unknown("the link broke")), now, &mut out);
    assert!(matches!(out[..], [(1, Err(PublishError::Unknown { .. }))]), "{out:?}");
    assert_eq!(numbers(&mut line, &owners, now), [0]);
}

#[test]
fn a_message_of_another_topic_overtakes_nobody() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    let owners = owned_by(2, 1);
    line.push(0, publish("a"), now + Duration::from_secs(5));
    line.push(1, publish("b"), now + Duration::from_secs(5));
    assert_eq!(numbers(&mut line, &owners, now), [0, 1]);
    line.landed(0, not_owner(Some(3)), now, &mut out);
    line.landed(1, placed(1), now, &mut out);
    assert_eq!(numbers(&mut line, &owners, now), [0]);
}

#[test]
fn nothing_goes_to_a_new_owner_while_something_is_under_way_to_the_old() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    flying(&mut line, &owned_by(2, 1), 1, now);
    let new = owned_by(3, 2);
    line.push(1, publish("a"), now + Duration::from_secs(5));
    assert_eq!(numbers(&mut line, &new, now), Vec::<u64>::new());
    line.landed(0, placed(1), now, &mut out);
    assert_eq!(numbers(&mut line, &new, now), [1]);
}

#[test]
fn a_node_that_refused_is_asked_again_after_a_pause() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    let owners = owned_by(2, 1);
    flying(&mut line, &owners, 1, now);
    line.landed(0, not_owner(None), now, &mut out);
    assert_eq!(numbers(&mut line, &owners, now), Vec::<u64>::new());
    assert_eq!(line.wake_at(), Some(now + PAUSE));
    assert_eq!(numbers(&mut line, &owners, now + PAUSE), [0]);
}

#[test]
fn an_owner_that_cannot_commit_now_is_asked_again_until_the_deadline() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    let owners = owned_by(2, 1);
    flying(&mut line, &owners, 1, now);
    let down = Refusal::Unavailable("there is no link to n2".to_owned());
    line.landed(0, Err(down.clone().into()), now, &mut out);
    assert_eq!(numbers(&mut line, &owned_by(3, 2), now), [0], "another owner is asked at once");
    line.landed(0, Err(down.into()), now, &mut out);
    assert!(out.is_empty());
    line.expire(now + Duration::from_secs(5), &mut out);
    let [(0, Err(refused))] = &out[..] else { panic!("{out:?}") };
    assert!(refused.to_string().contains("n3 said: there is no link to n2"), "{refused}");
}

#[test]
fn what_nobody_took_in_time_is_refused() {
    let (mut line, now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
    line.push(0, publish("a"), now + Duration::from_secs(5));
    assert_eq!(numbers(&mut line, &Owners::default(), now), Vec::<u64>::new());
    let end = line.wake_at().expect("an alarm is set");
    line.expire(end, &mut out);
    assert!(matches!(out[..], [(0, Err(PublishError::Refused(Refusal::Unavailable(_))))]));
    assert_eq!(line.wake_at(), None);
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Push(bool),
    Land(usize, bool),
    Move(u64),
    Tick(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any::<bool>().prop_map(Act::Push),
        (0usize..4, any::<bool>()).prop_map(|(which, taken)| Act::Land(which, taken)),
        (1u64..4).prop_map(Act::Move),
        (1u64..800).prop_map(Act::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The owners of this world place messages in the order they take them and refuse at will;
    /// answers come back in any order.
    #[test]
    fn whatever_moves_a_topic_never_shows_a_stream_out_of_order(
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let (mut line, mut now, mut out) = (Line::new(SHARD), Instant::now(), vec![]);
        let (mut owners, mut term) = (owned_by(1, 1), 1);
        let mut under_way: Vec<Submission> = vec![];
        let mut logs: BTreeMap<Topic, Vec<u64>> = BTreeMap::new();
        let mut pushed = 0;
        for act in acts {
            match act {
                Act::Push(a) => {
                    let topic = if a { "a" } else { "b" };
                    line.push(pushed, publish(topic), now + Duration::from_secs(2));
                    pushed += 1;
                }
                Act::Land(which, taken) if which < under_way.len() => {
                    let submission = under_way.remove(which);
                    if taken {
                        // What landed is placed now, so an answer that overtakes is a place that
                        // does.
                        let log = logs.entry(submission.publish.topic.clone()).or_default();
                        let overtaken = log.last().is_some_and(|&last| last > submission.number);
                        let answer = if overtaken { not_owner(None) } else { placed(1) };
                        log.extend((!overtaken).then_some(submission.number));
                        line.landed(submission.number, answer, now, &mut out);
                    } else {
                        line.landed(submission.number, not_owner(Some(2)), now, &mut out);
                    }
                }
                Act::Land(..) => {}
                Act::Move(to) => {
                    term += 1;
                    owners = owned_by(to, term);
                }
                Act::Tick(ms) => {
                    now += Duration::from_millis(ms);
                    line.expire(now, &mut out);
                }
            }
            while let Some(submission) = line.submit(&owners, now) {
                let log = logs.get(&submission.publish.topic).and_then(|log| log.last());
                prop_assert!(
                    log.is_none_or(|&last| last < submission.number),
                    "message {} was handed over after {log:?} had its place", submission.number,
                );
                let before = |other: &Submission| {
                    other.publish.topic != submission.publish.topic || other.number < submission.number
                };
                prop_assert!(under_way.iter().all(before), "handed over behind a later message");
                let same_node = under_way.iter().all(|other| other.to == submission.to);
                prop_assert!(same_node, "two nodes were asked at once");
                under_way.push(submission);
            }
        }
        let mut answered: Vec<u64> = out.iter().map(|(ticket, _)| *ticket).collect();
        answered.sort_unstable();
        let distinct = answered.windows(2).all(|pair| pair[0] != pair[1]);
        prop_assert!(distinct, "a message was answered twice");
    }
}

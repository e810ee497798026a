//! Tests of the checker: valid histories pass, and each modification is caught by the invariant that it
//! violates.

mod mutations;
mod simulated_run;

use pushonce_core::{Durability, Position};

use super::*;
use crate::history::{FaultEffect, HistoryEvent, LoggedMessage, SharedStr, SubscribeStart};
use simulated_run::{TOPIC, name};

/// The violated invariants under the published limits.
fn violated_invariants(records: &[HistoryRecord]) -> Vec<&'static str> {
    let results = check_all(records, &Guarantees::PUBLISHED);
    results.iter().filter(|(_, result)| result.is_err()).map(|(p, _)| p.id).collect()
}

/// A message acknowledged at 5:1, and a log that begins at `first`.
fn acknowledged_and_missing(durability: Durability, first: Position) -> Vec<HistoryRecord> {
    let events = [
        HistoryEvent::Publish {
            op: 1,
            topic: name(TOPIC),
            payload: 7,
            key: None,
            sequence: None,
            node: Some(0),
        },
        HistoryEvent::Acknowledged { op: 1, position: Position::new(5, 1), durability },
        HistoryEvent::Log {
            topic: name(TOPIC),
            node: 0,
            transport: name("http"),
            log: vec![LoggedMessage { position: first, payload: 8, key: None }],
        },
    ];
    let record = |(at, event)| HistoryRecord { time_us: at, process: name("unary"), event };
    (1..).zip(events).map(record).collect()
}

#[test]
fn only_memory_messages_may_be_lost_and_only_with_their_whole_epoch() {
    let violates_i1 = |durability, first| {
        violated_invariants(&acknowledged_and_missing(durability, first)).contains(&"I1")
    };
    let (same, next) = (Position::new(5, 2), Position::new(6, 1));
    assert!(!violates_i1(Durability::Memory, next));
    assert!(violates_i1(Durability::Memory, same));
    assert!(violates_i1(Durability::Replicated, next));
}

#[test]
fn log_that_was_read_after_the_loss_of_a_memory_epoch_may_be_shorter() {
    let violates_i3 = |durability, logs: [&[u64]; 2]| {
        let mut records = acknowledged_and_missing(durability, Position::new(5, 1));
        records.pop();
        let log = |epochs: &[u64]| HistoryEvent::Log {
            topic: name(TOPIC),
            node: 0,
            transport: name("http"),
            log: epochs
                .iter()
                .map(|&epoch| LoggedMessage {
                    position: Position::new(epoch, 1),
                    payload: 7,
                    key: None,
                })
                .collect(),
        };
        records.extend(logs.map(|epochs| HistoryRecord {
            time_us: 9,
            process: name("reader"),
            event: log(epochs),
        }));
        violated_invariants(&records).contains(&"I3")
    };
    assert!(!violates_i3(Durability::Memory, [&[5], &[]]));
    assert!(violates_i3(Durability::Memory, [&[], &[5]]), "it comes back");
    assert!(violates_i3(Durability::Replicated, [&[5], &[]]));
}

#[test]
fn delivered_message_without_acknowledgement_may_be_lost_beside_messages_in_memory() {
    let violates_i4 = |durability| {
        let mut records = acknowledged_and_missing(durability, Position::new(6, 1));
        let delivered = HistoryEvent::Delivered {
            topic: name(TOPIC),
            position: Position::new(5, 2),
            payload: 8,
            key: None,
        };
        records.insert(2, HistoryRecord { time_us: 2, process: name("viewer"), event: delivered });
        violated_invariants(&records).contains(&"I4")
    };
    assert!(!violates_i4(Durability::Memory));
    assert!(violates_i4(Durability::Replicated));
}

#[test]
fn subscription_may_resume_at_a_position_that_only_a_gap_has_named() {
    let topic = || name(TOPIC);
    let violates_i12 = |gap_to| {
        let gap = HistoryEvent::Gap {
            topic: topic(),
            from: Position::new(5, 2),
            to: gap_to,
            reason: name("epoch"),
        };
        let resumed = Position::new(6, 0);
        let subscribe = HistoryEvent::Subscribe {
            topic: topic(),
            node: Some(0),
            transport: name("ws"),
            from: SubscribeStart::After(resumed),
        };
        let subscribed =
            HistoryEvent::Subscribed { topic: topic(), position: resumed, recovered: true };
        let record = |(at, event)| HistoryRecord { time_us: at, process: name("viewer"), event };
        let records: Vec<_> = (1..).zip([gap, subscribe, subscribed]).map(record).collect();
        violated_invariants(&records).contains(&"I12")
    };
    assert!(!violates_i12(Position::new(6, 0)));
    assert!(violates_i12(Position::new(5, 9)));
}

#[test]
fn node_that_is_ready_acknowledges_publishes_within_the_limit_after_the_last_start_of_a_node() {
    let window_us = Guarantees::PUBLISHED.unready_within.as_micros() as u64;
    let violates_i19 = |last_report_us, other_starts_us| {
        let record = |time_us, event| HistoryRecord { time_us, process: name("unary"), event };
        let health = |ready| HistoryEvent::Health { node: 0, ready, reason: name("") };
        let mut records = vec![record(0, health(true))];
        records.extend((1..=9).map(|op| {
            let publish = HistoryEvent::Publish {
                op,
                topic: name(TOPIC),
                payload: op,
                key: None,
                sequence: None,
                node: Some(0),
            };
            record(op, publish)
        }));
        let waits = HistoryEvent::Health { node: 1, ready: false, reason: name("waits") };
        records.push(record(other_starts_us, waits));
        records.push(record(last_report_us, health(true)));
        records.push(record(2 * window_us, HistoryEvent::Unreachable { node: 0 }));
        violated_invariants(&records).contains(&"I19")
    };
    assert!(!violates_i19(window_us - 1, 0));
    assert!(violates_i19(window_us, 0));
    assert!(!violates_i19(window_us, 10), "the other node may have completed a majority");
}

/// A client that resumes after 5:9 is rejected. `delivered` was delivered before.
fn rejected_as_future_position(delivered: Position) -> Vec<&'static str> {
    let topic = || name(TOPIC);
    let deliver =
        |position| HistoryEvent::Delivered { topic: topic(), position, payload: 7, key: None };
    let events = [
        ("viewer", deliver(Position::new(5, 1))),
        ("viewer", deliver(delivered)),
        (
            "forger",
            HistoryEvent::Subscribe {
                topic: topic(),
                node: Some(0),
                transport: name("ws"),
                from: SubscribeStart::After(Position::new(5, 9)),
            },
        ),
        (
            "forger",
            HistoryEvent::SubscribeRejected { topic: topic(), code: name("future_position") },
        ),
        ("viewer", deliver(Position::new(6, 1))),
    ];
    let record =
        |(at, (process, event))| HistoryRecord { time_us: at, process: name(process), event };
    violated_invariants(&(1..).zip(events).map(record).collect::<Vec<_>>())
}

#[test]
fn rejected_position_is_compared_with_positions_seen_before() {
    assert!(rejected_as_future_position(Position::new(5, 9)).contains(&"I12"));
    assert!(!rejected_as_future_position(Position::new(5, 8)).contains(&"I12"));
}

/// Whether the checker accepts two logs of one topic with these offsets; the guaranteed history is two
/// messages.
fn logs_agree(first: std::ops::RangeInclusive<u64>, second: std::ops::RangeInclusive<u64>) -> bool {
    let log = |(at, offsets): (u64, std::ops::RangeInclusive<u64>)| {
        let entry = |offset| LoggedMessage {
            position: Position::new(5, offset),
            payload: offset,
            key: None,
        };
        let log = offsets.map(entry).collect();
        let event = HistoryEvent::Log { topic: name(TOPIC), node: 0, transport: name("http"), log };
        HistoryRecord { time_us: at, process: name("runner"), event }
    };
    let records: Vec<_> = (1..).zip([first, second]).map(log).collect();
    let guarantees = Guarantees { history_min: 2, ..Guarantees::PUBLISHED };
    logs_agree::check(&HistoryIndex::from_records(&records), &guarantees).is_ok()
}

#[test]
fn logs_of_different_length_agree_when_the_history_is_full() {
    assert!(logs_agree(1..=9, 8..=9) && logs_agree(8..=9, 1..=9));
    assert!(!logs_agree(1..=9, 9..=9), "one message is less than the guaranteed history");
    assert!(!logs_agree(1..=9, 7..=8), "the last message is missing");
    assert!(logs_agree(9..=9, 9..=9));
}

/// A subscriber of node 0, which is killed at 10 s. From 20 s on, the node is disconnected for longer than
/// the time limit of the stale notice.
fn cut_off_after_kill(received_between: bool) -> Vec<&'static str> {
    let node = 0;
    let effect = FaultEffect { unready: vec![node], ..FaultEffect::on_nodes(vec![node]) };
    let fault = |event: fn(SharedStr) -> HistoryEvent| event(name("soak"));
    let begins = |effect| HistoryEvent::FaultInjected { fault: name("soak"), effect };
    let confirmed = || fault(|fault| HistoryEvent::FaultActive { fault });
    let ends = || fault(|fault| HistoryEvent::FaultHealed { fault });
    let delivered = |offset| HistoryEvent::Delivered {
        topic: name(TOPIC),
        position: Position::new(5, offset),
        payload: offset,
        key: None,
    };
    let subscribe = HistoryEvent::Subscribe {
        topic: name(TOPIC),
        node: Some(node),
        transport: name("quic"),
        from: SubscribeStart::Start,
    };
    let subscribed =
        HistoryEvent::Subscribed { topic: name(TOPIC), position: Position::ZERO, recovered: true };
    let mut events = vec![
        (1, "viewer", subscribe),
        (2, "viewer", subscribed),
        (3, "viewer", delivered(1)),
        (10, "nemesis", begins(FaultEffect::restart(vec![node]))),
        (12, "nemesis", ends()),
        (20, "nemesis", begins(effect)),
        (21, "nemesis", confirmed()),
        (60, "nemesis", ends()),
    ];
    if received_between {
        events.insert(5, (15, "viewer", delivered(2)));
    }
    let record = |(at, process, event): (u64, _, _)| HistoryRecord {
        time_us: at * 1_000_000,
        process: name(process),
        event,
    };
    violated_invariants(&events.into_iter().map(record).collect::<Vec<_>>())
}

#[test]
fn killed_process_owes_no_stale_notice() {
    assert!(cut_off_after_kill(true).contains(&"I14"));
    assert!(!cut_off_after_kill(false).contains(&"I14"));
}

//! I3: each position has one payload, in acknowledgements, deliveries and logs; and at the end every node
//! returns the same log over every transport.

use std::collections::HashMap;

use pushonce_core::Position;

use crate::history::PayloadHash;

use super::acknowledged_is_durable::is_lost_with_memory;
use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        let mut payloads = HashMap::new();
        let acknowledged = topic
            .acknowledged()
            .map(|(publish, position, record)| (record, position, publish.payload));
        let delivered = history
            .deliveries(topic)
            .map(|(_, record, position, payload)| (record, position, payload));
        let logs = topic.logs.iter().flat_map(|log| {
            log.entries.iter().map(|(position, payload)| (log.record, *position, *payload))
        });
        for (record, position, payload) in acknowledged.chain(delivered).chain(logs) {
            checked += 1;
            let (first, known_payload) = *payloads.entry(position).or_insert((record, payload));
            if known_payload != payload {
                let message = format!("{name}: {position} has two payloads");
                return Err(InvariantViolation::new(message, [first, record]));
            }
        }
        check_logs_equal(name, topic, guarantees)?;
    }
    Ok(CheckEvidence::from_count(checked, "no message has a position"))
}

/// Compares the common part of the logs. If the history is longer than a page, some transports return more of
/// it than others.
fn check_logs_equal(
    name: &str,
    topic: &TopicHistory<'_>,
    guarantees: &Guarantees,
) -> Result<(), InvariantViolation> {
    let Some((first, others)) = topic.logs.split_first() else { return Ok(()) };
    for other in others {
        let pages = [&first.entries, &other.entries];
        let are_full = pages.iter().all(|page| page.len() >= guarantees.history_min);
        let first_common = pages.iter().filter_map(|page| page.keys().next()).max();
        let first_common = first_common.filter(|_| are_full).copied().unwrap_or(Position::ZERO);
        let [first_entries, other_entries] = pages.map(|page| page.range(first_common..));
        // The owner may change between the two reads. The memory of the old owner is then lost.
        let first_entries =
            first_entries.filter(|(position, _)| !is_lost_with_memory(topic, other, **position));
        if let Some(position) = first_difference(first_entries, other_entries) {
            let message = format!(
                "{name}: the logs of node {} over {} and of node {} over {} differ at {position}",
                first.node, first.transport, other.node, other.transport
            );
            return Err(InvariantViolation::new(message, [first.record, other.record]));
        }
    }
    Ok(())
}

/// The first position at which two logs differ.
fn first_difference<'a>(
    mut first: impl Iterator<Item = (&'a Position, &'a PayloadHash)>,
    mut other: impl Iterator<Item = (&'a Position, &'a PayloadHash)>,
) -> Option<Position> {
    loop {
        match (first.next(), other.next()) {
            (None, None) => return None,
            (first_entry, other_entry) if first_entry == other_entry => {}
            (first_entry, other_entry) => {
                return first_entry.into_iter().chain(other_entry).map(|(at, _)| *at).min();
            }
        }
    }
}

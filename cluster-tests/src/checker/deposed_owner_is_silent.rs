//! I11: what is acknowledged or shown through a node that slept, was cut off or was restarted, from
//! then on, is in the log at its place.

use std::collections::BTreeMap;

use crate::history::HistoryEvent;

use super::acknowledged_is_durable::expired;
use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, promises: &Guarantees) -> CheckResult {
    let mut checked = 0;
    // The first time is enough: everything after it is looked at.
    let mut deposed_since = BTreeMap::new();
    for fault in &history.faults {
        for &node in &fault.effect.deposed {
            deposed_since.entry(node).or_insert(fault.begin);
        }
    }
    for (name, topic) in &history.topics {
        for (node, record, position, payload) in statements_by_node(history, topic) {
            if deposed_since.get(&node).is_none_or(|&begins| record < begins) {
                continue;
            }
            for log in &topic.logs {
                checked += 1;
                let kept = match log.entries.get(&position) {
                    Some(there) => *there == payload,
                    None => expired(topic, log, position, promises),
                };
                if !kept {
                    let message = format!(
                        "{name}: node {node}, after it slept, was cut off or was restarted, said {position}, \
                         which is not in the log of node {}",
                        log.node
                    );
                    return Err(InvariantViolation::new(
                        message,
                        [deposed_since[&node], log.record, record],
                    ));
                }
            }
        }
    }
    Ok(CheckEvidence::from_count(
        checked,
        "no node slept, was cut off or was restarted, and was heard after it",
    ))
}

/// What was acknowledged or shown through a known node: node, record, position, payload.
fn statements_by_node(
    history: &HistoryIndex<'_>,
    topic: &TopicHistory<'_>,
) -> Vec<(usize, usize, pushonce_core::Position, u64)> {
    let acknowledged = topic.acknowledged().filter_map(|(publish, position, record)| {
        Some((publish.node?, record, position, publish.payload))
    });
    let mut statements: Vec<_> = acknowledged.collect();
    for indices in topic.subscriptions.values() {
        let mut current_node = None;
        for &index in indices {
            match history.event(index) {
                HistoryEvent::Subscribe { node, .. } => current_node = *node,
                HistoryEvent::Delivered { position, payload, .. } => {
                    statements.extend(current_node.map(|node| (node, index, *position, *payload)));
                }
                _ => {}
            }
        }
    }
    statements
}

//! I11: everything that is acknowledged or delivered through a node after it was paused, partitioned or
//! restarted is in the log at that position.

use std::collections::BTreeMap;

use crate::history::HistoryEvent;

use super::acknowledged_is_durable::expired;
use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = 0;
    // The first time of each node is enough: every later event is checked.
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
                    None => expired(topic, log, position, guarantees),
                };
                if !kept {
                    let message = format!(
                        "{name}: node {node}, after it was paused, partitioned or restarted, acknowledged or \
                         delivered {position}, which is not in the log of node {}",
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
        "no node acknowledged or delivered a message after a pause, a partition or a restart",
    ))
}

/// The messages acknowledged or delivered through a known node: node, record, position, payload.
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

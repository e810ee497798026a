//! I1: every acknowledged message is in the log of every node at its acknowledged position, or is older than
//! the guaranteed history. Messages acknowledged as `memory` may also be lost together with their whole
//! epoch.

use pushonce_core::Position;

use super::history_index::NodeLog;
use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        for (publish, position, acknowledged) in topic.acknowledged() {
            for log in &topic.logs {
                checked += 1;
                let problem = match log.entries.get(&position) {
                    Some(payload) if *payload == publish.payload => continue,
                    Some(_) => "has another payload there",
                    None if expired(topic, log, position, guarantees) => continue,
                    None => "does not have it",
                };
                let NodeLog { node, transport, .. } = log;
                let message = format!(
                    "{name}: {position} was acknowledged, and the log of node {node} over {transport} \
                     {problem}"
                );
                return Err(InvariantViolation::new(
                    message,
                    [log.record, publish.invoked, acknowledged],
                ));
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no message was acknowledged, or no log was read"))
}

/// Whether a position was in memory, and the log begins in a later epoch.
pub(super) fn is_lost_with_memory(
    topic: &TopicHistory<'_>,
    log: &NodeLog<'_>,
    position: Position,
) -> bool {
    let first = log.entries.keys().next();
    topic.may_be_in_memory(position) && first.is_none_or(|first| position.epoch < first.epoch)
}

/// Whether a log may lack a position: the history is full of later messages, or the position was in memory
/// and the log begins in a later epoch.
pub(super) fn expired(
    topic: &TopicHistory<'_>,
    log: &NodeLog<'_>,
    position: Position,
    guarantees: &Guarantees,
) -> bool {
    if is_lost_with_memory(topic, log, position) {
        return true;
    }
    let first = log.entries.keys().next();
    let before = first.is_some_and(|first| position.epoch == first.epoch && position < *first);
    before && log.entries.len() >= guarantees.history_min
}

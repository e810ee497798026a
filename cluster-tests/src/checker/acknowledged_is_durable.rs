//! I1: what was acknowledged is in the log of every node, where it was told to stand, or is older
//! than the history that was promised. A message acknowledged as `memory` may also be lost together with
//! its whole epoch.

use pushonce_core::Position;

use super::history_index::NodeLog;
use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, promises: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        for (publish, position, acknowledged) in topic.acknowledged() {
            for log in &topic.logs {
                checked += 1;
                let problem = match log.entries.get(&position) {
                    Some(payload) if *payload == publish.payload => continue,
                    Some(_) => "another payload stands there",
                    None if expired(topic, log, position, promises) => continue,
                    None => "it is not there",
                };
                let NodeLog { node, transport, .. } = log;
                let message = format!(
                    "{name}: {position} was acknowledged, and in the log of node {node} over \
                     {transport} {problem}"
                );
                return Err(InvariantViolation::new(
                    message,
                    [log.record, publish.invoked, acknowledged],
                ));
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "nothing was acknowledged, or no log was read"))
}

/// Whether a log that lacks a position has forgotten it, as it may: it is full of what came after, or
/// begins in a later epoch and the position was in memory.
pub(super) fn expired(
    topic: &TopicHistory<'_>,
    log: &NodeLog<'_>,
    position: Position,
    promises: &Guarantees,
) -> bool {
    let first = log.entries.keys().next();
    if topic.newest_in_memory >= Some(position)
        && first.is_none_or(|first| position.epoch < first.epoch)
    {
        return true;
    }
    let before = first.is_some_and(|first| position.epoch == first.epoch && position < *first);
    before && log.entries.len() >= promises.history_min
}

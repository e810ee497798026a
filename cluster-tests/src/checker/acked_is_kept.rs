//! I1: what was acknowledged is in the log of every node, where it was told to stand, or is older
//! than the history that was promised. A message acknowledged as `memory` may also be lost together with
//! its whole epoch.

use pushonce_core::Position;

use super::run::Log;
use super::{Evidence, Judgement, Promises, Run, Topic, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        for (publish, position, acknowledged) in topic.placed() {
            for log in &topic.logs {
                looked += 1;
                let lost = match log.entries.get(&position) {
                    Some(payload) if *payload == publish.payload => continue,
                    Some(_) => "another payload stands there",
                    None if expired(topic, log, position, promises) => continue,
                    None => "it is not there",
                };
                let Log { node, transport, .. } = log;
                let what = format!(
                    "{name}: {position} was acknowledged, and in the log of node {node} over \
                     {transport} {lost}"
                );
                return Err(Violation::new(what, [log.record, publish.invoked, acknowledged]));
            }
        }
    }
    Ok(Evidence::of(looked, "nothing was acknowledged, or no log was read"))
}

/// Whether a log that lacks a position has forgotten it, as it may: it is full of what came after, or
/// begins in a later epoch and the position was in memory.
pub(super) fn expired(
    topic: &Topic<'_>,
    log: &Log<'_>,
    position: Position,
    promises: &Promises,
) -> bool {
    let first = log.entries.keys().next();
    if topic.in_memory >= Some(position) && first.is_none_or(|first| position.epoch < first.epoch) {
        return true;
    }
    let before = first.is_some_and(|first| position.epoch == first.epoch && position < *first);
    before && log.entries.len() >= promises.history
}

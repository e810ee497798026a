//! I7: across all sessions of a subscriber, no position is delivered twice; no key and no payload is twice in
//! a log.

use std::collections::HashMap;

use crate::history::HistoryEvent;

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        let mut delivered = HashMap::new();
        for (process, record, position, _) in history.deliveries(topic) {
            checked += 1;
            if let Some(before) = delivered.insert((process, position), record) {
                let message = format!("{name}: {process} received {position} twice");
                return Err(InvariantViolation::new(message, [before, record]));
            }
        }
        checked += check_logs(history, name, topic)?;
    }
    Ok(CheckEvidence::from_count(checked, "no message was delivered"))
}

/// Every logical publish of a run has a unique payload, so a payload that is twice in a log was published
/// twice, with or without a key.
fn check_logs(
    history: &HistoryIndex<'_>,
    name: &str,
    topic: &TopicHistory<'_>,
) -> Result<usize, InvariantViolation> {
    let mut checked = 0;
    for log in &topic.logs {
        let HistoryEvent::Log { log: entries, .. } = history.event(log.record) else { continue };
        let (mut payloads, mut keys) = (HashMap::new(), HashMap::new());
        for entry in entries {
            checked += 1;
            let payload = payloads.insert(entry.payload, entry.position);
            let key = entry.key.as_ref().and_then(|key| keys.insert(key, entry.position));
            if let Some(before) = key.or(payload) {
                let key = entry.key.as_deref().unwrap_or("without a key");
                let message =
                    format!("{name}: one publish ({key}) is at {before} and at {}", entry.position);
                let attempts = topic.publishes.iter().filter(|p| p.payload == entry.payload);
                let records = attempts.map(|publish| publish.invoked).chain([log.record]);
                return Err(InvariantViolation::new(message, records));
            }
        }
    }
    Ok(checked)
}

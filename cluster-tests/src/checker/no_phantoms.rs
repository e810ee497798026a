//! I2: every message in a log or at a subscriber was published, and was not rejected.

use std::collections::{HashMap, hash_map::Entry};

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, RecordedOutcome,
};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        // By payload: the first invocation, and the rejection if every attempt was rejected.
        let mut published = HashMap::new();
        for publish in &topic.publishes {
            let rejected = match publish.outcome {
                RecordedOutcome::Rejected(record) => Some(record),
                _ => None,
            };
            match published.entry(publish.payload) {
                Entry::Vacant(entry) => drop(entry.insert((publish.invoked, rejected))),
                Entry::Occupied(mut entry) => {
                    let (_, all_rejected) = entry.get_mut();
                    *all_rejected = all_rejected.and(rejected);
                }
            }
        }
        let logs = topic.logs.iter().flat_map(|log| {
            log.entries.iter().map(|(position, payload)| (log.record, *position, *payload))
        });
        let delivered = history
            .deliveries(topic)
            .map(|(_, record, position, payload)| (record, position, payload));
        for (record, position, payload) in delivered.chain(logs) {
            checked += 1;
            match published.get(&payload) {
                None => {
                    let message =
                        format!("{name}: {position} was delivered or logged, and never published");
                    return Err(InvariantViolation::new(message, [record]));
                }
                Some((_, Some(rejected))) => {
                    let message = format!(
                        "{name}: {position} was delivered or logged, and its publish was rejected"
                    );
                    return Err(InvariantViolation::new(message, [*rejected, record]));
                }
                // Log records are read at the end and tell nothing about the time.
                Some((invoked, None)) if *invoked > record => {
                    let message =
                        format!("{name}: {position} was delivered before it was published");
                    return Err(InvariantViolation::new(message, [*invoked, record]));
                }
                Some(_) => {}
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no message was delivered or logged"))
}

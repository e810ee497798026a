//! I4: every delivered message is in the log of every node, or is older than the guaranteed history.

use super::acknowledged_is_durable::expired;
use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        for (_, record, position, payload) in history.deliveries(topic) {
            for log in &topic.logs {
                checked += 1;
                let is_kept = match log.entries.get(&position) {
                    Some(there) => *there == payload,
                    None => expired(topic, log, position, guarantees),
                };
                if !is_kept {
                    let message = format!(
                        "{name}: {position} was delivered and is not in the log of node {} over {}",
                        log.node, log.transport
                    );
                    return Err(InvariantViolation::new(message, [log.record, record]));
                }
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no message was delivered, or no log was read"))
}

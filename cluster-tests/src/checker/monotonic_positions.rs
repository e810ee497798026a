//! I6: across all sessions of a subscriber, positions never go back.

use pushonce_core::Position;

use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        let mut last_delivery: Option<(&str, usize, Position)> = None;
        for (process, record, position, _) in history.deliveries(topic) {
            checked += 1;
            if let Some((last_process, before, last_position)) = last_delivery
                && last_process == process
                && position < last_position
            {
                let message =
                    format!("{name}: {process} received {position} after {last_position}");
                return Err(InvariantViolation::new(message, [before, record]));
            }
            last_delivery = Some((process, record, position));
        }
    }
    Ok(CheckEvidence::from_count(checked, "no message was delivered"))
}

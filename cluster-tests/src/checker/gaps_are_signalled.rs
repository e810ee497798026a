//! I5: across all sessions of a subscriber, each message follows the previous one directly, or follows a gap
//! that names exactly the missing messages.

use pushonce_core::Position;

use crate::history::HistoryEvent;

use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        for (process, indices) in &topic.subscriptions {
            // The newest position that was delivered or signalled as missing, and its record.
            let mut reached: Option<(Position, usize)> = None;
            for &index in indices {
                let (from, to) = match history.event(index) {
                    HistoryEvent::Delivered { position, .. } => (*position, *position),
                    HistoryEvent::Gap { from, to, .. } => (*from, *to),
                    HistoryEvent::UnsignalledGap { reason, .. } => {
                        let message = format!("{name}: {process} left its node: {reason}");
                        return Err(InvariantViolation::new(message, [index]));
                    }
                    _ => continue,
                };
                checked += 1;
                if let Some((last, record)) = reached {
                    // Backward steps and duplicates are checked by I6 and I7.
                    if from > last && !from.follows(last) {
                        let message = format!("{name}: {process} received {from} after {last}");
                        return Err(InvariantViolation::new(message, [record, index]));
                    }
                }
                // A gap that leads to a later epoch ends before the first message of that epoch, or right
                // before the oldest message left. It covers everything in between.
                let next = reached.map_or(to, |(last, _)| last.max(to));
                reached = Some((next, index));
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no message was delivered"))
}

//! I5: at a subscriber, over all its sessions, a message follows its neighbour, or a gap that names
//! exactly what is missing between them.

use pushonce_core::Position;

use crate::history::HistoryEvent;

use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        for (process, indices) in &topic.subscriptions {
            // What was shown or told as missing, and by which record.
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
                    // Backwards and twice are for others to judge.
                    if from > last && !from.follows(last) {
                        let message = format!("{name}: {process} got {from} after {last}");
                        return Err(InvariantViolation::new(message, [record, index]));
                    }
                }
                // A gap that leads to a later epoch ends before its first message, or right before
                // the oldest one left: it stands for everything between.
                let next = reached.map_or(to, |(last, _)| last.max(to));
                reached = Some((next, index));
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "nothing was shown"))
}

//! I13: the first message of a subscription is the requested one: the oldest in the history, the next one, or
//! the first of the newest `n`; and no message is missing between the history and live delivery.

use pushonce_core::Position;

use crate::history::{HistoryEvent, SubscribeStart};

use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        for (process, indices) in &topic.subscriptions {
            let mut begin: Option<(SubscribeStart, usize)> = None;
            let mut head: Option<(Position, usize)> = None;
            for &index in indices {
                let from = match history.event(index) {
                    HistoryEvent::Subscribe { from, .. } => {
                        (begin, head) = (Some((*from, index)), None);
                        continue;
                    }
                    HistoryEvent::Subscribed { position, .. } => {
                        head = Some((*position, index));
                        continue;
                    }
                    // The session ended before its first message: nothing to check.
                    HistoryEvent::SessionEnded { .. } => {
                        begin = None;
                        continue;
                    }
                    HistoryEvent::Delivered { position, .. } => *position,
                    HistoryEvent::Gap { from, .. } => *from,
                    _ => continue,
                };
                let Some((requested, request)) = begin.take() else { continue };
                // On QUIC a message may arrive before the `Subscribed` reply.
                let Some((head, subscribed)) = head else { continue };
                checked += 1;
                if !is_expected_start(requested, head, from, guarantees) {
                    let message = format!(
                        "{name}: {process} requested {requested:?} when the topic was at {head}, and \
                         received {from} first"
                    );
                    return Err(InvariantViolation::new(message, [request, subscribed, index]));
                }
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no subscription received a message"))
}

fn is_expected_start(
    requested: SubscribeStart,
    head: Position,
    first: Position,
    guarantees: &Guarantees,
) -> bool {
    if let SubscribeStart::After(_) = requested {
        // Checked by I12.
        return true;
    }
    if first.epoch != head.epoch {
        // The topic was empty or began a new epoch meanwhile: the subscription starts with its first message.
        return first.offset.0 == 1;
    }
    // A topic that keeps more than the guaranteed history may start earlier.
    let (first_offset, head_offset) = (first.offset.0, head.offset.0);
    let forgotten = head_offset.saturating_sub(guarantees.history_min as u64);
    match requested {
        SubscribeStart::Now => first_offset == head_offset + 1,
        SubscribeStart::Start if forgotten == 0 => first_offset == 1,
        // The history may move on while the request is processed.
        SubscribeStart::Start => first_offset > forgotten && first_offset <= head_offset + 1,
        SubscribeStart::Last(n) => {
            first_offset == head_offset.saturating_sub(u64::from(n)).max(forgotten) + 1
        }
        SubscribeStart::After(_) => true,
    }
}

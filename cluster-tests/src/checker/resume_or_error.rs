//! I12: a subscription after a position starts with the next message, or with a gap that begins there; a
//! subscription after a position that never existed gets an error and no message.

use std::collections::BTreeMap;

use pushonce_core::Position;

use crate::history::{HistoryEvent, SubscribeStart};

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        let newest = newest_seen(history, topic);
        for (process, indices) in &topic.subscriptions {
            let mut requested: Option<(Position, usize)> = None;
            for &index in indices {
                let from = match history.event(index) {
                    HistoryEvent::Subscribe { from: SubscribeStart::After(position), .. } => {
                        requested = Some((*position, index));
                        continue;
                    }
                    HistoryEvent::Subscribe { .. } => {
                        requested = None;
                        continue;
                    }
                    HistoryEvent::Delivered { position, .. } => *position,
                    HistoryEvent::Gap { from, .. } => *from,
                    HistoryEvent::Subscribed { position, .. } => {
                        if let Some((unknown_position, request)) = requested
                            && unknown_position != Position::ZERO
                            && Some(unknown_position) > newest
                        {
                            let message = format!(
                                "{name}: {process} subscribed after {unknown_position}, which never \
                                 existed, and was accepted at {position} instead of an error"
                            );
                            return Err(InvariantViolation::new(message, [request, index]));
                        }
                        continue;
                    }
                    HistoryEvent::SubscribeRejected { code, .. } => {
                        if let Some((position, request)) = requested.take() {
                            checked += 1;
                            let newest_seen = newest_seen_before(history, topic, request);
                            if Some(position) <= newest_seen && &**code == "future_position" {
                                let message = format!(
                                    "{name}: the existing position {position} was rejected for {process}"
                                );
                                return Err(InvariantViolation::new(message, [request, index]));
                            }
                        }
                        continue;
                    }
                    _ => continue,
                };
                let Some((position, request)) = requested.take() else { continue };
                checked += 1;
                if !from.follows(position) {
                    let message =
                        format!("{name}: {process} subscribed after {position}, received {from}");
                    return Err(InvariantViolation::new(message, [request, index]));
                }
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no subscription resumed"))
}

/// The newest position seen in the whole run: of a message, or reported as the head.
fn newest_seen(history: &HistoryIndex<'_>, topic: &TopicHistory<'_>) -> Option<Position> {
    let acknowledged = topic.acknowledged().map(|(_, position, _)| position);
    let delivered = history.deliveries(topic).map(|(_, _, position, _)| position);
    let events = topic.subscriptions.values().flatten().map(|&index| history.event(index));
    let heads = events.filter_map(|event| match event {
        HistoryEvent::Gap { to, .. } => Some(*to),
        HistoryEvent::Heartbeat { position, .. } => Some(*position),
        _ => None,
    });
    let log: BTreeMap<_, _> = topic.merged_log();
    acknowledged.chain(delivered).chain(heads).chain(log.into_keys()).max()
}

/// The newest position seen before this record. A later epoch may since have passed a position above it.
fn newest_seen_before(
    history: &HistoryIndex<'_>,
    topic: &TopicHistory<'_>,
    record: usize,
) -> Option<Position> {
    let acknowledged =
        topic.acknowledged().filter(|(_, _, at)| *at < record).map(|(_, position, _)| position);
    let delivered = history.deliveries(topic).filter(|(_, at, _, _)| *at < record);
    acknowledged.chain(delivered.map(|(_, _, position, _)| position)).max()
}

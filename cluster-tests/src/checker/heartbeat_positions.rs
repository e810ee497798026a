//! I14: a heartbeat names only positions that were delivered before; while a node is disconnected from the
//! owner, its subscribers receive a stale notice, or their session ends, in time.

use pushonce_core::{Offset, Position};

use crate::history::HistoryEvent;

use super::{
    CheckEvidence, CheckResult, FaultPeriod, Guarantees, HistoryIndex, InvariantViolation,
};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        for (process, indices) in &topic.subscriptions {
            let mut reached: Option<Position> = None;
            for &index in indices {
                match history.event(index) {
                    HistoryEvent::Delivered { position, .. }
                    | HistoryEvent::Gap { to: position, .. } => {
                        reached = reached.max(Some(*position));
                    }
                    HistoryEvent::Subscribed { position, .. } if reached.is_none() => {
                        // A subscription that starts now is not entitled to earlier messages, and an epoch
                        // without messages has none.
                        let is_level = starts_from_now(history, indices, index)
                            || position.offset == Offset(0);
                        reached = is_level.then_some(*position);
                    }
                    HistoryEvent::Heartbeat { position, .. } => {
                        checked += 1;
                        if *position != Position::ZERO && Some(*position) > reached {
                            let message = format!(
                                "{name}: a heartbeat named {position} to {process}, which had \
                                 reached {reached:?}"
                            );
                            return Err(InvariantViolation::new(message, [index]));
                        }
                    }
                    _ => {}
                }
            }
            for fault in &history.faults {
                checked +=
                    check_stale_notice(history, guarantees, (name, process), indices, fault)?;
            }
        }
    }
    Ok(CheckEvidence::from_count(
        checked,
        "no heartbeat was received, and no node was disconnected for long enough",
    ))
}

fn starts_from_now(history: &HistoryIndex<'_>, indices: &[usize], subscribed: usize) -> bool {
    let requests = indices.iter().take_while(|&&index| index < subscribed);
    let last = requests.filter_map(|&index| match history.event(index) {
        HistoryEvent::Subscribe { from, .. } => Some(*from),
        _ => None,
    });
    last.last() == Some(crate::history::SubscribeStart::Now)
}

/// Checks that a subscription at a disconnected node received a stale notice, or ended.
fn check_stale_notice(
    history: &HistoryIndex<'_>,
    guarantees: &Guarantees,
    (name, process): (&str, &str),
    indices: &[usize],
    fault: &FaultPeriod<'_>,
) -> Result<usize, InvariantViolation> {
    let limit = history.time_us(fault.confirmed) + guarantees.unready_within.as_micros() as u64;
    let ends_us = fault.end.map_or(u64::MAX, |ends| history.time_us(ends));
    if fault.effect.unready.is_empty() || ends_us < limit {
        return Ok(0);
    }
    let (mut requested_node, mut subscribed_node, mut is_stale) = (None, None, false);
    for &index in indices.iter().take_while(|&&index| history.time_us(index) <= limit) {
        match history.event(index) {
            HistoryEvent::Subscribe { node, .. } => requested_node = *node,
            // A subscription that becomes live during the fault has a time limit of its own.
            HistoryEvent::Subscribed { .. } if index < fault.confirmed => {
                (subscribed_node, is_stale) = (requested_node, false)
            }
            // Links that are restored one by one may make it live again during the fault.
            HistoryEvent::Stale { stale, .. } if index < fault.confirmed => is_stale = *stale,
            HistoryEvent::Stale { stale, .. } => is_stale |= stale,
            HistoryEvent::SessionEnded { .. } | HistoryEvent::Unsubscribed { .. } => {
                subscribed_node = None
            }
            _ => {}
        }
    }
    let is_connected = |node: &usize| was_connected_to(history, indices, fault, *node);
    match subscribed_node.filter(|node| fault.effect.unready.contains(node)).filter(is_connected) {
        Some(node) if !is_stale => {
            let message = format!("{name}: {process} at node {node} received no stale notice");
            Err(InvariantViolation::new(message, [fault.confirmed]))
        }
        found => Ok(usize::from(found.is_some())),
    }
}

/// Whether the subscriber received anything from the node after the previous fault, if that fault affected
/// the node too: a connection to a process that was killed then may not have ended yet, and no process
/// remains to send a notice. Unconfirmed faults count too.
fn was_connected_to(
    history: &HistoryIndex<'_>,
    indices: &[usize],
    fault: &FaultPeriod<'_>,
    node: usize,
) -> bool {
    let (mut hit, mut since) = (false, None);
    for (index, record) in history.records[..fault.begin].iter().enumerate() {
        match &record.event {
            HistoryEvent::FaultInjected { effect, .. } => hit = effect.nodes.contains(&node),
            HistoryEvent::FaultHealed { .. } if hit => since = Some(index),
            _ => {}
        }
    }
    let Some(since) = since else { return true };
    let is_from_node = |event: &HistoryEvent| {
        matches!(
            event,
            HistoryEvent::Subscribed { .. }
                | HistoryEvent::Delivered { .. }
                | HistoryEvent::Gap { .. }
                | HistoryEvent::Heartbeat { .. }
                | HistoryEvent::Stale { .. }
        )
    };
    indices.iter().any(|&i| (since..fault.confirmed).contains(&i) && is_from_node(history.event(i)))
}

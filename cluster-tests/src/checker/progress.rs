//! I15: after the start of each fault that leaves a majority, and after the end of each other fault,
//! publishes to every topic are accepted again in time; and every subscriber catches up in time after the
//! last fault.

use pushonce_core::Position;

use crate::history::{HistoryEvent, RunPhase};

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, TopicHistory,
};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = 0;
    let load_ends = phase_start(history, RunPhase::Drain).unwrap_or(history.records.len());
    for (name, topic) in &history.topics {
        for fault in &history.faults {
            let from = if fault.effect.has_majority { Some(fault.confirmed) } else { fault.end };
            let Some(from) = from.filter(|&from| from < load_ends) else { continue };
            checked += check_accepted_again(history, guarantees, name, topic, from, load_ends)?;
        }
        checked += check_caught_up(history, guarantees, name, topic)?;
    }
    Ok(CheckEvidence::from_count(checked, "no fault took place, and no subscriber had to catch up"))
}

/// Checks that a publish that began after `from` was acknowledged in time, if there was one.
fn check_accepted_again(
    history: &HistoryIndex<'_>,
    guarantees: &Guarantees,
    name: &str,
    topic: &TopicHistory<'_>,
    from: usize,
    load_ends: usize,
) -> Result<usize, InvariantViolation> {
    let limit = history.time_us(from) + guarantees.accepted_within.as_micros() as u64;
    let attempt = topic.publishes.iter().find(|publish| publish.invoked > from);
    let Some(attempt) = attempt.filter(|attempt| attempt.invoked < load_ends) else { return Ok(0) };
    let mut answers = topic.acknowledged().filter(|(publish, ..)| publish.invoked > from);
    if answers.any(|(.., record)| history.time_us(record) <= limit) {
        return Ok(1);
    }
    let message = format!(
        "{name}: no publish was acknowledged within {:?} of this",
        guarantees.accepted_within
    );
    Err(InvariantViolation::new(message, [attempt.invoked, from]))
}

fn check_caught_up(
    history: &HistoryIndex<'_>,
    guarantees: &Guarantees,
    name: &str,
    topic: &TopicHistory<'_>,
) -> Result<usize, InvariantViolation> {
    let (Some(head), Some(drain)) = (topic.head(), phase_start(history, RunPhase::Drain)) else {
        return Ok(0);
    };
    let healed_us =
        history.faults.last().and_then(|fault| fault.end).map_or(0, |ends| history.time_us(ends));
    let limit_us =
        history.time_us(drain).max(healed_us) + guarantees.caught_up_within.as_micros() as u64;
    let mut checked = 0;
    for (process, indices) in &topic.subscriptions {
        let position_of = |index: usize| match history.event(index) {
            HistoryEvent::Delivered { position, .. } | HistoryEvent::Gap { to: position, .. } => {
                Some(*position)
            }
            _ => None,
        };
        let records_in_time = indices.iter().filter(|&&index| history.time_us(index) <= limit_us);
        let reached: Option<Position> =
            records_in_time.filter_map(|&index| position_of(index)).max();
        // A subscription that was rejected or ended does not have to catch up.
        let has_left = indices.last().is_some_and(|&index| {
            matches!(
                history.event(index),
                HistoryEvent::SubscribeRejected { .. } | HistoryEvent::Unsubscribed { .. }
            )
        });
        if has_left {
            continue;
        }
        checked += 1;
        if reached < Some(head) {
            let last = indices.last().copied().unwrap_or(drain);
            let reached_text = reached.map_or_else(|| "nothing".to_owned(), |at| at.to_string());
            let message = format!(
                "{name}: {process} had reached {reached_text} within {:?} of the end of load and faults; the \
                 newest position of the topic is {head}",
                guarantees.caught_up_within
            );
            return Err(InvariantViolation::new(message, [drain, last]));
        }
    }
    Ok(checked)
}

fn phase_start(history: &HistoryIndex<'_>, phase: RunPhase) -> Option<usize> {
    history.records.iter().position(|record| record.event == HistoryEvent::Phase { phase })
}

//! I22: a session that sends more than it may have under way gets an answer to every request, a place
//! or an error, or its session is closed; it never waits in silence. Under a flood most of the usual
//! load is still placed, and after it all of it is again.

use super::{
    CheckEvidence, CheckResult, FaultPeriod, Guarantees, HistoryIndex, InvariantViolation,
};
use crate::history::{HistoryEvent, HistoryRecord, RunPhase};

/// Of the usual rate of accepted publishes, in percent.
const GOODPUT_MIN_PERCENT: u64 = 80;

pub(super) fn check(history: &HistoryIndex<'_>, promises: &Guarantees) -> CheckResult {
    let mut checked = check_bursts(history)?;
    for flood in history.faults.iter().filter(|fault| fault.effect.flood) {
        checked += check_flood(history, promises, flood)?;
    }
    Ok(CheckEvidence::from_count(
        checked,
        "there was no flood, and no session sent more than it may",
    ))
}

/// Every request of every burst was answered, unless the node ended or was kept from answering.
fn check_bursts(history: &HistoryIndex<'_>) -> Result<usize, InvariantViolation> {
    let mut checked = 0;
    for (index, record) in history.records.iter().enumerate() {
        let HistoryEvent::Burst { node, sent, answered, closed, ms } = record.event else {
            continue;
        };
        if answered == sent {
            checked += 1;
        } else if !closed
            && !overlaps_fault(history, record.time_us.saturating_sub(ms * 1_000), record.time_us)
        {
            let message =
                format!("node {node} answered {answered} of {sent} publishes of a session");
            return Err(InvariantViolation::new(message, [index]));
        }
    }
    Ok(checked)
}

/// Whether a burst met a fault: a node that sleeps or is cut off answers nobody.
fn overlaps_fault(history: &HistoryIndex<'_>, from_us: u64, to_us: u64) -> bool {
    history.faults.iter().filter(|fault| !fault.effect.flood).any(|fault| {
        history.time_us(fault.begin) <= to_us
            && fault.end.is_none_or(|ends| history.time_us(ends) >= from_us)
    })
}

fn check_flood(
    history: &HistoryIndex<'_>,
    promises: &Guarantees,
    flood: &FaultPeriod<'_>,
) -> Result<usize, InvariantViolation> {
    let (Some(ends), Some(usual_rate)) = (flood.end, rate_before_faults(history)) else {
        return Ok(0);
    };
    let flood_rate =
        acknowledged_per_second(history, history.time_us(flood.confirmed), history.time_us(ends));
    if flood_rate * 100 < usual_rate * GOODPUT_MIN_PERCENT {
        let message = format!(
            "{flood_rate} publishes a second were accepted, and {usual_rate} before the flood"
        );
        return Err(InvariantViolation::new(message, [flood.confirmed, ends]));
    }
    let limit_us = history.time_us(ends) + promises.accepted_within.as_micros() as u64;
    // The load ends at some time, and what is not asked for is not placed.
    let is_publish = |record: &&HistoryRecord| matches!(record.event, HistoryEvent::Publish { .. });
    let last = history.records.iter().rfind(is_publish).map_or(0, |record| record.time_us);
    let rate_after = acknowledged_per_second(history, history.time_us(ends), limit_us.min(last));
    if rate_after * 100 < usual_rate * GOODPUT_MIN_PERCENT {
        let message = format!(
            "{rate_after} publishes a second are accepted after the flood, not {usual_rate}"
        );
        return Err(InvariantViolation::new(message, [ends]));
    }
    Ok(2)
}

/// Publishes accepted a second before the faults.
fn rate_before_faults(history: &HistoryIndex<'_>) -> Option<u64> {
    let phase_start = |phase| {
        let phase = HistoryEvent::Phase { phase };
        history.records.iter().find(|record| record.event == phase).map(|record| record.time_us)
    };
    Some(acknowledged_per_second(
        history,
        phase_start(RunPhase::WarmUp)?,
        phase_start(RunPhase::Faults)?,
    ))
}

/// Publishes accepted a second between two moments.
fn acknowledged_per_second(history: &HistoryIndex<'_>, from: u64, to: u64) -> u64 {
    let acknowledged = history.records.iter().filter(|record| {
        (from..to).contains(&record.time_us)
            && matches!(record.event, HistoryEvent::Acknowledged { .. })
    });
    acknowledged.count() as u64 * 1_000_000 / to.saturating_sub(from).max(1)
}

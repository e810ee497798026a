//! I22: a session that exceeds its limit of requests in flight receives an acknowledgement or an error for
//! every request, or is closed; it never waits without a reply. Under a flood, at least 80 % of the usual
//! load is still acknowledged; after it, the usual load is acknowledged again.

use super::{
    CheckEvidence, CheckResult, FaultPeriod, Guarantees, HistoryIndex, InvariantViolation,
};
use crate::history::{HistoryEvent, HistoryRecord, RunPhase};

/// The minimum rate of acknowledged publishes, in percent of the usual rate.
const GOODPUT_MIN_PERCENT: u64 = 80;

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let mut checked = check_bursts(history)?;
    for flood in history.faults.iter().filter(|fault| fault.effect.flood) {
        checked += check_flood(history, guarantees, flood)?;
    }
    Ok(CheckEvidence::from_count(checked, "there was no flood, and no session exceeded its limit"))
}

/// Checks that every request of every burst was answered, unless the node ended or a fault prevented it.
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

/// Whether a burst overlaps a fault: a node that is paused or partitioned does not answer.
fn overlaps_fault(history: &HistoryIndex<'_>, from_us: u64, to_us: u64) -> bool {
    history.faults.iter().filter(|fault| !fault.effect.flood).any(|fault| {
        history.time_us(fault.begin) <= to_us
            && fault.end.is_none_or(|ends| history.time_us(ends) >= from_us)
    })
}

fn check_flood(
    history: &HistoryIndex<'_>,
    guarantees: &Guarantees,
    flood: &FaultPeriod<'_>,
) -> Result<usize, InvariantViolation> {
    let (Some(ends), Some(usual_rate)) = (flood.end, rate_before_faults(history)) else {
        return Ok(0);
    };
    let flood_rate =
        acknowledged_per_second(history, history.time_us(flood.confirmed), history.time_us(ends));
    if flood_rate * 100 < usual_rate * GOODPUT_MIN_PERCENT {
        let message = format!(
            "{flood_rate} publishes per second were acknowledged during the flood, {usual_rate} before it"
        );
        return Err(InvariantViolation::new(message, [flood.confirmed, ends]));
    }
    let limit_us = history.time_us(ends) + guarantees.accepted_within.as_micros() as u64;
    // The load ends at some time; the rate is not counted after its last publish.
    let is_publish = |record: &&HistoryRecord| matches!(record.event, HistoryEvent::Publish { .. });
    let last = history.records.iter().rfind(is_publish).map_or(0, |record| record.time_us);
    let rate_after = acknowledged_per_second(history, history.time_us(ends), limit_us.min(last));
    if rate_after * 100 < usual_rate * GOODPUT_MIN_PERCENT {
        let message = format!(
            "{rate_after} publishes per second were acknowledged after the flood, {usual_rate} before it"
        );
        return Err(InvariantViolation::new(message, [ends]));
    }
    Ok(2)
}

/// Publishes acknowledged per second before the faults.
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

/// Publishes acknowledged per second between two times, in microseconds.
fn acknowledged_per_second(history: &HistoryIndex<'_>, from: u64, to: u64) -> u64 {
    let acknowledged = history.records.iter().filter(|record| {
        (from..to).contains(&record.time_us)
            && matches!(record.event, HistoryEvent::Acknowledged { .. })
    });
    acknowledged.count() as u64 * 1_000_000 / to.saturating_sub(from).max(1)
}

//! I19: a node that runs and cannot commit, apply or deliver reports in time that it is not ready, with the
//! reason; a node that reports ready for that long acknowledges publishes; and at the end every node that
//! answers is ready.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{HistoryEvent, RunPhase};

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, RecordedOutcome,
};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let checked = check_unready_reported(history, guarantees)?
        + check_ready_nodes_acknowledge(history, guarantees)?;
    // A run that was aborted has no end to be ready at.
    let reading_phase = HistoryEvent::Phase { phase: RunPhase::ReadLogs };
    if !history.records.iter().any(|record| record.event == reading_phase) {
        return Ok(CheckEvidence::from_count(checked, "the run was aborted"));
    }
    check_ready_at_the_end(history)?;
    Ok(CheckEvidence::from_count(
        checked,
        "no node was kept from working, and none was ready for long enough",
    ))
}

fn check_unready_reported(
    history: &HistoryIndex<'_>,
    guarantees: &Guarantees,
) -> Result<usize, InvariantViolation> {
    let mut checked = 0;
    for fault in &history.faults {
        let limit = history.time_us(fault.confirmed) + unready_limit_us(guarantees);
        let ends_us = fault.end.map_or(u64::MAX, |ends| history.time_us(ends));
        // Healed before the report was due.
        if ends_us < limit {
            continue;
        }
        for &node in &fault.effect.unready {
            checked += 1;
            let is_reported = history.records[fault.begin..].iter().any(|record| {
                let is_unready = matches!(&record.event,
                    HistoryEvent::Health { node: n, ready: false, reason } if *n == node && !reason.is_empty());
                is_unready && record.time_us <= limit
            });
            if !is_reported {
                let message = format!(
                    "node {node} did not report within {:?} that it is not ready",
                    guarantees.unready_within
                );
                return Err(InvariantViolation::new(message, [fault.confirmed]));
            }
        }
    }
    Ok(checked)
}

/// Minimum number of publishes invoked through a node in the first half of a window. If none of them is
/// acknowledged by the end of the window, the node does not serve.
const PUBLISHES_MIN: usize = 5;

/// Checks the periods in which a node reports ready, in windows of T1. A node that starts to answer may complete a
/// majority for a moment, which renews what the others know: a window contains no such start.
fn check_ready_nodes_acknowledge(
    history: &HistoryIndex<'_>,
    guarantees: &Guarantees,
) -> Result<usize, InvariantViolation> {
    let (mut invoked, mut acknowledged) = (BTreeMap::new(), BTreeMap::new());
    for publish in history.topics.values().flat_map(|topic| &topic.publishes) {
        let Some(node) = publish.node else { continue };
        let times: &mut Vec<u64> = invoked.entry(node).or_default();
        times.push(history.time_us(publish.invoked));
        if let RecordedOutcome::Acknowledged(_, record) = publish.outcome {
            let times: &mut Vec<u64> = acknowledged.entry(node).or_default();
            times.push(history.time_us(record));
        }
    }
    let starts_us = starts_us(history);
    let mut checked = 0;
    for ReadyPeriod { node, from, to, record: ready_record } in ready_periods(history) {
        let count_within = |times: &BTreeMap<usize, Vec<u64>>, from, to| {
            times
                .get(&node)
                .map_or(0, |all| all.iter().filter(|at| (from..to).contains(*at)).count())
        };
        let window = unready_limit_us(guarantees);
        let mut start = from;
        while start + window <= to {
            if let Some(&again) = starts_us.range(start + 1..=start + window).next_back() {
                start = again;
                continue;
            }
            if count_within(&invoked, start, start + window / 2) >= PUBLISHES_MIN {
                checked += 1;
                if count_within(&acknowledged, start, start + window) == 0 {
                    let message = format!(
                        "node {node} reported ready for {:?} and acknowledged no publish",
                        guarantees.unready_within
                    );
                    return Err(InvariantViolation::new(message, [ready_record]));
                }
            }
            start += window;
        }
    }
    Ok(checked)
}

/// The times at which a node answers for the first time, or again.
fn starts_us(history: &HistoryIndex<'_>) -> BTreeSet<u64> {
    let (mut answering, mut starts) = (BTreeSet::new(), BTreeSet::new());
    for record in history.records {
        match record.event {
            HistoryEvent::Health { node, .. } if answering.insert(node) => {
                starts.insert(record.time_us);
            }
            HistoryEvent::Unreachable { node } => drop(answering.remove(&node)),
            _ => {}
        }
    }
    starts
}

/// A period in which a node reports ready without interruption.
struct ReadyPeriod {
    node: usize,
    from: u64,
    to: u64,
    /// The record of the first report.
    record: usize,
}

/// The periods from the first to the last report of readiness. What follows is no longer known: a node that does not
/// answer is noticed later.
fn ready_periods(history: &HistoryIndex<'_>) -> Vec<ReadyPeriod> {
    let mut open: BTreeMap<usize, ReadyPeriod> = BTreeMap::new();
    let mut periods = Vec::new();
    for (index, record) in history.records.iter().enumerate() {
        let (node, ready) = match record.event {
            HistoryEvent::Health { node, ready, .. } => (node, ready),
            HistoryEvent::Unreachable { node } => (node, false),
            _ => continue,
        };
        if ready {
            let (at, record) = (record.time_us, index);
            let begun = ReadyPeriod { node, from: at, to: at, record };
            open.entry(node).or_insert(begun).to = at;
        } else {
            periods.extend(open.remove(&node));
        }
    }
    periods.extend(open.into_values());
    periods
}

fn check_ready_at_the_end(history: &HistoryIndex<'_>) -> Result<(), InvariantViolation> {
    let mut last = BTreeMap::new();
    for (index, record) in history.records.iter().enumerate() {
        match record.event {
            HistoryEvent::Health { node, ready, .. } => drop(last.insert(node, (ready, index))),
            // A node that was replaced does not count, whatever it reported last.
            HistoryEvent::Unreachable { node } => drop(last.remove(&node)),
            _ => {}
        }
    }
    for (node, (ready, index)) in last {
        if !ready {
            return Err(InvariantViolation::new(
                format!("node {node} is not ready at the end"),
                [index],
            ));
        }
    }
    Ok(())
}

fn unready_limit_us(guarantees: &Guarantees) -> u64 {
    guarantees.unready_within.as_micros() as u64
}

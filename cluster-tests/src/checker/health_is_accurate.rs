//! I19: a node that runs and cannot commit, apply or deliver says in time that it is not ready, and
//! why; a node that says for that long that it is ready places publishes; and in the end every node that
//! answers is ready.

use std::collections::BTreeMap;

use crate::history::{HistoryEvent, RunPhase};

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, RecordedOutcome,
};

pub(super) fn check(history: &HistoryIndex<'_>, promises: &Guarantees) -> CheckResult {
    let checked = check_unready_reported(history, promises)?
        + check_ready_nodes_acknowledge(history, promises)?;
    // A run that broke off has no end to be ready in.
    let reading_phase = HistoryEvent::Phase { phase: RunPhase::ReadLogs };
    if !history.records.iter().any(|record| record.event == reading_phase) {
        return Ok(CheckEvidence::from_count(checked, "the run broke off"));
    }
    check_ready_at_the_end(history)?;
    Ok(CheckEvidence::from_count(
        checked,
        "no node was kept from its work, and none was ready for long enough",
    ))
}

fn check_unready_reported(
    history: &HistoryIndex<'_>,
    promises: &Guarantees,
) -> Result<usize, InvariantViolation> {
    let mut checked = 0;
    for fault in &history.faults {
        let limit = history.time_us(fault.confirmed) + unready_limit_us(promises);
        let ends_us = fault.end.map_or(u64::MAX, |ends| history.time_us(ends));
        // Healed before it had to be said.
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
                    "node {node} did not say within {:?} that it is not ready",
                    promises.unready_within
                );
                return Err(InvariantViolation::new(message, [fault.confirmed]));
            }
        }
    }
    Ok(checked)
}

/// Publishes that must have been begun through a node in the first half of a window, so that none of
/// them being placed by its end means that the node does not serve.
const PUBLISHES_MIN: usize = 5;

/// Cuts the times in which a node says that it is ready into windows of T1.
fn check_ready_nodes_acknowledge(
    history: &HistoryIndex<'_>,
    promises: &Guarantees,
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
    let mut checked = 0;
    for ReadyPeriod { node, from, to, record: said } in ready_periods(history) {
        let count_within = |times: &BTreeMap<usize, Vec<u64>>, from, to| {
            times
                .get(&node)
                .map_or(0, |all| all.iter().filter(|at| (from..to).contains(*at)).count())
        };
        let window = unready_limit_us(promises);
        let mut start = from;
        while start + window <= to {
            if count_within(&invoked, start, start + window / 2) >= PUBLISHES_MIN {
                checked += 1;
                if count_within(&acknowledged, start, start + window) == 0 {
                    let message = format!(
                        "node {node} said for {:?} that it is ready and placed no publish",
                        promises.unready_within
                    );
                    return Err(InvariantViolation::new(message, [said]));
                }
            }
            start += window;
        }
    }
    Ok(checked)
}

/// A time in which a node says without a break that it is ready.
struct ReadyPeriod {
    node: usize,
    from: u64,
    to: u64,
    /// The record of its beginning.
    record: usize,
}

fn ready_periods(history: &HistoryIndex<'_>) -> Vec<ReadyPeriod> {
    let mut open: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
    let mut periods = Vec::new();
    for (index, record) in history.records.iter().enumerate() {
        let (node, ready) = match record.event {
            HistoryEvent::Health { node, ready, .. } => (node, ready),
            HistoryEvent::Unreachable { node } => (node, false),
            _ => continue,
        };
        if ready {
            open.entry(node).or_insert((record.time_us, index));
        } else if let Some((from, ready_record)) = open.remove(&node) {
            periods.push(ReadyPeriod { node, from, to: record.time_us, record: ready_record });
        }
    }
    // Publishing ends before the run does, and then none is begun.
    let end = history.records.last().map_or(0, |record| record.time_us);
    let open = open.into_iter();
    periods.extend(open.map(|(node, (from, record))| ReadyPeriod { node, from, to: end, record }));
    periods
}

fn check_ready_at_the_end(history: &HistoryIndex<'_>) -> Result<(), InvariantViolation> {
    let mut last = BTreeMap::new();
    for (index, record) in history.records.iter().enumerate() {
        match record.event {
            HistoryEvent::Health { node, ready, .. } => drop(last.insert(node, (ready, index))),
            // One that was replaced has no say in the end, whatever it said last.
            HistoryEvent::Unreachable { node } => drop(last.remove(&node)),
            _ => {}
        }
    }
    for (node, (ready, index)) in last {
        if !ready {
            return Err(InvariantViolation::new(
                format!("node {node} is not ready in the end"),
                [index],
            ));
        }
    }
    Ok(())
}

fn unready_limit_us(promises: &Guarantees) -> u64 {
    promises.unready_within.as_micros() as u64
}

//! I22: a session that sends more than it may have under way gets an answer to every request, a place
//! or an error, or its session is closed; it never waits in silence. Under a flood most of the usual
//! load is still placed, and after it all of it is again.

use super::{Evidence, Installed, Judgement, Promises, Run, Violation};
use crate::history::{Event, Phase, Record};

/// Of the usual rate of accepted publishes, in percent.
const GOODPUT: u64 = 80;

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = bursts(run)?;
    for flood in run.faults.iter().filter(|fault| fault.effect.flood) {
        looked += under_flood(run, promises, flood)?;
    }
    Ok(Evidence::of(looked, "there was no flood, and no session sent more than it may"))
}

/// Every request of every burst was answered, unless the node ended or was kept from answering.
fn bursts(run: &Run<'_>) -> Result<usize, Violation> {
    let mut looked = 0;
    for (index, record) in run.records.iter().enumerate() {
        let Event::Burst { node, sent, answered, closed, ms } = record.event else { continue };
        if answered == sent {
            looked += 1;
        } else if !closed && !is_disturbed(run, record.at.saturating_sub(ms * 1_000), record.at) {
            let what = format!("node {node} answered {answered} of {sent} publishes of a session");
            return Err(Violation::new(what, [index]));
        }
    }
    Ok(looked)
}

/// Whether a burst met a fault: a node that sleeps or is cut off answers nobody.
fn is_disturbed(run: &Run<'_>, begun: u64, ended: u64) -> bool {
    run.faults.iter().filter(|fault| !fault.effect.flood).any(|fault| {
        run.at(fault.begins) <= ended && fault.ends.is_none_or(|ends| run.at(ends) >= begun)
    })
}

fn under_flood(
    run: &Run<'_>,
    promises: &Promises,
    flood: &Installed<'_>,
) -> Result<usize, Violation> {
    let (Some(ends), Some(usual)) = (flood.ends, usual(run)) else { return Ok(0) };
    let during = rate(run, run.at(flood.confirmed), run.at(ends));
    if during * 100 < usual * GOODPUT {
        let what =
            format!("{during} publishes a second were accepted, and {usual} before the flood");
        return Err(Violation::new(what, [flood.confirmed, ends]));
    }
    let settled = run.at(ends) + promises.accepted.as_micros() as u64;
    // The load ends at some time, and what is not asked for is not placed.
    let begun = |record: &&Record| matches!(record.event, Event::Publish { .. });
    let last = run.records.iter().rfind(begun).map_or(0, |record| record.at);
    let after = rate(run, run.at(ends), settled.min(last));
    if after * 100 < usual * GOODPUT {
        let what = format!("{after} publishes a second are accepted after the flood, not {usual}");
        return Err(Violation::new(what, [ends]));
    }
    Ok(2)
}

/// Publishes accepted a second before the faults.
fn usual(run: &Run<'_>) -> Option<u64> {
    let at = |which| {
        let phase = Event::Phase { phase: which };
        run.records.iter().find(|record| record.event == phase).map(|record| record.at)
    };
    Some(rate(run, at(Phase::WarmUp)?, at(Phase::Faults)?))
}

/// Publishes accepted a second between two moments.
fn rate(run: &Run<'_>, from: u64, to: u64) -> u64 {
    let placed = run.records.iter().filter(|record| {
        (from..to).contains(&record.at) && matches!(record.event, Event::Placed { .. })
    });
    placed.count() as u64 * 1_000_000 / to.saturating_sub(from).max(1)
}

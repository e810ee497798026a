//! I22: under a flood the answers are places or refusals and not silence, most of the usual load is
//! still placed, and after it all of it is again.

use super::{Evidence, Judgement, Promises, Run, Violation};
use crate::history::{Event, Phase, Record};

/// Of the usual rate of accepted publishes, in percent.
const GOODPUT: u64 = 80;

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let Some(flood) = run.faults.iter().find(|fault| fault.effect.flood) else {
        return Ok(Evidence::Lacking("there was no flood"));
    };
    let (Some(ends), Some(usual)) = (flood.ends, usual(run)) else {
        return Ok(Evidence::Lacking("the flood did not end, or there was no load before it"));
    };
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
    Ok(Evidence::Looked(2))
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

//! I15: after each fault that leaves a majority, and after the end of each other, publishes to every
//! topic are accepted again in time; and every subscriber is level in time after the last.

use pushonce_core::Position;

use crate::history::{Event, Phase};

use super::{Evidence, Judgement, Promises, Run, Topic, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    let load_ends = phase(run, Phase::Drain).unwrap_or(run.records.len());
    for (name, topic) in &run.topics {
        for fault in &run.faults {
            let from = if fault.effect.majority { Some(fault.confirmed) } else { fault.ends };
            let Some(from) = from.filter(|&from| from < load_ends) else { continue };
            looked += accepted(run, promises, name, topic, from, load_ends)?;
        }
        looked += level(run, promises, name, topic)?;
    }
    Ok(Evidence::of(looked, "no fault took place, and no subscriber was waited for"))
}

/// Whether somebody who tried after `from` was answered in time, if anybody tried for so long.
fn accepted(
    run: &Run<'_>,
    promises: &Promises,
    name: &str,
    topic: &Topic<'_>,
    from: usize,
    load_ends: usize,
) -> Result<usize, Violation> {
    let limit = run.at(from) + promises.accepted.as_micros() as u64;
    let tried = topic.publishes.iter().find(|publish| publish.invoked > from);
    let Some(tried) = tried.filter(|tried| tried.invoked < load_ends) else { return Ok(0) };
    let mut answers = topic.placed().filter(|(publish, ..)| publish.invoked > from);
    if answers.any(|(.., record)| run.at(record) <= limit) {
        return Ok(1);
    }
    let what = format!("{name}: no publish was accepted within {:?} of this", promises.accepted);
    Err(Violation::new(what, [tried.invoked, from]))
}

fn level(
    run: &Run<'_>,
    promises: &Promises,
    name: &str,
    topic: &Topic<'_>,
) -> Result<usize, Violation> {
    let (Some(head), Some(drain)) = (topic.head(), phase(run, Phase::Drain)) else { return Ok(0) };
    let healed = run.faults.last().and_then(|fault| fault.ends).map_or(0, |ends| run.at(ends));
    let limit = run.at(drain).max(healed) + promises.level.as_micros() as u64;
    let mut looked = 0;
    for (process, indices) in &topic.subscriptions {
        let shown = |index: usize| match run.event(index) {
            Event::Delivered { position, .. } | Event::Gap { to: position, .. } => Some(*position),
            _ => None,
        };
        let in_time = indices.iter().filter(|&&index| run.at(index) <= limit);
        let reached: Option<Position> = in_time.filter_map(|&index| shown(index)).max();
        // One that was refused, or left, has nothing to be level with.
        let gone = indices.last().is_some_and(|&index| {
            matches!(run.event(index), Event::SubscribeRefused { .. } | Event::Left { .. })
        });
        if gone {
            continue;
        }
        looked += 1;
        if reached < Some(head) {
            let last = indices.last().copied().unwrap_or(drain);
            let at = reached.map_or_else(|| "nothing".to_owned(), |at| at.to_string());
            let what = format!(
                "{name}: {process} had reached {at} within {:?} of the end of load and faults; the \
                 topic stands at {head}",
                promises.level
            );
            return Err(Violation::new(what, [drain, last]));
        }
    }
    Ok(looked)
}

fn phase(run: &Run<'_>, which: Phase) -> Option<usize> {
    run.records.iter().position(|record| record.event == Event::Phase { phase: which })
}

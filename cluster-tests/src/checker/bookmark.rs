//! I14: what a heartbeat names was shown before; and while a node is cut off from the owner, its
//! subscribers are told, or their session ends, in time.

use pushonce_core::Position;

use crate::history::Event;

use super::{Evidence, Installed, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        for (process, indices) in &topic.subscriptions {
            let mut reached: Option<Position> = None;
            for &index in indices {
                match run.event(index) {
                    Event::Delivered { position, .. } | Event::Gap { to: position, .. } => {
                        reached = reached.max(Some(*position));
                    }
                    Event::Subscribed { position, .. } if reached.is_none() => {
                        // Whoever asked for what comes next owes nothing before it.
                        reached = from_now(run, indices, index).then_some(*position);
                    }
                    Event::Heartbeat { position, .. } => {
                        looked += 1;
                        if *position != Position::ZERO && Some(*position) > reached {
                            let what = format!(
                                "{name}: a heartbeat named {position} to {process}, which had \
                                 reached {reached:?}"
                            );
                            return Err(Violation::new(what, [index]));
                        }
                    }
                    _ => {}
                }
            }
            for fault in &run.faults {
                looked += told(run, promises, (name, process), indices, fault)?;
            }
        }
    }
    Ok(Evidence::of(looked, "no heartbeat came, and no node was cut off for long enough"))
}

fn from_now(run: &Run<'_>, indices: &[usize], subscribed: usize) -> bool {
    let requests = indices.iter().take_while(|&&index| index < subscribed);
    let last = requests.filter_map(|&index| match run.event(index) {
        Event::Subscribe { from, .. } => Some(*from),
        _ => None,
    });
    last.last() == Some(crate::history::Begin::Now)
}

/// Whether a subscription at a node that was cut off was told, or ended.
fn told(
    run: &Run<'_>,
    promises: &Promises,
    (name, process): (&str, &str),
    indices: &[usize],
    fault: &Installed<'_>,
) -> Result<usize, Violation> {
    let limit = run.at(fault.confirmed) + promises.unready.as_micros() as u64;
    let over = fault.ends.map_or(u64::MAX, |ends| run.at(ends));
    if fault.effect.unready.is_empty() || over < limit {
        return Ok(0);
    }
    let (mut asked, mut at, mut told) = (None, None, false);
    for &index in indices.iter().take_while(|&&index| run.at(index) <= limit) {
        match run.event(index) {
            Event::Subscribe { node, .. } => asked = *node,
            // One that goes live meanwhile has its own time to be told in.
            Event::Subscribed { .. } if index < fault.confirmed => (at, told) = (asked, false),
            // Links that come back one by one let it go live again while the fault is still there.
            Event::Stale { stale, .. } if index < fault.confirmed => told = *stale,
            Event::Stale { stale, .. } => told |= stale,
            Event::Ended { .. } | Event::Left { .. } => at = None,
            _ => {}
        }
    }
    let lives = |node: &usize| lived_at(run, indices, fault, *node);
    match at.filter(|node| fault.effect.unready.contains(node)).filter(lives) {
        Some(node) if !told => {
            let what = format!("{name}: {process} at node {node} was not told that it is cut off");
            Err(Violation::new(what, [fault.confirmed]))
        }
        found => Ok(usize::from(found.is_some())),
    }
}

/// Whether the subscriber heard anything from the node after the fault before that one, if it hit the
/// node too: a connection to a process that was killed then may not have ended yet, and no process is left
/// to notify it. A fault that was not confirmed counts too.
fn lived_at(run: &Run<'_>, indices: &[usize], fault: &Installed<'_>, node: usize) -> bool {
    let (mut hit, mut since) = (false, None);
    for (index, record) in run.records[..fault.begins].iter().enumerate() {
        match &record.event {
            Event::FaultBegins { effect, .. } => hit = effect.nodes.contains(&node),
            Event::FaultEnds { .. } if hit => since = Some(index),
            _ => {}
        }
    }
    let Some(since) = since else { return true };
    let heard = |event: &Event| {
        matches!(
            event,
            Event::Subscribed { .. }
                | Event::Delivered { .. }
                | Event::Gap { .. }
                | Event::Heartbeat { .. }
                | Event::Stale { .. }
        )
    };
    indices.iter().any(|&i| (since..fault.confirmed).contains(&i) && heard(run.event(i)))
}

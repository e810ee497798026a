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
    match at.filter(|node| fault.effect.unready.contains(node)) {
        Some(node) if !told => {
            let what = format!("{name}: {process} at node {node} was not told that it is cut off");
            Err(Violation::new(what, [fault.confirmed]))
        }
        found => Ok(usize::from(found.is_some())),
    }
}

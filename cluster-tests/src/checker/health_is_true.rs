//! I19: a node that runs and cannot commit, apply or deliver says in time that it is not ready, and
//! why; a node that says for that long that it is ready places publishes; and in the end every node that
//! answers is ready.

use std::collections::BTreeMap;

use crate::history::{Event, Phase};

use super::{Evidence, Judgement, Outcome, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let looked = unready_is_said(run, promises)? + ready_nodes_place(run, promises)?;
    // A run that broke off has no end to be ready in.
    let whole = Event::Phase { phase: Phase::Reading };
    if !run.records.iter().any(|record| record.event == whole) {
        return Ok(Evidence::of(looked, "the run broke off"));
    }
    ready_in_the_end(run)?;
    Ok(Evidence::of(looked, "no node was kept from its work, and none was ready for long enough"))
}

fn unready_is_said(run: &Run<'_>, promises: &Promises) -> Result<usize, Violation> {
    let mut looked = 0;
    for fault in &run.faults {
        let limit = run.at(fault.confirmed) + micros(promises);
        let over = fault.ends.map_or(u64::MAX, |ends| run.at(ends));
        // Healed before it had to be said.
        if over < limit {
            continue;
        }
        for &node in &fault.effect.unready {
            looked += 1;
            let said = run.records[fault.begins..].iter().any(|record| {
                let no = matches!(&record.event,
                    Event::Health { node: n, ready: false, because } if *n == node && !because.is_empty());
                no && record.at <= limit
            });
            if !said {
                let what = format!(
                    "node {node} did not say within {:?} that it is not ready",
                    promises.unready
                );
                return Err(Violation::new(what, [fault.confirmed]));
            }
        }
    }
    Ok(looked)
}

/// Publishes that must have been begun through a node in the first half of a window, so that none of
/// them being placed by its end means that the node does not serve.
const ENOUGH: usize = 5;

/// Cuts the times in which a node says that it is ready into windows of T1.
fn ready_nodes_place(run: &Run<'_>, promises: &Promises) -> Result<usize, Violation> {
    let (mut begun, mut placed) = (BTreeMap::new(), BTreeMap::new());
    for publish in run.topics.values().flat_map(|topic| &topic.publishes) {
        let Some(node) = publish.node else { continue };
        let times: &mut Vec<u64> = begun.entry(node).or_default();
        times.push(run.at(publish.invoked));
        if let Outcome::Placed(_, record) = publish.outcome {
            let times: &mut Vec<u64> = placed.entry(node).or_default();
            times.push(run.at(record));
        }
    }
    let mut looked = 0;
    for Ready { node, from, to, said } in ready_times(run) {
        let within = |times: &BTreeMap<usize, Vec<u64>>, from, to| {
            times
                .get(&node)
                .map_or(0, |all| all.iter().filter(|at| (from..to).contains(*at)).count())
        };
        let window = micros(promises);
        let mut start = from;
        while start + window <= to {
            if within(&begun, start, start + window / 2) >= ENOUGH {
                looked += 1;
                if within(&placed, start, start + window) == 0 {
                    let what = format!(
                        "node {node} said for {:?} that it is ready and placed no publish",
                        promises.unready
                    );
                    return Err(Violation::new(what, [said]));
                }
            }
            start += window;
        }
    }
    Ok(looked)
}

/// A time in which a node says without a break that it is ready.
struct Ready {
    node: usize,
    from: u64,
    to: u64,
    /// The record of its beginning.
    said: usize,
}

fn ready_times(run: &Run<'_>) -> Vec<Ready> {
    let mut open: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
    let mut times = Vec::new();
    for (index, record) in run.records.iter().enumerate() {
        let (node, ready) = match record.event {
            Event::Health { node, ready, .. } => (node, ready),
            Event::Silent { node } => (node, false),
            _ => continue,
        };
        if ready {
            open.entry(node).or_insert((record.at, index));
        } else if let Some((from, said)) = open.remove(&node) {
            times.push(Ready { node, from, to: record.at, said });
        }
    }
    // Publishing ends before the run does, and then none is begun.
    let end = run.records.last().map_or(0, |record| record.at);
    let open = open.into_iter();
    times.extend(open.map(|(node, (from, said))| Ready { node, from, to: end, said }));
    times
}

fn ready_in_the_end(run: &Run<'_>) -> Result<(), Violation> {
    let mut last = BTreeMap::new();
    for (index, record) in run.records.iter().enumerate() {
        match record.event {
            Event::Health { node, ready, .. } => drop(last.insert(node, (ready, index))),
            // One that was replaced has no say in the end, whatever it said last.
            Event::Silent { node } => drop(last.remove(&node)),
            _ => {}
        }
    }
    for (node, (ready, index)) in last {
        if !ready {
            return Err(Violation::new(format!("node {node} is not ready in the end"), [index]));
        }
    }
    Ok(())
}

fn micros(promises: &Promises) -> u64 {
    promises.unready.as_micros() as u64
}

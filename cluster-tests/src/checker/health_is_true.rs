//! I19: a node that runs and cannot commit, apply or deliver says in time that it is not ready, and
//! why; and in the end every node that answers is ready.

use std::collections::BTreeMap;

use crate::history::{Event, Phase};

use super::{Evidence, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    for fault in &run.faults {
        let limit = run.at(fault.confirmed) + promises.unready.as_micros() as u64;
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
    // A run that broke off has no end to be ready in.
    let whole = Event::Phase { phase: Phase::Reading };
    if !run.records.iter().any(|record| record.event == whole) {
        return Ok(Evidence::of(looked, "the run broke off"));
    }
    let mut last = BTreeMap::new();
    for (index, record) in run.records.iter().enumerate() {
        if let Event::Health { node, ready, .. } = record.event {
            last.insert(node, (ready, index));
        }
    }
    for (node, (ready, index)) in last {
        if !ready {
            return Err(Violation::new(format!("node {node} is not ready in the end"), [index]));
        }
    }
    Ok(Evidence::of(looked, "no running node was kept from its work for long enough"))
}

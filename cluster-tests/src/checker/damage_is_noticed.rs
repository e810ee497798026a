//! I21: a node whose files were damaged gives nothing that differs from what the others give; or it has
//! ended by itself, and said which file it was.

use crate::faults::STORE;
use crate::history::Event;

use super::{Evidence, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let damaged: Vec<_> = run.faults.iter().filter(|f| !f.effect.damaged.is_empty()).collect();
    let Some(first) = damaged.first() else {
        return Ok(Evidence::Lacking("no node's files were damaged"));
    };
    let nodes: Vec<_> = damaged.iter().flat_map(|fault| &fault.effect.damaged).collect();
    let mut looked = 0;
    for (index, record) in run.records.iter().enumerate() {
        let Event::Noticed { node, said } = &record.event else { continue };
        looked += 1;
        if !said.contains(STORE) {
            let what =
                format!("node {node} has ended and does not say that {STORE} is damaged: {said}");
            return Err(Violation::new(what, [first.confirmed, index]));
        }
    }
    for (name, topic) in &run.topics {
        let theirs = topic.logs.iter().filter(|log| nodes.contains(&&log.node));
        let pairs = theirs.flat_map(|bad| {
            let others = topic.logs.iter().filter(|good| good.node != bad.node);
            others.map(move |good| (bad, good))
        });
        for (bad, good) in pairs {
            looked += 1;
            if bad.entries != good.entries {
                let what = format!(
                    "{name}: node {}, whose files were damaged, gives another log than node {}",
                    bad.node, good.node
                );
                return Err(Violation::new(what, [first.confirmed, good.record, bad.record]));
            }
        }
    }
    Ok(Evidence::of(looked, "no log was read of a node whose files were damaged"))
}

//! I11: what is acknowledged or shown through a node that slept, was cut off or was restarted, from
//! then on, is in the log at its place.

use std::collections::BTreeMap;

use crate::history::Event;

use super::acked_is_kept::expired;
use super::{Evidence, Judgement, Promises, Run, Topic, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    // The first time is enough: everything after it is looked at.
    let mut since = BTreeMap::new();
    for fault in &run.faults {
        for &node in &fault.effect.deposed {
            since.entry(node).or_insert(fault.begins);
        }
    }
    for (name, topic) in &run.topics {
        for (node, said, position, payload) in said(run, topic) {
            if since.get(&node).is_none_or(|&begins| said < begins) {
                continue;
            }
            for log in &topic.logs {
                looked += 1;
                let kept = match log.entries.get(&position) {
                    Some(there) => *there == payload,
                    None => expired(topic, log, position, promises),
                };
                if !kept {
                    let what = format!(
                        "{name}: node {node}, after it slept, was cut off or was restarted, said {position}, \
                         which is not in the log of node {}",
                        log.node
                    );
                    return Err(Violation::new(what, [since[&node], log.record, said]));
                }
            }
        }
    }
    Ok(Evidence::of(looked, "no node slept, was cut off or was restarted, and was heard after it"))
}

/// What was acknowledged or shown through a known node: node, record, position, payload.
fn said(run: &Run<'_>, topic: &Topic<'_>) -> Vec<(usize, usize, pushonce_core::Position, u64)> {
    let placed = topic.placed().filter_map(|(publish, position, record)| {
        Some((publish.node?, record, position, publish.payload))
    });
    let mut said: Vec<_> = placed.collect();
    for indices in topic.subscriptions.values() {
        let mut at = None;
        for &index in indices {
            match run.event(index) {
                Event::Subscribe { node, .. } => at = *node,
                Event::Delivered { position, payload, .. } => {
                    said.extend(at.map(|node| (node, index, *position, *payload)));
                }
                _ => {}
            }
        }
    }
    said
}

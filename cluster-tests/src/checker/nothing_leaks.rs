//! I20: no node's log tells of a panic; when the clients are gone, so are their descriptors, and the
//! memory has not grown past what histories may take.

use std::collections::BTreeMap;

use crate::history::Event;

use super::{Evidence, Judgement, Promises, Run, Violation};

/// Descriptors that may be more in the end than before the load: files of the log that were opened
/// meanwhile, a link that is being made again. A leak of one a session is far over it.
const DESCRIPTORS: u64 = 24;

/// What a node may have grown by, in KiB: histories and logs of a run, and what the allocator keeps of
/// them. Twelve seconds of a flood fill histories of 64 MiB, which is where it stands still: measured, a
/// node then takes 0.4 to 0.6 GiB, however long it goes on.
const GROWTH_KIB: u64 = 768 << 10;

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    let mut samples = BTreeMap::new();
    for (index, record) in run.records.iter().enumerate() {
        match record.event {
            Event::Panics { node, count } => {
                looked += 1;
                if count > 0 {
                    return Err(Violation::new(format!("node {node} panicked"), [index]));
                }
            }
            Event::Sample { node, rss_kib, descriptors } => {
                let of_node: &mut Vec<_> = samples.entry(node).or_default();
                of_node.push((rss_kib, descriptors, index));
            }
            _ => {}
        }
    }
    for (node, samples) in samples {
        let [first, .., last] = samples.as_slice() else { continue };
        looked += 1;
        let what = if last.1 > first.1 + DESCRIPTORS {
            format!("node {node} has {} descriptors, and had {} before", last.1, first.1)
        } else if last.0 > first.0 + GROWTH_KIB {
            format!("node {node} takes {} KiB, and took {} before", last.0, first.0)
        } else {
            continue;
        };
        return Err(Violation::new(what, [first.2, last.2]));
    }
    Ok(Evidence::of(looked, "no log was searched for panics, and no sample was taken"))
}

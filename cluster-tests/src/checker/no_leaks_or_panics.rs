//! I20: no node's log contains a panic; the descriptors of clients are closed after the clients are gone, and
//! memory has not grown by more than the histories may use.

use std::collections::BTreeMap;

use crate::history::HistoryEvent;

use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

/// Permitted growth of descriptors over the run: log files that were opened meanwhile, a link that is being
/// reconnected. A leak of one descriptor per session is far above it.
const DESCRIPTORS_GROWTH_MAX: u64 = 24;

/// Permitted growth of a node's memory, in KiB: histories and logs of a run, and what the allocator keeps of
/// them. Twelve seconds of a flood fill histories of 64 MiB, which is the limit: measured, a node then uses
/// 0.4 to 0.6 GiB, however long the flood continues.
const RSS_GROWTH_KIB_MAX: u64 = 768 << 10;

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    let mut samples = BTreeMap::new();
    for (index, record) in history.records.iter().enumerate() {
        match record.event {
            HistoryEvent::Panics { node, count } => {
                checked += 1;
                if count > 0 {
                    return Err(InvariantViolation::new(format!("node {node} panicked"), [index]));
                }
            }
            HistoryEvent::ResourceSample { node, rss_kib, descriptors } => {
                let node_samples: &mut Vec<_> = samples.entry(node).or_default();
                node_samples.push((rss_kib, descriptors, index));
            }
            _ => {}
        }
    }
    for (node, samples) in samples {
        let [first, .., last] = samples.as_slice() else { continue };
        checked += 1;
        let message = if last.1 > first.1 + DESCRIPTORS_GROWTH_MAX {
            format!(
                "node {node} has {} descriptors at the end, and had {} at the start",
                last.1, first.1
            )
        } else if last.0 > first.0 + RSS_GROWTH_KIB_MAX {
            format!("node {node} uses {} KiB at the end, and used {} at the start", last.0, first.0)
        } else {
            continue;
        };
        return Err(InvariantViolation::new(message, [first.2, last.2]));
    }
    Ok(CheckEvidence::from_count(
        checked,
        "no log was searched for panics, and no resource sample was taken",
    ))
}

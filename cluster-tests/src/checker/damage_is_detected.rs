//! I21: a node whose files were damaged returns the same logs as the other nodes, or exits and names the
//! damaged file. After a history was made longer, a node that still buffers older messages returns them too, so full
//! logs are compared from the later of their beginnings.

use crate::faults::LOG_FILE;
use crate::history::HistoryEvent;

use super::history_index::NodeLog;
use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

pub(super) fn check(history: &HistoryIndex<'_>, guarantees: &Guarantees) -> CheckResult {
    let damaged: Vec<_> = history.faults.iter().filter(|f| !f.effect.damaged.is_empty()).collect();
    let Some(first) = damaged.first() else {
        return Ok(CheckEvidence::Inconclusive("no file of a node was damaged"));
    };
    let nodes: Vec<_> = damaged.iter().flat_map(|fault| &fault.effect.damaged).collect();
    let mut checked = 0;
    for (index, record) in history.records.iter().enumerate() {
        let HistoryEvent::DamagedNodeExited { node, last_log_line } = &record.event else {
            continue;
        };
        checked += 1;
        if !last_log_line.contains(LOG_FILE) {
            let message = format!(
                "node {node} exited without reporting that {LOG_FILE} is damaged: {last_log_line}"
            );
            return Err(InvariantViolation::new(message, [first.confirmed, index]));
        }
    }
    for (name, topic) in &history.topics {
        let damaged_logs = topic.logs.iter().filter(|log| nodes.contains(&&log.node));
        let pairs = damaged_logs.flat_map(|damaged_log| {
            let others = topic.logs.iter().filter(|other_log| other_log.node != damaged_log.node);
            others.map(move |other_log| (damaged_log, other_log))
        });
        for (damaged_log, other_log) in pairs {
            checked += 1;
            if !agree(damaged_log, other_log, guarantees.history_min) {
                let message = format!(
                    "{name}: node {}, whose files were damaged, returns another log than node {}",
                    damaged_log.node, other_log.node
                );
                return Err(InvariantViolation::new(
                    message,
                    [first.confirmed, other_log.record, damaged_log.record],
                ));
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no log of a node with damaged files was read"))
}

/// Whether two logs are equal, or both are full and equal where both have messages.
fn agree(one: &NodeLog<'_>, other: &NodeLog<'_>, history_min: usize) -> bool {
    if one.entries == other.entries {
        return true;
    }
    let begins = one.entries.keys().next().max(other.entries.keys().next());
    let Some(&begins) = begins else { return false };
    let (one, other) = (one.entries.range(begins..), other.entries.range(begins..));
    one.clone().count() >= history_min && one.eq(other)
}

//! I8: all acknowledgements of one key in one topic name one position; the same key with another payload is
//! not published after the first was acknowledged. An owner that keeps messages in memory remembers keys there
//! too, so those of an earlier epoch do not count.

use std::collections::HashMap;

use pushonce_core::Durability;

use crate::history::HistoryEvent;

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, PublishRecord,
};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        let mut acknowledged: HashMap<&str, (&PublishRecord<'_>, _, usize)> = HashMap::new();
        for (publish, position, record) in topic.acknowledged() {
            let Some(key) = publish.key else { continue };
            let Some(&(first, known_position, before)) = acknowledged.get(key) else {
                acknowledged.insert(key, (publish, position, record));
                continue;
            };
            if is_in_memory(history, before) && known_position.epoch != position.epoch {
                acknowledged.insert(key, (publish, position, record));
                continue;
            }
            checked += 1;
            let message = if known_position != position {
                format!(
                    "{name}: the key {key} was acknowledged at {known_position} and at {position}"
                )
            } else if first.payload != publish.payload {
                format!("{name}: the key {key} was acknowledged with two payloads")
            } else {
                continue;
            };
            return Err(InvariantViolation::new(
                message,
                [first.invoked, publish.invoked, before, record],
            ));
        }
    }
    Ok(CheckEvidence::from_count(checked, "no key was acknowledged twice"))
}

/// Whether the message of an acknowledgement is only in the memory of its owner.
fn is_in_memory(history: &HistoryIndex<'_>, acknowledgement: usize) -> bool {
    let event = history.event(acknowledgement);
    matches!(event, HistoryEvent::Acknowledged { durability: Durability::Memory, .. })
}

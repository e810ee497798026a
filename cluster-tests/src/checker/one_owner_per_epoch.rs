//! I10, as far as clients see it: no two acknowledgements name one position, except those of one key; and no
//! publish that began after a later epoch was seen is acknowledged in an earlier epoch.

use std::collections::HashMap;

use super::{CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation};

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        let mut by_position = HashMap::new();
        for (publish, position, record) in topic.acknowledged() {
            checked += 1;
            let (payload, before) =
                *by_position.entry(position).or_insert((publish.payload, record));
            if payload != publish.payload {
                let message = format!("{name}: {position} was acknowledged to two publishes");
                return Err(InvariantViolation::new(message, [before, record]));
            }
        }
        // The first record of each epoch, by acknowledgements and deliveries.
        let acknowledged =
            topic.acknowledged().map(|(_, position, record)| (record, position.epoch));
        let delivered =
            history.deliveries(topic).map(|(_, record, position, _)| (record, position.epoch));
        let mut epochs_seen: Vec<_> = acknowledged.chain(delivered).collect();
        epochs_seen.sort_unstable();
        let mut newest = None;
        epochs_seen.retain(|(_, epoch)| {
            let is_newer = Some(*epoch) > newest;
            newest = newest.max(Some(*epoch));
            is_newer
        });
        for (publish, position, record) in topic.acknowledged() {
            let later_epoch = epochs_seen.iter().find(|(record, epoch)| {
                *epoch > position.epoch && *record < publish.invoked && publish.key.is_none()
            });
            if let Some((later, epoch)) = later_epoch {
                let message = format!(
                    "{name}: {position} was acknowledged to a publish that began after epoch {} \
                     was seen",
                    epoch.0
                );
                return Err(InvariantViolation::new(message, [*later, publish.invoked, record]));
            }
        }
    }
    Ok(CheckEvidence::from_count(checked, "no message was acknowledged"))
}

//! I7: no position comes twice to a subscriber, over all its sessions; no key and no payload stands
//! twice in a log.

use std::collections::HashMap;

use crate::history::Event;

use super::{Evidence, Judgement, Promises, Run, Topic, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        let mut shown = HashMap::new();
        for (process, record, position, _) in run.delivered(topic) {
            looked += 1;
            if let Some(before) = shown.insert((process, position), record) {
                let what = format!("{name}: {process} got {position} twice");
                return Err(Violation::new(what, [before, record]));
            }
        }
        looked += log(run, name, topic)?;
    }
    Ok(Evidence::of(looked, "nothing was shown"))
}

/// Every logical publish of a run has a payload of its own, so a payload that stands twice was
/// placed twice, with a key or without.
fn log(run: &Run<'_>, name: &str, topic: &Topic<'_>) -> Result<usize, Violation> {
    let mut looked = 0;
    for log in &topic.logs {
        let Event::Log { log: entries, .. } = run.event(log.record) else { continue };
        let (mut payloads, mut keys) = (HashMap::new(), HashMap::new());
        for entry in entries {
            looked += 1;
            let payload = payloads.insert(entry.payload, entry.position);
            let key = entry.key.as_ref().and_then(|key| keys.insert(key, entry.position));
            if let Some(before) = key.or(payload) {
                let key = entry.key.as_deref().unwrap_or("without a key");
                let what = format!(
                    "{name}: one publish ({key}) stands at {before} and at {}",
                    entry.position
                );
                let attempts = topic.publishes.iter().filter(|p| p.payload == entry.payload);
                let records = attempts.map(|publish| publish.invoked).chain([log.record]);
                return Err(Violation::new(what, records));
            }
        }
    }
    Ok(looked)
}

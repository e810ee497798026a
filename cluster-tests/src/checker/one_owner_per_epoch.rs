//! I10, as far as clients see it: no two acknowledgements name one position, but those of one key;
//! and nothing is acknowledged in an epoch by a publish that began after a later epoch was seen.

use std::collections::HashMap;

use super::{Evidence, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        let mut given = HashMap::new();
        for (publish, position, record) in topic.placed() {
            looked += 1;
            let (payload, before) = *given.entry(position).or_insert((publish.payload, record));
            if payload != publish.payload {
                let what = format!("{name}: {position} was given to two publishes");
                return Err(Violation::new(what, [before, record]));
            }
        }
        // When each epoch was first seen, by acknowledgements and deliveries.
        let placed = topic.placed().map(|(_, at, record)| (record, at.epoch));
        let shown = run.delivered(topic).map(|(_, record, at, _)| (record, at.epoch));
        let mut seen: Vec<_> = placed.chain(shown).collect();
        seen.sort_unstable();
        let mut newest = None;
        seen.retain(|(_, epoch)| {
            let rises = Some(*epoch) > newest;
            newest = newest.max(Some(*epoch));
            rises
        });
        for (publish, position, record) in topic.placed() {
            let sealed = seen.iter().find(|(at, epoch)| {
                *epoch > position.epoch && *at < publish.invoked && publish.key.is_none()
            });
            if let Some((later, epoch)) = sealed {
                let what = format!(
                    "{name}: {position} was acknowledged to a publish that began after epoch {} \
                     was seen",
                    epoch.0
                );
                return Err(Violation::new(what, [*later, publish.invoked, record]));
            }
        }
    }
    Ok(Evidence::of(looked, "nothing was acknowledged"))
}

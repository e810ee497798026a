//! I2: everything in a log or at a subscriber was published, and was not refused.

use std::collections::{HashMap, hash_map::Entry};

use super::{Evidence, Judgement, Outcome, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        // By payload: the first invocation, and the refusal when every attempt was refused.
        let mut known = HashMap::new();
        for publish in &topic.publishes {
            let refused = match publish.outcome {
                Outcome::Refused(record) => Some(record),
                _ => None,
            };
            match known.entry(publish.payload) {
                Entry::Vacant(entry) => drop(entry.insert((publish.invoked, refused))),
                Entry::Occupied(mut entry) => {
                    let (_, all_refused) = entry.get_mut();
                    *all_refused = all_refused.and(refused);
                }
            }
        }
        let logs = topic.logs.iter().flat_map(|log| {
            log.entries.iter().map(|(position, payload)| (log.record, *position, *payload))
        });
        let delivered = run.delivered(topic).map(|(_, record, at, what)| (record, at, what));
        for (shown, position, payload) in delivered.chain(logs) {
            looked += 1;
            match known.get(&payload) {
                None => {
                    let what = format!("{name}: {position} was shown and never published");
                    return Err(Violation::new(what, [shown]));
                }
                Some((_, Some(refused))) => {
                    let what = format!("{name}: {position} was shown, and its publish was refused");
                    return Err(Violation::new(what, [*refused, shown]));
                }
                // What is in a log was read in the end, and tells nothing of the time.
                Some((invoked, None)) if *invoked > shown => {
                    let what = format!("{name}: {position} was shown before it was published");
                    return Err(Violation::new(what, [*invoked, shown]));
                }
                Some(_) => {}
            }
        }
    }
    Ok(Evidence::of(looked, "nothing was shown"))
}

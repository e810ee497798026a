//! I8: every answer to one key in one topic names one position; the same key with another payload,
//! after the first was acknowledged, is not placed.

use std::collections::HashMap;

use super::{Evidence, Judgement, Promises, Publish, Run, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        let mut answers: HashMap<&str, (&Publish<'_>, _, usize)> = HashMap::new();
        for (publish, position, record) in topic.placed() {
            let Some(key) = publish.key else { continue };
            let Some((first, was, before)) = answers.get(key) else {
                answers.insert(key, (publish, position, record));
                continue;
            };
            looked += 1;
            let what = if *was != position {
                format!("{name}: the key {key} was placed at {was} and at {position}")
            } else if first.payload != publish.payload {
                format!("{name}: the key {key} was placed with two payloads")
            } else {
                continue;
            };
            return Err(Violation::new(what, [first.invoked, publish.invoked, *before, record]));
        }
    }
    Ok(Evidence::of(looked, "no key was answered twice"))
}

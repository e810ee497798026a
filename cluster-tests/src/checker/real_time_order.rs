//! I9: a publish that was acknowledged before another was begun stands before it; and an ordered
//! stream keeps its order.

use std::collections::{BTreeMap, HashMap};

use pushonce_core::Position;

use super::{Evidence, Judgement, Outcome, Promises, Run, Topic, Violation};

/// A publish that has a place: when it was first begun, and when it was first acknowledged.
struct Placed {
    begun: usize,
    acknowledged: Option<usize>,
}

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        let placed = placed(topic);
        looked += placed.len();
        // From the newest to the oldest: whatever stands behind must not have been over before.
        let mut earliest: Option<(usize, Position)> = None;
        for (position, publish) in placed.iter().rev() {
            if let Some((acknowledged, behind)) = earliest
                && acknowledged < publish.begun
            {
                let what = format!(
                    "{name}: {behind} was acknowledged before {position} was begun, and stands \
                     behind it"
                );
                return Err(Violation::new(what, [acknowledged, publish.begun]));
            }
            let own = publish.acknowledged.map(|record| (record, *position));
            earliest = [earliest, own].into_iter().flatten().min();
        }
        fifo(run, name, topic)?;
    }
    Ok(Evidence::of(looked, "nothing was placed"))
}

/// By position, also what was never acknowledged and stands in the log. Attempts of one publish
/// count as one.
fn placed(topic: &Topic<'_>) -> BTreeMap<Position, Placed> {
    let mut first = HashMap::new();
    for publish in &topic.publishes {
        first.entry(publish.payload).or_insert(publish.invoked);
    }
    let mut placed = BTreeMap::new();
    for (publish, position, record) in topic.placed() {
        let begun = first[&publish.payload];
        placed.entry(position).or_insert(Placed { begun, acknowledged: Some(record) });
    }
    for (position, payload) in topic.log() {
        if let Some(&begun) = first.get(&payload) {
            placed.entry(position).or_insert(Placed { begun, acknowledged: None });
        }
    }
    placed
}

fn fifo(run: &Run<'_>, name: &str, topic: &Topic<'_>) -> Result<(), Violation> {
    let log: HashMap<_, _> = topic.log().into_iter().map(|(at, payload)| (payload, at)).collect();
    let mut streams = BTreeMap::new();
    for publish in topic.publishes.iter().filter(|publish| publish.sequence.is_some()) {
        let at = match publish.outcome {
            Outcome::Placed(position, _) => Some(position),
            _ => log.get(&publish.payload).copied(),
        };
        if let Some(at) = at {
            let process = &*run.records[publish.invoked].process;
            let stream: &mut Vec<_> = streams.entry(process).or_default();
            stream.push((publish.sequence, at, publish.invoked));
        }
    }
    for (process, mut stream) in streams {
        stream.sort_unstable();
        for pair in stream.windows(2) {
            let [(one, before, first), (two, behind, second)] = pair else { continue };
            if one < two && before >= behind {
                let what = format!("{name}: {process} sent {before} before {behind}");
                return Err(Violation::new(what, [*first, *second]));
            }
        }
    }
    Ok(())
}

//! I3: from position to payload there is one function, for acknowledgements, subscribers, nodes and
//! transports; and in the end every node gives the same log over every transport.

use std::collections::HashMap;
use std::collections::btree_map::Range;

use pushonce_core::Position;

use crate::history::Hash;

use super::{Evidence, Judgement, Promises, Run, Topic, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        let mut known = HashMap::new();
        let placed = topic.placed().map(|(publish, at, record)| (record, at, publish.payload));
        let delivered = run.delivered(topic).map(|(_, record, at, what)| (record, at, what));
        let logs = topic.logs.iter().flat_map(|log| {
            log.entries.iter().map(|(position, payload)| (log.record, *position, *payload))
        });
        for (record, position, payload) in placed.chain(delivered).chain(logs) {
            looked += 1;
            let (first, was) = *known.entry(position).or_insert((record, payload));
            if was != payload {
                let what = format!("{name}: {position} is two messages");
                return Err(Violation::new(what, [first, record]));
            }
        }
        same(name, topic, promises)?;
    }
    Ok(Evidence::of(looked, "nothing has a position"))
}

/// A history that was set to more than a page has is longer over some transports than over others: what
/// both have is compared.
fn same(name: &str, topic: &Topic<'_>, promises: &Promises) -> Result<(), Violation> {
    let Some((first, others)) = topic.logs.split_first() else { return Ok(()) };
    for other in others {
        let pages = [&first.entries, &other.entries];
        let full = pages.iter().all(|page| page.len() >= promises.history);
        let begin = pages.iter().filter_map(|page| page.keys().next()).max();
        let begin = begin.filter(|_| full).copied().unwrap_or(Position::ZERO);
        let [ours, theirs] = pages.map(|page| page.range(begin..));
        if let Some(at) = difference(ours, theirs) {
            let what = format!(
                "{name}: the logs of node {} over {} and of node {} over {} differ at {at}",
                first.node, first.transport, other.node, other.transport
            );
            return Err(Violation::new(what, [first.record, other.record]));
        }
    }
    Ok(())
}

/// The first position at which two logs differ.
fn difference(
    mut ours: Range<'_, Position, Hash>,
    mut theirs: Range<'_, Position, Hash>,
) -> Option<Position> {
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return None,
            (ours, theirs) if ours == theirs => {}
            (ours, theirs) => return ours.into_iter().chain(theirs).map(|(at, _)| *at).min(),
        }
    }
}

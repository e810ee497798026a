//! I3: from position to payload there is one function, for acknowledgements, subscribers, nodes and
//! transports; and in the end every node gives the same log over every transport.

use std::collections::HashMap;

use pushonce_core::Position;

use super::{Evidence, Judgement, Promises, Run, Topic, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
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
        same(name, topic)?;
    }
    Ok(Evidence::of(looked, "nothing has a position"))
}

fn same(name: &str, topic: &Topic<'_>) -> Result<(), Violation> {
    let Some((first, others)) = topic.logs.split_first() else { return Ok(()) };
    for other in others {
        if first.entries != other.entries {
            let differs = |position: &&Position| {
                first.entries.contains_key(position) != other.entries.contains_key(position)
            };
            let at = first.entries.keys().chain(other.entries.keys()).find(differs);
            let at = at.map_or_else(String::new, Position::to_string);
            let what = format!(
                "{name}: the logs of node {} over {} and of node {} over {} differ at {at}",
                first.node, first.transport, other.node, other.transport
            );
            return Err(Violation::new(what, [first.record, other.record]));
        }
    }
    Ok(())
}

//! I9: a publish that was acknowledged before another one began has the lower position; and an ordered stream
//! keeps its order.

use std::collections::{BTreeMap, HashMap};

use pushonce_core::Position;

use super::{
    CheckEvidence, CheckResult, Guarantees, HistoryIndex, InvariantViolation, RecordedOutcome,
    TopicHistory,
};

/// A publish with a position: the records of its first invocation and its first acknowledgement.
struct PlacedPublish {
    invoked: usize,
    acknowledged: Option<usize>,
}

pub(super) fn check(history: &HistoryIndex<'_>, _: &Guarantees) -> CheckResult {
    let mut checked = 0;
    for (name, topic) in &history.topics {
        let by_position = publishes_by_position(topic);
        checked += by_position.len();
        // From the newest to the oldest position: no publish may begin after one with a higher position was
        // acknowledged.
        let mut earliest_acknowledged: Option<(usize, Position)> = None;
        for (position, publish) in by_position.iter().rev() {
            if let Some((acknowledged, earlier_position)) = earliest_acknowledged
                && acknowledged < publish.invoked
            {
                let message = format!(
                    "{name}: {earlier_position} was acknowledged before {position} was invoked, and is \
                     the higher position"
                );
                return Err(InvariantViolation::new(message, [acknowledged, publish.invoked]));
            }
            let acknowledged = publish.acknowledged.map(|record| (record, *position));
            earliest_acknowledged =
                [earliest_acknowledged, acknowledged].into_iter().flatten().min();
        }
        check_stream_order(history, name, topic)?;
    }
    Ok(CheckEvidence::from_count(checked, "no publish has a position"))
}

/// Publishes by position, including those that are in the log without an acknowledgement. The attempts of one
/// publish count as one.
fn publishes_by_position(topic: &TopicHistory<'_>) -> BTreeMap<Position, PlacedPublish> {
    let mut first_invoked = HashMap::new();
    for publish in &topic.publishes {
        first_invoked.entry(publish.payload).or_insert(publish.invoked);
    }
    let mut by_position = BTreeMap::new();
    for (publish, position, record) in topic.acknowledged() {
        let invoked = first_invoked[&publish.payload];
        by_position
            .entry(position)
            .or_insert(PlacedPublish { invoked, acknowledged: Some(record) });
    }
    for (position, payload) in topic.merged_log() {
        if let Some(&invoked) = first_invoked.get(&payload) {
            by_position.entry(position).or_insert(PlacedPublish { invoked, acknowledged: None });
        }
    }
    by_position
}

fn check_stream_order(
    history: &HistoryIndex<'_>,
    name: &str,
    topic: &TopicHistory<'_>,
) -> Result<(), InvariantViolation> {
    let positions: HashMap<_, _> =
        topic.merged_log().into_iter().map(|(at, payload)| (payload, at)).collect();
    let mut streams = BTreeMap::new();
    for publish in topic.publishes.iter().filter(|publish| publish.sequence.is_some()) {
        let position = match publish.outcome {
            RecordedOutcome::Acknowledged(position, _) => Some(position),
            _ => positions.get(&publish.payload).copied(),
        };
        if let Some(position) = position {
            let process = &*history.records[publish.invoked].process;
            let stream: &mut Vec<_> = streams.entry(process).or_default();
            stream.push((publish.sequence, position, publish.invoked));
        }
    }
    for (process, mut stream) in streams {
        stream.sort_unstable();
        for pair in stream.windows(2) {
            let [
                (first_sequence, first_position, first),
                (second_sequence, second_position, second),
            ] = pair
            else {
                continue;
            };
            if first_sequence < second_sequence && first_position >= second_position {
                let message =
                    format!("{name}: {process} sent {first_position} before {second_position}");
                return Err(InvariantViolation::new(message, [*first, *second]));
            }
        }
    }
    Ok(())
}

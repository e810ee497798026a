//! I12: whoever asks for what comes after a position gets the next one, or a gap that begins there;
//! whoever asks with a position that was never given out gets an error and no message.

use std::collections::BTreeMap;

use pushonce_core::Position;

use crate::history::{Begin, Event};

use super::{Evidence, Judgement, Promises, Run, Topic, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        let newest = newest(run, topic);
        for (process, indices) in &topic.subscriptions {
            let mut asked: Option<(Position, usize)> = None;
            for &index in indices {
                let from = match run.event(index) {
                    Event::Subscribe { from: Begin::After(position), .. } => {
                        asked = Some((*position, index));
                        continue;
                    }
                    Event::Subscribe { .. } => {
                        asked = None;
                        continue;
                    }
                    Event::Delivered { position, .. } => *position,
                    Event::Gap { from, .. } => *from,
                    Event::Subscribed { position, .. } => {
                        if let Some((forged, request)) = asked
                            && forged != Position::ZERO
                            && Some(forged) > newest
                        {
                            let what = format!(
                                "{name}: {process} asked for what comes after {forged}, which was \
                                 never given out, and was told {position} instead of an error"
                            );
                            return Err(Violation::new(what, [request, index]));
                        }
                        continue;
                    }
                    Event::SubscribeRefused { code, .. } => {
                        if let Some((position, request)) = asked.take() {
                            looked += 1;
                            let given_out = newest_before(run, topic, request);
                            if Some(position) <= given_out && &**code == "future_position" {
                                let what = format!("{name}: {position} was refused to {process}");
                                return Err(Violation::new(what, [request, index]));
                            }
                        }
                        continue;
                    }
                    _ => continue,
                };
                let Some((position, request)) = asked.take() else { continue };
                looked += 1;
                if !from.follows(position) {
                    let what = format!(
                        "{name}: {process} asked for what comes after {position}, got {from}"
                    );
                    return Err(Violation::new(what, [request, index]));
                }
            }
        }
    }
    Ok(Evidence::of(looked, "nobody resumed"))
}

/// The newest position that anybody ever saw.
fn newest(run: &Run<'_>, topic: &Topic<'_>) -> Option<Position> {
    let placed = topic.placed().map(|(_, position, _)| position);
    let shown = run.delivered(topic).map(|(_, _, position, _)| position);
    let log: BTreeMap<_, _> = topic.log();
    placed.chain(shown).chain(log.into_keys()).max()
}

/// The newest position that anybody had seen when this record was written. A position above it may have
/// been passed since by a later epoch.
fn newest_before(run: &Run<'_>, topic: &Topic<'_>, record: usize) -> Option<Position> {
    let placed = topic.placed().filter(|(_, _, at)| *at < record).map(|(_, position, _)| position);
    let shown = run.delivered(topic).filter(|(_, at, _, _)| *at < record);
    placed.chain(shown.map(|(_, _, position, _)| position)).max()
}

//! I13: the first message of a subscription is the one that was asked for: the oldest there is, the
//! next one, or the newest so many; and nothing falls between the past and what comes live.

use pushonce_core::Position;

use crate::history::{Begin, Event};

use super::{Evidence, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        for (process, indices) in &topic.subscriptions {
            let mut begin: Option<(Begin, usize)> = None;
            let mut stood: Option<(Position, usize)> = None;
            for &index in indices {
                let from = match run.event(index) {
                    Event::Subscribe { from, .. } => {
                        (begin, stood) = (Some((*from, index)), None);
                        continue;
                    }
                    Event::Subscribed { position, .. } => {
                        stood = Some((*position, index));
                        continue;
                    }
                    // Over before its first message: nothing to judge.
                    Event::Ended { .. } => {
                        begin = None;
                        continue;
                    }
                    Event::Delivered { position, .. } => *position,
                    Event::Gap { from, .. } => *from,
                    _ => continue,
                };
                let Some((asked, request)) = begin.take() else { continue };
                // On QUIC a message may overtake the word that the subscription is live.
                let Some((stood, live)) = stood else { continue };
                looked += 1;
                if !fits(asked, stood, from, promises) {
                    let what = format!(
                        "{name}: {process} asked for {asked:?} when the topic stood at {stood}, and \
                         got {from} first"
                    );
                    return Err(Violation::new(what, [request, live, index]));
                }
            }
        }
    }
    Ok(Evidence::of(looked, "nobody subscribed and got a message"))
}

fn fits(asked: Begin, stood: Position, first: Position, promises: &Promises) -> bool {
    if let Begin::After(_) = asked {
        // For I12.
        return true;
    }
    if first.epoch != stood.epoch {
        // The topic had nothing, or began anew meanwhile: then its beginning comes.
        return first.offset.0 == 1;
    }
    // As if a topic had kept everything: it may begin later by what it forgot.
    let (first, head) = (first.offset.0, stood.offset.0);
    let forgotten = head.saturating_sub(promises.history as u64);
    match asked {
        Begin::Now => first == head + 1,
        Begin::Start if forgotten == 0 => first == 1,
        // It moves while it is asked.
        Begin::Start => first > forgotten && first <= head + 1,
        Begin::Last(n) => first == head.saturating_sub(u64::from(n)).max(forgotten) + 1,
        Begin::After(_) => true,
    }
}

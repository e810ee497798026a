//! I5: at a subscriber, over all its sessions, a message follows its neighbour, or a gap that names
//! exactly what is missing between them.

use pushonce_core::Position;

use crate::history::Event;

use super::{Evidence, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        for (process, indices) in &topic.subscriptions {
            // What was shown or told as missing, and by which record.
            let mut reached: Option<(Position, usize)> = None;
            for &index in indices {
                let (from, to) = match run.event(index) {
                    Event::Delivered { position, .. } => (*position, *position),
                    Event::Gap { from, to, .. } => (*from, *to),
                    Event::Hole { why, .. } => {
                        let what = format!("{name}: {process} left its node: {why}");
                        return Err(Violation::new(what, [index]));
                    }
                    _ => continue,
                };
                looked += 1;
                if let Some((last, record)) = reached {
                    // Backwards and twice are for others to judge.
                    if from > last && !from.follows(last) {
                        let what = format!("{name}: {process} got {from} after {last}");
                        return Err(Violation::new(what, [record, index]));
                    }
                }
                // A gap that leads to a later epoch ends before its first message, or right before
                // the oldest one left: it stands for everything between.
                let next = reached.map_or(to, |(last, _)| last.max(to));
                reached = Some((next, index));
            }
        }
    }
    Ok(Evidence::of(looked, "nothing was shown"))
}

//! I6: at a subscriber, over all its sessions, positions never go back.

use pushonce_core::Position;

use super::{Evidence, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, _: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        let mut last: Option<(&str, usize, Position)> = None;
        for (process, record, position, _) in run.delivered(topic) {
            looked += 1;
            if let Some((who, before, was)) = last
                && who == process
                && position < was
            {
                let what = format!("{name}: {process} got {position} after {was}");
                return Err(Violation::new(what, [before, record]));
            }
            last = Some((process, record, position));
        }
    }
    Ok(Evidence::of(looked, "nothing was shown"))
}

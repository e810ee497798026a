//! I4: what was shown is in the log of every node, or is older than the history that was promised.

use super::acked_is_kept::expired;
use super::{Evidence, Judgement, Promises, Run, Violation};

pub(super) fn check(run: &Run<'_>, promises: &Promises) -> Judgement {
    let mut looked = 0;
    for (name, topic) in &run.topics {
        for (_, shown, position, payload) in run.delivered(topic) {
            for log in &topic.logs {
                looked += 1;
                let kept = match log.entries.get(&position) {
                    Some(there) => *there == payload,
                    None => expired(topic, log, position, promises),
                };
                if !kept {
                    let what = format!(
                        "{name}: {position} was shown and is not in the log of node {} over {}",
                        log.node, log.transport
                    );
                    return Err(Violation::new(what, [log.record, shown]));
                }
            }
        }
    }
    Ok(Evidence::of(looked, "nothing was shown, or no log was read"))
}

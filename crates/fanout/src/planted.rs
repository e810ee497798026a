//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

use pushonce_core::{Position, StartFrom};

use crate::start_position::ResolvedStart;

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `no-epoch-check`: whatever life of a topic a position is of, it is taken for one of this life.
pub(crate) fn ignore_epoch(from: StartFrom, head: Position) -> StartFrom {
    match from {
        StartFrom::Position(position) if is_planted("no-epoch-check") => {
            StartFrom::Position(Position { epoch: head.epoch, ..position })
        }
        from => from,
    }
}

/// `off-by-one-resume`: whoever comes back misses the next message.
pub(crate) fn skip_one_on_resume(from: StartFrom, cursor: Position) -> Position {
    let resumes = matches!(from, StartFrom::Position(_)) && is_planted("off-by-one-resume");
    if resumes { cursor.next() } else { cursor }
}

/// `gap-not-signalled`: what is missing at the beginning is not told.
pub(crate) fn suppress_gap(mut start: ResolvedStart) -> ResolvedStart {
    if is_planted("gap-not-signalled") {
        start.gap = None;
    }
    start
}

/// `history-unbounded`: a reader gets whatever the ring has, whatever the namespace allows.
pub(crate) fn ignores_retention() -> bool {
    is_planted("history-unbounded")
}

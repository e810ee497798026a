//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

use pushonce_core::{From, Position};

use crate::begin::Start;

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `no-epoch-check`: whatever life of a topic a position is of, it is taken for one of this life.
pub(crate) fn of_this_life(from: From, head: Position) -> From {
    match from {
        From::Position(position) if is_planted("no-epoch-check") => {
            From::Position(Position { epoch: head.epoch, ..position })
        }
        from => from,
    }
}

/// `off-by-one-resume`: whoever comes back misses the next message.
pub(crate) fn resumed(from: From, cursor: Position) -> Position {
    let resumes = matches!(from, From::Position(_)) && is_planted("off-by-one-resume");
    if resumes { cursor.next() } else { cursor }
}

/// `gap-not-signalled`: what is missing at the beginning is not told.
pub(crate) fn silent(mut start: Start) -> Start {
    if is_planted("gap-not-signalled") {
        start.gap = None;
    }
    start
}

/// `history-unbounded`: a reader gets whatever the ring has, whatever the namespace allows.
pub(crate) fn shows_all() -> bool {
    is_planted("history-unbounded")
}

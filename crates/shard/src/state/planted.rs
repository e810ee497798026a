//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

use pushonce_core::Position;

use super::State;
use crate::dedupe::Dedupe;

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `no-epoch-check`: whatever life of a topic a position is of, it is taken for one of this life.
pub(crate) fn reached(reached: Position, head: Position) -> Position {
    if is_planted("no-epoch-check") { Position { epoch: head.epoch, ..reached } } else { reached }
}

impl State {
    /// `dedupe-not-replicated`: only the owner remembers what was published.
    pub(crate) fn forget_repeats(&mut self, owns: bool) {
        if !owns && is_planted("dedupe-not-replicated") {
            self.dedupe = Dedupe::default();
        }
    }
}

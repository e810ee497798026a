//! A bug for the tests of the tests: the proof must catch it. In no build that anybody uses.

use super::State;
use crate::dedupe::Dedupe;

impl State {
    /// `dedupe-not-replicated`: only the owner remembers what was published.
    pub(crate) fn forget_repeats(&mut self, owns: bool) {
        let planted = std::env::var("PUSHONCE_PLANTED_BUG");
        if !owns && planted.as_deref() == Ok("dedupe-not-replicated") {
            self.dedupe = Dedupe::default();
        }
    }
}

//! A state whose group has lost its majority for good, made ready for another history.

use std::sync::Arc;

use pushonce_core::{Epoch, Timestamp};

use super::State;

impl State {
    /// Begins a later epoch of every topic at `index`, with the messages that are here: positions that the
    /// lost replicas gave out beyond them are never given out again, and every subscriber that resumes
    /// is told of a gap. The index must be above every one that they can have reached.
    pub fn recover(&mut self, index: u64) {
        for log in self.topics.values_mut() {
            Arc::make_mut(log).reborn(Epoch(index));
        }
        // A topic that is not here may have been on the lost replicas.
        self.ended.assume_all(index);
    }

    /// How many topics and messages there are, however old.
    pub fn size(&self) -> (usize, usize) {
        let topics = || self.topics("", None, Timestamp(0));
        (topics().count(), topics().map(|info| info.count).sum())
    }
}

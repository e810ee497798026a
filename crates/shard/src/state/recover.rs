//! A state whose group has lost its majority for good, made ready for another history.

use std::sync::Arc;

use pushonce_core::{Epoch, Timestamp};

use super::ShardState;

impl ShardState {
    /// Begins a later epoch of every topic at `index`, with the messages that are here: positions that the
    /// lost replicas gave out beyond them are never given out again, and every subscriber that resumes
    /// is told of a gap. The index must be above every one that they can have reached.
    pub fn recover(&mut self, index: u64) {
        for log in self.topics.values_mut() {
            Arc::make_mut(log).restart_at_epoch(Epoch(index));
        }
        // A topic that is not here may have been on the lost replicas.
        self.dropped_topics.assume_all_dropped(index);
    }

    /// How many topics and messages there are, however old.
    pub fn count_topics_and_messages(&self) -> (usize, usize) {
        let topics = || self.list_topics("", None, Timestamp(0));
        (topics().count(), topics().map(|info| info.count).sum())
    }
}

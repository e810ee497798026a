//! Recovery of a state whose group has permanently lost its majority.

use std::sync::Arc;

use pushonce_core::{Epoch, Timestamp};

use super::ShardState;

impl ShardState {
    /// Moves every topic to a new epoch at `index`, with the messages that this replica has. Positions that
    /// the lost replicas assigned beyond them are never assigned again, and every subscriber that resumes
    /// gets a gap. The index must be above every index that the lost replicas can have reached.
    pub fn recover(&mut self, index: u64) {
        for log in self.topics.values_mut() {
            Arc::make_mut(log).restart_at_epoch(Epoch(index));
        }
        // A topic that is missing here may have existed on the lost replicas.
        self.dropped_topics.assume_all_dropped(index);
    }

    /// The numbers of topics and messages, including messages past their age.
    pub fn count_topics_and_messages(&self) -> (usize, usize) {
        let topics = || self.list_topics("", None, Timestamp(0));
        (topics().count(), topics().map(|info| info.count).sum())
    }
}

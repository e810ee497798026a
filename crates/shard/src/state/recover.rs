//! A state whose group has lost its majority for good, made ready for another history.

use std::sync::Arc;

use pushonce_core::Epoch;

use super::State;
use crate::limits::Counts;

impl State {
    /// Begins a later epoch of every topic at `index`, with the messages that are here: positions that the
    /// lost replicas gave out beyond them are never given out again, and every subscriber that resumes
    /// is told of a gap. The index must be above every one that they can have reached.
    pub fn recover(&mut self, index: u64) {
        let lent = &self.lent;
        // What is left of an earlier life stays dead.
        self.topics.retain(|topic, log| Some(log.epoch().0) > lent.get(topic.namespace()).copied());
        self.counts = Counts::of(self.topics.keys());
        for log in self.topics.values_mut() {
            Arc::make_mut(log).reborn(Epoch(index));
        }
        // A topic that is not here may have been on the lost replicas.
        self.ended.assume_all(index);
    }

    /// How many topics and messages there are.
    pub fn size(&self) -> (usize, usize) {
        let messages = self.topics("", None).map(|info| info.count).sum();
        (self.topics("", None).count(), messages)
    }
}

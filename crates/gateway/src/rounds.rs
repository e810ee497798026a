//! Whether the lanes still go round, for those who look from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count for each lane, that rises about ten times a second as long as the lane does anything else
/// than hang. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rounds(Arc<[AtomicU64]>);

impl Rounds {
    pub(crate) fn new(lanes: usize) -> Rounds {
        Rounds((0..lanes).map(|_| AtomicU64::new(0)).collect())
    }

    /// One more of a lane.
    pub(crate) fn count(&self, lane: usize) {
        if let Some(rounds) = self.0.get(lane) {
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As they are now, lane by lane.
    pub fn counts(&self) -> Vec<u64> {
        self.0.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect()
    }
}

//! Whether the lanes still go round, for those who look from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count for each lane, that rises about ten times a second as long as the lane does anything else
/// than hang. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LaneWatchdog(Arc<[AtomicU64]>);

impl LaneWatchdog {
    pub(crate) fn new(lanes: usize) -> LaneWatchdog {
        LaneWatchdog((0..lanes).map(|_| AtomicU64::new(0)).collect())
    }

    /// One more of a lane.
    pub(crate) fn record_tick(&self, lane: usize) {
        if let Some(ticks) = self.0.get(lane) {
            ticks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As they are now, lane by lane.
    pub fn tick_counts(&self) -> Vec<u64> {
        self.0.iter().map(|ticks| ticks.load(Ordering::Relaxed)).collect()
    }
}

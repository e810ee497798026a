//! Detects lanes that hang, from outside of their threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A tick counter for each lane. It increases about ten times a second unless the lane hangs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LaneWatchdog(Arc<[AtomicU64]>);

impl LaneWatchdog {
    pub(crate) fn new(lanes: usize) -> LaneWatchdog {
        LaneWatchdog((0..lanes).map(|_| AtomicU64::new(0)).collect())
    }

    /// Increments the counter of a lane.
    pub(crate) fn record_tick(&self, lane: usize) {
        if let Some(ticks) = self.0.get(lane) {
            ticks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The current counters in lane order.
    pub fn tick_counts(&self) -> Vec<u64> {
        self.0.iter().map(|ticks| ticks.load(Ordering::Relaxed)).collect()
    }
}

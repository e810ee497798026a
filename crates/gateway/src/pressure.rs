//! Overload protection: how close a lane is to its limits, and what it does about it.
//!
//! There are two budgets: the memory of the process, and the time that messages wait for a lane. As the load
//! approaches either budget, the lane first lowers the rate of `latest` and `rate` subscriptions, which lose
//! nothing by it, then rejects new sessions, then closes existing ones, a few at a time and with a time after
//! which to reconnect.
//!
//! Memory may be full of data that the shards keep, and then closing sessions frees little. New sessions are
//! therefore rejected well before existing ones are closed: existing sessions cost little, and the distance
//! between the two levels is the operator's time to act. Beyond the budget the system would end the process,
//! and all sessions with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The measure taken against the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// No measure.
    #[default]
    Normal,
    /// Subscriptions of `latest` and `rate` get at most one message every [`THROTTLE_INTERVAL`].
    Throttle,
    /// New sessions are rejected.
    Reject,
    /// Existing sessions are closed.
    Shed,
}

/// Minimum interval between two messages of a `latest` or `rate` subscription under [`Pressure::Throttle`]. A
/// viewer of a score does not notice the difference between ten and two changes a second, and a delay of half
/// a second still counts as live.
pub(crate) const THROTTLE_INTERVAL: Duration = Duration::from_millis(500);

/// The backlog budget: the longest time that a message may wait for its lane. Rings hold a thousand messages;
/// the sessions of a lane that is further behind lose messages.
pub(crate) const BACKLOG_MAX: Duration = Duration::from_secs(2);

/// Thresholds in thousandths of a budget at which each measure begins, and how far the load must fall below a
/// threshold before the measure ends. Without hysteresis the level could change with every tick.
const THROTTLE_PERMILLE: u32 = 850;
const REJECT_PERMILLE: u32 = 950;
const SHED_PERMILLE: u32 = 1_000;
const HYSTERESIS_PERMILLE: u32 = 50;

/// The used share of a budget, in thousandths.
pub(crate) fn permille(used: Duration, budget: Duration) -> u32 {
    let thousandths = used.as_nanos() * 1_000 / budget.as_nanos().max(1);
    u32::try_from(thousandths).unwrap_or(u32::MAX)
}

/// Tracks the pressure level with hysteresis.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadTracker(Pressure);

impl LoadTracker {
    /// Updates the level to the current load, in thousandths of the budget, and returns it.
    pub(crate) fn update(&mut self, permille: u32) -> Pressure {
        let threshold = |level, permille| {
            if self.0 >= level { permille - HYSTERESIS_PERMILLE } else { permille }
        };
        self.0 = if permille >= threshold(Pressure::Shed, SHED_PERMILLE) {
            Pressure::Shed
        } else if permille >= threshold(Pressure::Reject, REJECT_PERMILLE) {
            Pressure::Reject
        } else if permille >= threshold(Pressure::Throttle, THROTTLE_PERMILLE) {
            Pressure::Throttle
        } else {
            Pressure::Normal
        };
        self.0
    }
}

/// The memory use of the process, as reported by the node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryUse(Arc<AtomicU32>);

impl MemoryUse {
    /// Reports that `used` of `max` bytes are in use. A `max` of zero means no limit.
    pub fn set(&self, used: u64, max: u64) {
        let thousandths = (u128::from(used) * 1_000).checked_div(max.into()).unwrap_or(0);
        self.0.store(u32::try_from(thousandths).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(crate) fn permille(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_levels_rise_in_order_and_fall_with_hysteresis() {
        let mut load = LoadTracker::default();
        let mut update = |permille| load.update(permille);
        use Pressure::{Normal, Reject, Shed, Throttle};
        assert_eq!(
            [0, 849, 850, 820, 800, 799].map(&mut update),
            [Normal, Normal, Throttle, Throttle, Throttle, Normal]
        );
        assert_eq!([949, 950, 901, 899].map(&mut update), [Throttle, Reject, Reject, Throttle]);
        assert_eq!(
            [999, 1_000, 951, 949, 10_000].map(&mut update),
            [Reject, Shed, Shed, Reject, Shed]
        );
        assert_eq!([820, 799].map(&mut update), [Throttle, Normal]);
    }

    #[test]
    fn memory_without_a_limit_has_no_pressure() {
        let memory = MemoryUse::default();
        memory.set(u64::MAX, 0);
        assert_eq!(memory.permille(), 0);
        memory.set(u64::MAX, 1);
        assert_eq!(memory.permille(), u32::MAX);
        memory.set(3 << 30, 4 << 30);
        assert_eq!(memory.permille(), 750);
    }

    #[test]
    fn permille_of_a_duration_saturates() {
        assert_eq!(permille(Duration::from_secs(1), BACKLOG_MAX), 500);
        assert_eq!(permille(Duration::MAX, Duration::ZERO), u32::MAX);
    }
}

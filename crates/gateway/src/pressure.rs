//! Overload protection: how close a lane is to its limits, and what it does about it.
//!
//! There are two budgets: the memory of the process, and the time that messages wait for a lane. As the load
//! approaches either budget, the lane first lowers the rate of `latest` and `rate` subscriptions, which lose
//! nothing by it, then rejects new sessions, then closes existing ones, a few at a time and with a time after
//! which to reconnect.
//!
//! Memory may be full of data that the shards keep, and then closing sessions frees little. The shards therefore
//! refuse first new topics and then publishes, below the level at which sessions are touched
//! (`pushonce_shard::NodeTopics`), and a session is closed for memory only while the sessions hold more than the
//! shards do. New sessions are rejected well before existing ones are closed: existing sessions cost little, and
//! the distance between the two levels is the operator's time to act. Beyond the budget the system would end the
//! process, and all sessions with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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
const HYSTERESIS_PERMILLE: u32 = 40;

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

/// Memory of one session as counted against the shards, in bytes: the state of the session, and for a slow reader
/// its queued frames. An idle session takes a third of it.
const SESSION_BYTES: u64 = 32 << 10;

/// The memory use of the process, as reported by the node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryUse(Arc<MemoryCounters>);

#[derive(Debug, Default)]
struct MemoryCounters {
    permille: AtomicU32,
    /// Bytes that shards hold.
    stored_bytes: AtomicU64,
}

impl MemoryUse {
    /// Reports that `used` of `max` bytes are in use, and that the shards hold `stored` of them. A `max` of zero
    /// means no limit. Returns the used share, in thousandths.
    pub fn set(&self, used: u64, max: u64, stored: u64) -> u32 {
        let thousandths = (u128::from(used) * 1_000).checked_div(max.into()).unwrap_or(0);
        let permille = u32::try_from(thousandths).unwrap_or(u32::MAX);
        self.0.permille.store(permille, Ordering::Relaxed);
        self.0.stored_bytes.store(stored, Ordering::Relaxed);
        permille
    }

    /// The used share, in thousandths.
    pub(crate) fn permille(&self) -> u32 {
        self.0.permille.load(Ordering::Relaxed)
    }

    /// The share that counts for sessions, of which this node has `sessions`: below the level at which they are closed
    /// while the shards hold more than they do.
    pub(crate) fn permille_for_sessions(&self, sessions: usize) -> u32 {
        let session_bytes = (sessions as u64).saturating_mul(SESSION_BYTES);
        match session_bytes < self.0.stored_bytes.load(Ordering::Relaxed) {
            true => self.permille().min(SHED_PERMILLE - HYSTERESIS_PERMILLE - 1),
            false => self.permille(),
        }
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
            [0, 849, 850, 820, 810, 809].map(&mut update),
            [Normal, Normal, Throttle, Throttle, Throttle, Normal]
        );
        assert_eq!([949, 950, 911, 909].map(&mut update), [Throttle, Reject, Reject, Throttle]);
        assert_eq!(
            [999, 1_000, 961, 959, 10_000].map(&mut update),
            [Reject, Shed, Shed, Reject, Shed]
        );
        assert_eq!([820, 809].map(&mut update), [Throttle, Normal]);
    }

    #[test]
    fn memory_without_a_limit_has_no_pressure() {
        let memory = MemoryUse::default();
        assert_eq!(memory.set(u64::MAX, 0, 0), 0);
        assert_eq!(memory.set(u64::MAX, 1, 0), u32::MAX);
        assert_eq!(memory.set(3 << 30, 4 << 30, 0), 750);
        assert_eq!(memory.permille(), 750);
    }

    #[test]
    fn sessions_are_not_closed_for_memory_that_shards_hold() {
        let (memory, sessions) = (MemoryUse::default(), 1_000);
        let held = SESSION_BYTES * sessions as u64;
        let mut load = LoadTracker::default();
        let mut level = |stored| {
            memory.set(2 << 30, 1 << 30, stored);
            load.update(memory.permille_for_sessions(sessions))
        };
        assert_eq!(level(held + 1), Pressure::Reject);
        assert_eq!(level(held), Pressure::Shed);
        assert_eq!(level(held + 1), Pressure::Reject, "it ends when the shards hold more");
        assert_eq!(memory.permille_for_sessions(0), SHED_PERMILLE - HYSTERESIS_PERMILLE - 1);
    }

    #[test]
    fn permille_of_a_duration_saturates() {
        assert_eq!(permille(Duration::from_secs(1), BACKLOG_MAX), 500);
        assert_eq!(permille(Duration::MAX, Duration::ZERO), u32::MAX);
    }
}

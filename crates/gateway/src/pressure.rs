//! How near a node is to what it can bear, and what its sessions feel of that.
//!
//! Two budgets: the memory of the process, and how long news waits for a lane. Near the end of either,
//! those who take the newest alone get it less often, which nobody loses anything by; nearer, nobody
//! new is taken in; at the end sessions are sent away, a few at a time, and told when to come back.
//!
//! Memory may be full of what the shards keep, and then no session that leaves makes room. So the doors
//! close long before anybody is sent away: those who watch go on watching, which costs little, and what
//! is left between the two is what the operator has to act in. At the budget itself the system would
//! end the process, and send everybody away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What is done about the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// Nothing.
    #[default]
    Normal,
    /// Who takes the newest alone gets it at most every [`THROTTLE_INTERVAL`].
    Throttle,
    /// No new sessions are taken in.
    Reject,
    /// Sessions are sent away.
    Shed,
}

/// How long a subscription of `latest` or `rate` rests after each message under [`Pressure::Throttle`]. A
/// viewer of a score does not see the difference between ten and two changes a second; half of a
/// second is still "now".
pub(crate) const THROTTLE_INTERVAL: Duration = Duration::from_millis(500);

/// News that waits so long for its lane is the whole budget of a backlog. Rings hold a thousand
/// messages: a lane that is further behind loses them for everybody.
pub(crate) const BACKLOG_MAX: Duration = Duration::from_secs(2);

/// Shares of a budget, in thousandths: from where on each measure is taken, and how far the load must
/// fall below that for it to end. Without the slack the lane would change its mind with every tick.
const THROTTLE_PERMILLE: u32 = 850;
const REJECT_PERMILLE: u32 = 950;
const SHED_PERMILLE: u32 = 1_000;
const HYSTERESIS_PERMILLE: u32 = 50;

/// What is used of a budget, in thousandths.
pub(crate) fn permille(used: Duration, budget: Duration) -> u32 {
    let thousandths = used.as_nanos() * 1_000 / budget.as_nanos().max(1);
    u32::try_from(thousandths).unwrap_or(u32::MAX)
}

/// Follows the load, with slack.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadTracker(Pressure);

impl LoadTracker {
    /// The load is now so many thousandths of its budget. What to do about it.
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

/// How much of its memory the process uses, as somebody outside says it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryUse(Arc<AtomicU32>);

impl MemoryUse {
    /// Says that `used` of `max` bytes are used. Zero for `max` is no bound.
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

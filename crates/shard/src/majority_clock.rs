//! The log's own time: what a majority of the voters' clocks have passed.
//!
//! Retention, expiry and the windows of deduplication are measured in the times that entries carry. If
//! these were the owner's wall clock, one wrong clock could expire messages that are seconds old on
//! every replica. So the owner stamps an entry with the largest time `t` such that the clocks of a
//! majority of the voters show `t` or more. A minority of fast clocks cannot raise that value, because
//! the majority contains a correct clock that shows less; a minority of slow or unknown clocks cannot
//! lower it, because a majority of correct clocks remains.
//!
//! A clock that is not known counts as the lowest. When fewer clocks than a majority are known, the time
//! goes on from the last majority by this node's monotonic clock. An owner that has never known a
//! majority has no time: a time that it made up might be far behind, and the next one that a majority
//! confirms would expire what was stamped in between.
//!
//! A log may be ahead of the majority, because the majority of its clocks was. Its time never goes back;
//! it then advances at half speed, so that nothing stops expiring and the lead shrinks.

use std::time::Duration;

use pushonce_core::Timestamp;

/// How much slower the time of a log advances that is ahead of its clocks. At 2, a lead of a day is gone
/// after two days, and a message is kept at most twice as long as its namespace says.
const SLOWDOWN_FACTOR: u32 = 2;

/// The time of one shard's log, as this node would stamp the next entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct MajorityClock {
    /// The last majority.
    last_majority: Option<ClockReading>,
    /// Where the log stood when it was first found to be ahead of the majority.
    ahead_since: Option<ClockReading>,
}

/// What a clock showed at a moment of this node's monotonic clock.
#[derive(Clone, Copy, Debug)]
struct ClockReading {
    time: Timestamp,
    read_at: Duration,
}

impl ClockReading {
    /// What the clock shows at `now` if it runs `slowdown` times slower than the monotonic one.
    fn extrapolate(self, now: Duration, slowdown: u32) -> Timestamp {
        let elapsed = now.saturating_sub(self.read_at) / slowdown;
        let passed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.time.0.saturating_add(passed))
    }
}

impl MajorityClock {
    /// The time of an entry that is proposed at `now`, by the monotonic clock, behind a log whose last
    /// entry has the time `floor`. `majority_time` is what [`majority_time`] says of the voters' clocks. Never below
    /// `floor`; `NoFault` while no majority was known since this node started.
    pub(crate) fn next_entry_time(
        &mut self,
        floor: Timestamp,
        now: Duration,
        majority: Option<Timestamp>,
    ) -> Option<Timestamp> {
        if let Some(time) = majority {
            self.last_majority = Some(ClockReading { time, read_at: now });
        }
        let time = self.last_majority?.extrapolate(now, 1);
        if time >= floor {
            self.ahead_since = None;
            return Some(time);
        }
        let slowed = self.ahead_since.map(|ahead| ahead.extrapolate(now, SLOWDOWN_FACTOR));
        match slowed.filter(|slowed| *slowed >= floor) {
            Some(slowed) => Some(slowed),
            // Another owner took it further meanwhile, or it was not ahead before.
            None => {
                self.ahead_since = Some(ClockReading { time: floor, read_at: now });
                Some(floor)
            }
        }
    }
}

/// The largest time that the clocks of a majority have reached; `NoFault` when fewer than a majority are
/// known.
pub(crate) fn majority_time(
    readings: impl IntoIterator<Item = Option<Timestamp>>,
) -> Option<Timestamp> {
    let mut readings: Vec<_> = readings.into_iter().collect();
    let quorum = readings.len() / 2 + 1;
    readings.sort_unstable_by(|a, b| b.cmp(a));
    readings.get(quorum - 1).copied().flatten()
}

#[cfg(test)]
mod majority_clock_test;

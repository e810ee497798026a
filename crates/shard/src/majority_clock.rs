//! Log time: the time that a majority of the voters' clocks have reached.
//!
//! Retention, expiry and the deduplication window are measured in the times that entries carry. If these
//! were the owner's wall clock, one wrong clock could expire messages that are seconds old on every
//! replica. So the owner stamps an entry with the largest time `t` such that the clocks of a majority of
//! the voters show `t` or more. A minority of fast clocks cannot raise that value, because the majority
//! contains a correct clock that shows less; a minority of slow or unknown clocks cannot lower it, because
//! a majority of correct clocks remains.
//!
//! An unknown clock counts as the lowest. When fewer clocks than a majority are known, the time continues
//! from the last majority by this node's monotonic clock. An owner that has never known a majority has no
//! time: a guessed time might be far behind, and the next one confirmed by a majority would expire the
//! messages stamped in between.
//!
//! A log can be ahead of the majority, because the majority of its clocks was. Log time never decreases; it
//! then advances at half speed, so that expiry continues and the lead shrinks.

use std::time::Duration;

use pushonce_core::{CoverageMark, Timestamp};

/// Factor by which the time of a log that is ahead of its clocks is slowed down. At 2, a lead of a day is
/// gone after two days, and a message is kept at most twice as long as its namespace says.
const SLOWDOWN_FACTOR: u32 = 2;

/// The time of one shard's log, as this node would stamp the next entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct MajorityClock {
    /// The last known majority time.
    last_majority: Option<ClockReading>,
    /// The log time at the moment it was first found to be ahead of the majority.
    ahead_since: Option<ClockReading>,
}

/// A clock time and the monotonic time of this node at which it was read.
#[derive(Clone, Copy, Debug)]
struct ClockReading {
    time: Timestamp,
    read_at: Duration,
}

impl ClockReading {
    /// The clock's time at `now` if it runs `slowdown` times slower than the monotonic clock.
    fn extrapolate(self, now: Duration, slowdown: u32) -> Timestamp {
        let elapsed = now.saturating_sub(self.read_at) / slowdown;
        let passed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.time.0.saturating_add(passed))
    }
}

impl MajorityClock {
    /// The time of an entry that is proposed at the monotonic time `now`, after a log whose last entry has
    /// the time `floor`. `majority` is the [`majority_time`] of the voters' clocks. Never below `floor`;
    /// `None` while no majority has been known since this node started.
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
        CoverageMark::OwnerClockBehind.reach();
        let slowed = self.ahead_since.map(|ahead| ahead.extrapolate(now, SLOWDOWN_FACTOR));
        match slowed.filter(|slowed| *slowed >= floor) {
            Some(slowed) => Some(slowed),
            // The log was not ahead before, or another owner advanced it meanwhile.
            None => {
                self.ahead_since = Some(ClockReading { time: floor, read_at: now });
                Some(floor)
            }
        }
    }
}

/// The largest time that a majority of the clocks have reached; `None` when fewer than a majority are known.
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

//! Deduplication time of a shard, advanced by the times of its entries.
//!
//! Entries carry log time, which no single clock can advance. Log time advances while the whole cluster is
//! down, though, and a publisher that retries after the outage was down as long. So the deduplication
//! records are kept by the time that passes from entry to entry, of which each step counts for at most a
//! minute: an outage takes at most a minute from the window, however long it lasts.

use pushonce_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::rules::ShardRules;

/// How long deduplication records are kept, in milliseconds: five minutes, many times the deadline of every
/// client that retries by itself, and enough for a process that is restarted.
pub(crate) const DEDUPE_WINDOW_MS: u64 = 5 * 60_000;

/// Maximum advance of one step between two entries, in milliseconds. A shard with an entry a minute
/// measures the true time; a quieter one keeps records longer, and has the memory for them.
pub(crate) const CLOCK_STEP_MAX_MS: u64 = 60_000;

const _: () = assert!(CLOCK_STEP_MAX_MS * 5 <= DEDUPE_WINDOW_MS);

/// Milliseconds that have passed for the shard. Never decreases.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(crate) struct LogTime(u64);

/// The clock of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogClock {
    now: LogTime,
    /// The time of the last entry.
    last_entry_time: Option<Timestamp>,
    #[serde(skip)]
    rules: &'static ShardRules,
}

impl LogClock {
    /// Applies `rules` from now on.
    pub(crate) fn set_rules(&mut self, rules: &'static ShardRules) {
        self.rules = rules;
    }

    /// Advances the clock to the entry with the log time `time`, and returns the new time.
    pub(crate) fn advance_to(&mut self, time: Timestamp) -> LogTime {
        let step = self.last_entry_time.map_or(0, |last| time.0.saturating_sub(last.0));
        self.now = LogTime(self.now.0.saturating_add(step.min(self.rules.clock_step_max_ms)));
        self.last_entry_time = Some(time);
        self.now
    }

    /// The time of the last entry.
    pub(crate) fn now(&self) -> LogTime {
        self.now
    }
}

impl LogTime {
    /// Whether more than the window lies between this time and `now`.
    pub(crate) fn is_outside_window(self, now: LogTime, window_ms: u64) -> bool {
        now.0.saturating_sub(self.0) > window_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_times(times: &[u64]) -> Vec<u64> {
        let mut clock = LogClock::default();
        times.iter().map(|&time| clock.advance_to(Timestamp(time)).0).collect()
    }

    #[test]
    fn log_clock_advances_with_the_entry_times() {
        assert_eq!(
            log_times(&[1_790_000_000_000, 1_790_000_000_500, 1_790_000_060_500]),
            [0, 500, 60_500]
        );
    }

    #[test]
    fn clock_jump_advances_log_time_by_at_most_a_minute() {
        assert_eq!(log_times(&[1_000, 9_000_000_000, 9_000_000_010]), [0, 60_000, 60_010]);
        assert_eq!(log_times(&[9_000_000_000, 1_000, 1_010, u64::MAX]), [0, 0, 10, 60_010]);
    }

    #[test]
    fn dedupe_window_is_five_minutes() {
        assert!(!LogTime(7).is_outside_window(LogTime(7 + DEDUPE_WINDOW_MS), DEDUPE_WINDOW_MS));
        assert!(LogTime(7).is_outside_window(LogTime(8 + DEDUPE_WINDOW_MS), DEDUPE_WINDOW_MS));
    }
}

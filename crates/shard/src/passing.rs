//! Time as a shard's entries tell it.
//!
//! Entries carry log time, which no single clock can push. It advances while the whole cluster is down,
//! though, and a publisher that retries afterwards was down for as long. So what makes retries safe is
//! kept by the time that passes from entry to entry, of which no step counts for more than a minute: an
//! outage takes a minute from the window, however long it lasts.

use pushonce_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::rules::Rules;

/// How long what makes retries safe is kept, in milliseconds: five minutes, many times the deadline
/// of every client that retries by itself, and long enough for a process that is started again.
pub(crate) const WINDOW_MS: u64 = 5 * 60_000;

/// The most that one step between two entries counts for. A shard with an entry a minute measures
/// right; a quieter one keeps things longer, and has the room.
pub(crate) const STEP_MAX_MS: u64 = 60_000;

const _: () = assert!(STEP_MAX_MS * 5 <= WINDOW_MS);

/// So many milliseconds have passed for the shard. Never falls.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(crate) struct Moment(u64);

/// The shard's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passing {
    now: Moment,
    /// The time of the last entry.
    last: Option<Timestamp>,
    #[serde(skip)]
    rules: &'static Rules,
}

impl Passing {
    /// These are the constants from now on.
    pub(crate) fn keep_to(&mut self, rules: &'static Rules) {
        self.rules = rules;
    }

    /// The moment of the next entry, whose log time is `time`.
    pub(crate) fn at(&mut self, time: Timestamp) -> Moment {
        let step = self.last.map_or(0, |last| time.0.saturating_sub(last.0));
        self.now = Moment(self.now.0.saturating_add(step.min(self.rules.step_max_ms)));
        self.last = Some(time);
        self.now
    }

    /// The moment of the last entry.
    pub(crate) fn now(&self) -> Moment {
        self.now
    }
}

impl Moment {
    /// Whether more than the window lies between this moment and `now`.
    pub(crate) fn is_past(self, now: Moment, window_ms: u64) -> bool {
        now.0.saturating_sub(self.0) > window_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(times: &[u64]) -> Vec<u64> {
        let mut passing = Passing::default();
        times.iter().map(|&time| passing.at(Timestamp(time)).0).collect()
    }

    #[test]
    fn time_passes_as_the_entries_say() {
        assert_eq!(
            moments(&[1_790_000_000_000, 1_790_000_000_500, 1_790_000_060_500]),
            [0, 500, 60_500]
        );
    }

    #[test]
    fn a_clock_that_is_set_takes_a_minute_at_most() {
        assert_eq!(moments(&[1_000, 9_000_000_000, 9_000_000_010]), [0, 60_000, 60_010]);
        assert_eq!(moments(&[9_000_000_000, 1_000, 1_010, u64::MAX]), [0, 0, 10, 60_010]);
    }

    #[test]
    fn the_window_is_five_minutes() {
        assert!(!Moment(7).is_past(Moment(7 + WINDOW_MS), WINDOW_MS));
        assert!(Moment(7).is_past(Moment(8 + WINDOW_MS), WINDOW_MS));
    }
}

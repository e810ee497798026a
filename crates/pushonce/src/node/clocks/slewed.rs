//! The clock of this node: it follows the wall clock and never jumps.

use std::time::Duration;

/// The maximum slew is this fraction of the elapsed time. An age that is measured meanwhile is wrong by at
/// most an eighth, so a step of the wall clock, of any size, expires nothing that is younger than seven
/// eighths of its retention. A step of one second is followed within eight seconds, a step of one hour
/// within eight hours; a clock that was a day wrong when the node started is better corrected by a restart.
const SLEW_DIVISOR: u32 = 8;

/// A clock that starts at the wall time and advances with the monotonic clock, slightly faster or slower
/// while it differs from the wall clock.
#[derive(Debug)]
pub(super) struct SlewedClock {
    /// The time that was shown last, since the Unix epoch.
    last_shown: Duration,
    /// The time of the monotonic clock at the last reading.
    last_read_at: Duration,
}

impl SlewedClock {
    /// `wall` is the wall time since the Unix epoch; `now` is the time of the monotonic clock.
    pub(super) fn new(wall: Duration, now: Duration) -> SlewedClock {
        SlewedClock { last_shown: wall, last_read_at: now }
    }

    /// The time to show now, since the Unix epoch. Never less than before.
    pub(super) fn read(&mut self, wall: Duration, now: Duration) -> Duration {
        let elapsed = now.saturating_sub(self.last_read_at);
        let steady = self.last_shown.saturating_add(elapsed);
        let slew = elapsed / SLEW_DIVISOR;
        // `clamp` panics if its bounds cross; these cannot.
        let shown = wall.max(steady.saturating_sub(slew)).min(steady.saturating_add(slew));
        *self = SlewedClock { last_shown: shown, last_read_at: self.last_read_at.max(now) };
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Reads a clock that starts at one day, every 10 ms for `time`, with the wall clock at `wall_at`.
    fn shown_after(time: Duration, wall_at: impl Fn(Duration) -> Duration) -> Duration {
        let mut clock = SlewedClock::new(DAY, secs(7));
        let (mut passed, mut shown) = (Duration::ZERO, DAY);
        while passed < time {
            passed += Duration::from_millis(10);
            let read = clock.read(wall_at(passed), secs(7) + passed);
            assert!(read >= shown, "the clock went back");
            shown = read;
        }
        shown
    }

    #[test]
    fn step_of_the_wall_clock_is_followed_gradually() {
        let ahead = shown_after(secs(8), |passed| 3 * DAY + passed);
        assert_eq!(ahead, DAY + secs(9));
        let behind = shown_after(secs(8), |passed| passed);
        assert_eq!(behind, DAY + secs(7));
    }

    #[test]
    fn reverted_step_of_the_wall_clock_leaves_no_offset() {
        let stepped = |passed| match passed > secs(8) {
            true => DAY + passed,
            false => DAY + HOUR + passed,
        };
        assert_eq!(shown_after(secs(20), stepped), DAY + secs(20));
    }

    #[test]
    fn drifting_wall_clock_is_followed() {
        let drifting = |passed: Duration| DAY + passed + passed / 1_000;
        assert_eq!(shown_after(secs(100), drifting), drifting(secs(100)));
    }

    #[test]
    fn frequent_reads_do_not_lose_time() {
        let mut clock = SlewedClock::new(DAY, secs(0));
        let mut shown = DAY;
        for micros in 1..=100_000 {
            let passed = Duration::from_micros(micros);
            shown = clock.read(DAY + HOUR, passed);
        }
        assert_eq!(shown, DAY + Duration::from_micros(112_500));
    }
}

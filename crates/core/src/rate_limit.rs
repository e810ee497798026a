//! Rate limits with one number of state.

use std::time::Duration;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// A rate in units a second, and how many units may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Nanoseconds of one unit; 0 for no limit.
    interval: u64,
    /// Nanoseconds of a full burst.
    burst: u64,
}

/// The state of a [`RateLimit`] by the generic cell rate algorithm (GCRA, ITU-T I.371): the time at which
/// everything accepted so far is spread out at the rate. Times are nanoseconds since any fixed start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gcra(u64);

impl RateLimit {
    /// Allows `per_second` units a second, at most 10⁹, and `burst` at once. A rate of 0 is no limit.
    pub const fn new(per_second: u32, burst: u32) -> RateLimit {
        let interval = match per_second {
            0 => 0,
            rate if rate as u64 >= SECOND => 1,
            rate => SECOND / rate as u64,
        };
        RateLimit { interval, burst: interval.saturating_mul(burst as u64) }
    }
}

impl Gcra {
    /// Takes `units` if the limit allows them at `now`.
    ///
    /// # Errors
    /// How long to wait before the same units are allowed. Nothing is taken then.
    pub fn try_take(&mut self, limit: RateLimit, units: u32, now: u64) -> Result<(), Duration> {
        let next = self.after(limit, units, now);
        let excess = next.saturating_sub(now).saturating_sub(limit.burst);
        if excess > 0 {
            return Err(Duration::from_nanos(excess));
        }
        self.0 = next;
        Ok(())
    }

    /// Takes `units` that were already spent, and returns how long to wait before more may be spent.
    pub fn take(&mut self, limit: RateLimit, units: u32, now: u64) -> Duration {
        self.0 = self.after(limit, units, now);
        Duration::from_nanos(self.0.saturating_sub(now).saturating_sub(limit.burst))
    }

    /// Whether the state equals a new one at `now`.
    pub fn is_idle(self, now: u64) -> bool {
        self.0 <= now
    }

    fn after(self, limit: RateLimit, units: u32, now: u64) -> u64 {
        self.0.max(now).saturating_add(limit.interval.saturating_mul(u64::from(units)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit::new(10, 3);

    #[test]
    fn burst_is_allowed_and_then_the_rate() {
        let mut state = Gcra::default();
        for _ in 0..3 {
            assert_eq!(state.try_take(LIMIT, 1, SECOND), Ok(()));
        }
        let wait = Duration::from_millis(100);
        assert_eq!(state.try_take(LIMIT, 1, SECOND), Err(wait));
        assert_eq!(state.try_take(LIMIT, 1, SECOND + 40_000_000), Err(Duration::from_millis(60)));
        assert_eq!(state.try_take(LIMIT, 1, SECOND + 100_000_000), Ok(()));
        assert_eq!(state.try_take(LIMIT, 1, SECOND + 100_000_000), Err(wait));
        assert!(!state.is_idle(SECOND + 399_999_999) && state.is_idle(SECOND + 400_000_000));
    }

    #[test]
    fn spent_units_delay_the_next() {
        let mut state = Gcra::default();
        assert_eq!(state.take(LIMIT, 3, 0), Duration::ZERO);
        assert_eq!(state.take(LIMIT, 5, 0), Duration::from_millis(500));
        assert_eq!(state.take(LIMIT, 0, 500_000_000), Duration::ZERO);
    }

    #[test]
    fn rate_of_zero_is_no_limit_and_extremes_do_not_overflow() {
        let mut state = Gcra::default();
        assert_eq!(state.try_take(RateLimit::new(0, 0), u32::MAX, 5), Ok(()));
        assert_eq!(state.take(RateLimit::new(1, u32::MAX), u32::MAX, u64::MAX), Duration::ZERO);
        assert!(state.take(RateLimit::new(u32::MAX, 1), u32::MAX, 0) > Duration::ZERO);
    }
}

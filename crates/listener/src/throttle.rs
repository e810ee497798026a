//! Limits log lines to one a second for all listeners of the process.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Allows one event in each interval, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    /// Milliseconds since the start of the process, before which no event is allowed.
    next_allowed_ms: AtomicU64,
    suppressed: AtomicU64,
}

const INTERVAL_MS: u64 = 1_000;

/// The throttle of this process.
pub(crate) static LOG_THROTTLE: LogThrottle =
    LogThrottle { next_allowed_ms: AtomicU64::new(0), suppressed: AtomicU64::new(0) };

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl LogThrottle {
    /// Whether the event is allowed. If it is, returns the number of events suppressed since the last one.
    pub(crate) fn allow(&self) -> Option<u64> {
        self.allow_at(START.elapsed())
    }

    fn allow_at(&self, now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let next_allowed_ms = self.next_allowed_ms.load(Ordering::Relaxed);
        let after = now.saturating_add(INTERVAL_MS);
        let is_allowed = now >= next_allowed_ms
            && self
                .next_allowed_ms
                .compare_exchange(next_allowed_ms, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_allowed {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_per_second_is_allowed_with_the_suppressed_count() {
        let throttle = LogThrottle::default();
        let mut allow = |ms| throttle.allow_at(Duration::from_millis(ms));
        assert_eq!([0, 1, 999].map(&mut allow), [Some(0), None, None]);
        assert_eq!([1_000, 1_001].map(&mut allow), [Some(2), None]);
        assert_eq!(allow(60_000), Some(1));
    }
}

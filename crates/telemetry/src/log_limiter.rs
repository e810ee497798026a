//! Bounds the rate of one log line.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Allows one log line in each [`LogLimiter::INTERVAL`] and counts the lines that it suppresses.
///
/// Shared by reference between threads; usually a `static` beside the line, or a field of what
/// repeats it, so that one peer does not hide the line about another.
#[derive(Debug)]
pub struct LogLimiter {
    /// Milliseconds after [`EPOCH`]; no line is allowed before.
    next_allowed_ms: AtomicU64,
    suppressed: AtomicU64,
}

/// A [`LogLimiter`] counts milliseconds from the first use of any of them.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl LogLimiter {
    /// Ten seconds: a line that repeats all day is 8,640 lines, which a person can still read past.
    pub const INTERVAL: Duration = Duration::from_secs(10);

    /// A limiter that allows the first line.
    pub const fn new() -> LogLimiter {
        LogLimiter { next_allowed_ms: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Whether the line may be logged at `now`. `Some` holds the number of lines that were suppressed
    /// since the last allowed one, to be logged as the field `suppressed`.
    pub fn allow(&self, now: Instant) -> Option<u64> {
        self.allow_at(now.saturating_duration_since(*EPOCH))
    }

    fn allow_at(&self, now: Duration) -> Option<u64> {
        let now_ms = as_millis(now);
        let next_allowed_ms = self.next_allowed_ms.load(Ordering::Relaxed);
        let after_ms = now_ms.saturating_add(as_millis(Self::INTERVAL));
        // Of several threads at once, the one that moves the bound logs.
        let is_allowed = now_ms >= next_allowed_ms
            && self
                .next_allowed_ms
                .compare_exchange(next_allowed_ms, after_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_allowed {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Default for LogLimiter {
    fn default() -> LogLimiter {
        LogLimiter::new()
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_is_allowed_with_the_suppressed_count() {
        let limiter = LogLimiter::new();
        let start = Instant::now();
        let mut allow = |ms| limiter.allow(start + Duration::from_millis(ms));
        assert_eq!([0, 1, 9_000].map(&mut allow), [Some(0), None, None]);
        assert_eq!([10_001, 10_002].map(&mut allow), [Some(2), None]);
        assert_eq!(allow(60_000), Some(1));
    }
}

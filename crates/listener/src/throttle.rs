//! At most one log line a second, over all listeners of the process.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lets one event pass in each interval, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// Milliseconds; nothing passes before.
    next: AtomicU64,
    suppressed: AtomicU64,
}

const INTERVAL_MS: u64 = 1_000;

/// Of this process.
pub(crate) static LOG: Throttle =
    Throttle { next: AtomicU64::new(0), suppressed: AtomicU64::new(0) };

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Throttle {
    /// Whether the event passes, and then how many did not since the last that did.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(START.elapsed())
    }

    fn pass_at(&self, now: Duration) -> Option<u64> {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(INTERVAL_MS);
        let passes = now >= next
            && self
                .next
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if passes {
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
    fn one_event_a_second_passes_with_the_number_of_the_others() {
        let throttle = Throttle::default();
        let mut pass = |ms| throttle.pass_at(Duration::from_millis(ms));
        assert_eq!([0, 1, 999].map(&mut pass), [Some(0), None, None]);
        assert_eq!([1_000, 1_001].map(&mut pass), [Some(2), None]);
        assert_eq!(pass(60_000), Some(1));
    }
}

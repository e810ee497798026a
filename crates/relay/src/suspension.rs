//! [`SuspensionDetector`]: the times for which the machine was suspended.

use std::time::{Duration, Instant};

/// Compares a clock that counts suspensions with the monotonic clock, which does not.
#[derive(Debug)]
pub(crate) struct SuspensionDetector {
    elapsed: Duration,
    at: Instant,
}

/// The shortest suspension that counts: the two clocks are read one after the other, and the thread may wait for a
/// core in between.
const SUSPENSION_MIN: Duration = Duration::from_millis(100);

impl SuspensionDetector {
    /// A detector of suspensions after these readings of both clocks.
    pub(crate) fn new(elapsed: Duration, at: Instant) -> SuspensionDetector {
        SuspensionDetector { elapsed, at }
    }

    /// The suspension between the last readings and these, if there was one.
    pub(crate) fn detect(&mut self, elapsed: Duration, at: Instant) -> Option<Duration> {
        let before = std::mem::replace(self, SuspensionDetector::new(elapsed, at));
        let awake = at.saturating_duration_since(before.at);
        let suspended = elapsed.saturating_sub(before.elapsed).saturating_sub(awake);
        (suspended >= SUSPENSION_MIN).then_some(suspended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_that_the_monotonic_clock_misses_is_a_suspension() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut detector = SuspensionDetector::new(ms(7_000), start);
        assert_eq!(detector.detect(ms(7_250), start + ms(250)), None);
        assert_eq!(detector.detect(ms(10_350), start + ms(350)), Some(ms(3_000)));
        assert_eq!(
            detector.detect(ms(10_500), start + ms(450)),
            None,
            "50 ms are within the error"
        );
        assert_eq!(detector.detect(ms(10_500), start + ms(900)), None, "a clock that stands still");
    }
}

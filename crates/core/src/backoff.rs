//! Delays between the attempts of an operation that keeps failing.

use std::time::Duration;

/// Exponential backoff with full jitter: each delay is drawn between zero and a maximum that doubles with
/// each failure. Without jitter all clients of a node that died would reconnect at the same time, again and
/// again.
///
/// Not the crate `backon`: its jitter adds up to the delay itself to each delay, so the delays never fall
/// below their bound, while the protocol requires full jitter of its clients.
///
/// Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
///
/// ```
/// # use std::time::Duration;
/// use pushonce_core::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// assert_eq!(backoff.next_delay(0.5), Duration::from_millis(50));
/// assert_eq!(backoff.next_delay(0.5), Duration::from_millis(100));
/// backoff.reset();
/// assert_eq!(backoff.next_delay(0.5), Duration::from_millis(50));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

/// The number of doublings after which every useful maximum is reached: 2^16 times 1 ms is a minute.
const DOUBLINGS_MAX: u32 = 16;

impl Backoff {
    /// A backoff whose first delay is at most `initial`, and every delay at most `max`.
    pub const fn new(initial: Duration, max: Duration) -> Backoff {
        Backoff { initial, max, failures: 0 }
    }

    /// Records a failure and returns the delay before the next attempt. `sample` is a random number from
    /// 0 to 1, such as `rand::random()`; any other number counts as 1.
    pub fn next_delay(&mut self, sample: f64) -> Duration {
        let doublings = self.failures.min(DOUBLINGS_MAX);
        let delay_max = self.initial.saturating_mul(1 << doublings).min(self.max);
        self.failures = doublings + 1;
        let part = if (0.0..=1.0).contains(&sample) { sample } else { 1.0 };
        delay_max.mul_f64(part)
    }

    /// Like [`Backoff::next_delay`] after many failures, and never below the initial maximum, for a server
    /// that requested time.
    pub fn next_delay_long(&mut self, sample: f64) -> Duration {
        self.failures = DOUBLINGS_MAX;
        self.next_delay(sample).max(self.initial)
    }

    /// Records a success: the next failure counts as the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INITIAL: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(INITIAL, MAX);
        let delays: Vec<_> = (0..7).map(|_| backoff.next_delay(1.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_600, 3_200, 5_000]);
    }

    #[test]
    fn reset_restarts_at_the_initial_delay() {
        let mut backoff = Backoff::new(INITIAL, MAX);
        for _ in 0..10 {
            let _ = backoff.next_delay(1.0);
        }
        backoff.reset();
        assert_eq!(backoff.next_delay(1.0), INITIAL);
    }

    #[test]
    fn long_delay_is_at_the_maximum_from_the_first_failure_and_never_zero() {
        let backoff = Backoff::new(INITIAL, MAX);
        assert_eq!(backoff.clone().next_delay_long(1.0), MAX);
        assert_eq!(backoff.clone().next_delay_long(0.0), INITIAL);
    }

    proptest! {
        #[test]
        fn delay_is_the_sampled_part_of_its_maximum(failures in 0_u32..100, sample: f64) {
            let (mut backoff, mut other) = (Backoff::new(INITIAL, MAX), Backoff::new(INITIAL, MAX));
            for _ in 0..failures {
                let _ = (backoff.next_delay(sample), other.next_delay(1.0));
            }
            let (delay, delay_max) = (backoff.next_delay(sample), other.next_delay(1.0));
            prop_assert!(delay <= delay_max && delay_max <= MAX);
            if (0.0..=1.0).contains(&sample) {
                prop_assert_eq!(delay, delay_max.mul_f64(sample));
            }
        }
    }
}

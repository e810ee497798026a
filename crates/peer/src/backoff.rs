//! The delays between attempts to reach a peer.

use std::time::Duration;

use rand::Rng as _;

/// The first delay is short, so that a restarted node is reconnected at once. The longest delay is the
/// time that a returning node may have to wait.
const DELAY_MIN: Duration = Duration::from_millis(50);
const DELAY_MAX: Duration = Duration::from_secs(1);

/// Delays that double from attempt to attempt.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { next: DELAY_MIN }
    }

    /// Begins again with the shortest delay.
    pub(crate) fn reset(&mut self) {
        self.next = DELAY_MIN;
    }

    /// The next delay: a random part, between half and all, of the nominal one, so that nodes do not redial a
    /// lost peer together.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(DELAY_MAX);
        nominal.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_with_jitter_and_begin_again_after_a_reset() {
        let mut backoff = Backoff::new();
        for nominal in [50, 100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let delay = backoff.next_delay();
            assert!(nominal / 2 <= delay && delay <= nominal, "{delay:?} of {nominal:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= DELAY_MIN);
    }
}

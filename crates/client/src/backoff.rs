//! Delays between reconnects.

use std::time::Duration;

use rand::Rng;

/// Exponential backoff with full jitter: each delay is drawn between zero and a maximum that doubles with
/// each failure. Without jitter all clients of a node that died would reconnect at the same time, again and
/// again.
///
/// Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Maximum of the first delay.
    pub const INITIAL: Duration = Duration::from_millis(100);
    /// Maximum of every delay: after an operator restarts a node, its clients should return soon.
    pub const MAX: Duration = Duration::from_secs(5);

    /// Records a failure and returns the delay before the next attempt.
    pub fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let delay_max = Self::INITIAL.saturating_mul(1 << self.failures.min(16)).min(Self::MAX);
        self.failures += 1;
        delay_max.mul_f64(rng.random::<f64>())
    }

    /// Like [`Backoff::next_delay`], with [`Backoff::MAX`] as the maximum, for a server that requested
    /// time.
    pub fn next_delay_long(&mut self, rng: &mut impl Rng) -> Duration {
        self.failures = 16;
        self.next_delay(rng).max(Self::INITIAL)
    }

    /// Records a success: the next failure counts as the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_never_exceed_it() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut bounds = [Duration::ZERO; 12];
        for _ in 0..500 {
            let mut backoff = Backoff::default();
            for bound in &mut bounds {
                *bound = backoff.next_delay(&mut rng).max(*bound);
            }
        }
        assert!(bounds[0] <= Backoff::INITIAL);
        assert!(bounds[3] > Backoff::INITIAL * 4 && bounds[3] <= Backoff::INITIAL * 8);
        assert!(bounds.iter().all(|&bound| bound <= Backoff::MAX));
    }

    #[test]
    fn reset_restarts_at_the_initial_delay() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            let _ = backoff.next_delay(&mut rng);
        }
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) <= Backoff::INITIAL);
    }

    #[test]
    fn delays_of_many_clients_are_spread_by_jitter() {
        let mut rng = StdRng::seed_from_u64(3);
        let delays: Vec<_> = (0..1000).map(|_| Backoff::default().next_delay(&mut rng)).collect();
        let early = delays.iter().filter(|&&pause| pause < Backoff::INITIAL / 2).count();
        assert!((400..600).contains(&early), "{early}");
    }
}

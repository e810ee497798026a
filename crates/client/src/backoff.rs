//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng;

/// Exponential, with full jitter: each pause is drawn between nothing and a bound that doubles with
/// each failure. With the bound itself as the pause, all clients of a node that died would come back
/// in one moment, and again in the next.
///
/// Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The bound of the first pause.
    pub const INITIAL: Duration = Duration::from_millis(100);
    /// The bound that no pause passes: an operator who restarts a node should not wait for clients.
    pub const MAX: Duration = Duration::from_secs(5);

    /// One more failure: the pause before the next try.
    pub fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let delay_max = Self::INITIAL.saturating_mul(1 << self.failures.min(16)).min(Self::MAX);
        self.failures += 1;
        delay_max.mul_f64(rng.random::<f64>())
    }

    /// As [`Backoff::next_delay`], for a server that asked for time: the bound is the last at once.
    pub fn next_delay_long(&mut self, rng: &mut impl Rng) -> Duration {
        self.failures = 16;
        self.next_delay(rng).max(Self::INITIAL)
    }

    /// It worked: the next failure is the first again.
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

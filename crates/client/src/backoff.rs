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
    pub const FIRST: Duration = Duration::from_millis(100);
    /// The bound that no pause passes: an operator who restarts a node should not wait for clients.
    pub const LAST: Duration = Duration::from_secs(5);

    /// One more failure: the pause before the next try.
    pub fn fail(&mut self, rng: &mut impl Rng) -> Duration {
        let bound = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LAST);
        self.failures += 1;
        bound.mul_f64(rng.random::<f64>())
    }

    /// As [`Backoff::fail`], for a server that asked for time: the bound is the last at once.
    pub fn fail_later(&mut self, rng: &mut impl Rng) -> Duration {
        self.failures = 16;
        self.fail(rng).max(Self::FIRST)
    }

    /// It worked: the next failure is the first again.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_never_past_it() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut bounds = [Duration::ZERO; 12];
        for _ in 0..500 {
            let mut backoff = Backoff::default();
            for bound in &mut bounds {
                *bound = backoff.fail(&mut rng).max(*bound);
            }
        }
        assert!(bounds[0] <= Backoff::FIRST);
        assert!(bounds[3] > Backoff::FIRST * 4 && bounds[3] <= Backoff::FIRST * 8);
        assert!(bounds.iter().all(|&bound| bound <= Backoff::LAST));
    }

    #[test]
    fn success_begins_anew() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            let _ = backoff.fail(&mut rng);
        }
        backoff.succeed();
        assert!(backoff.fail(&mut rng) <= Backoff::FIRST);
    }

    #[test]
    fn many_clients_do_not_come_back_in_one_moment() {
        let mut rng = StdRng::seed_from_u64(3);
        let pauses: Vec<_> = (0..1000).map(|_| Backoff::default().fail(&mut rng)).collect();
        let early = pauses.iter().filter(|&&pause| pause < Backoff::FIRST / 2).count();
        assert!((400..600).contains(&early), "{early}");
    }
}

//! Random numbers that follow from the seed.

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// A sequence of random numbers.
pub(super) struct Random(StdRng);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(StdRng::seed_from_u64(seed))
    }

    /// A sequence of its own: what one part draws does not change what another part gets.
    pub(super) fn fork(&mut self) -> Random {
        Random::new(self.0.random())
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        if end <= 1 { 0 } else { self.0.random_range(0..end) }
    }

    /// True in `per_mille` of 1,000 cases.
    pub(super) fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.0.random_range(0..1_000) < per_mille
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

//! Counts of latencies by bucket, and what is read from them.

use std::collections::BTreeMap;

/// Stands for the bucket without an upper bound: longer than every bound, and than any publish waits.
const UNBOUNDED_MICROS: u64 = 60_000_000;

/// Observations by the upper bound of their bucket, in microseconds. Buckets of several metrics may be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LatencyCounts(BTreeMap<u64, u64>);

/// The latencies of a second: upper bounds of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LatencySummary {
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

impl LatencyCounts {
    /// Adds observations of a bucket up to `seconds`.
    pub(super) fn add(&mut self, seconds: f64, count: u64) {
        let micros = (seconds * 1e6).round();
        let bound = if micros.is_finite() { micros as u64 } else { UNBOUNDED_MICROS };
        *self.0.entry(bound).or_default() += count;
    }

    /// The observations since `earlier`.
    pub(super) fn since(&self, earlier: &LatencyCounts) -> LatencyCounts {
        let new = |(bound, count): (&u64, &u64)| {
            let before = earlier.0.get(bound).copied().unwrap_or(0);
            (*bound, count.saturating_sub(before))
        };
        LatencyCounts(self.0.iter().map(new).collect())
    }

    /// `None` without observations.
    pub(super) fn summary(&self) -> Option<LatencySummary> {
        Some(LatencySummary { p50_us: self.quantile(50)?, p99_us: self.quantile(99)? })
    }

    /// The upper bound of the bucket with this percentile.
    fn quantile(&self, percent: u64) -> Option<u64> {
        let total: u64 = self.0.values().sum();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut count = 0;
        let found = self.0.iter().find(|(_, observed)| {
            count += **observed;
            count >= rank
        });
        found.map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_bounds_of_the_buckets_of_the_new_observations() {
        let mut earlier = LatencyCounts::default();
        earlier.add(0.001, 1_000);
        let mut counts = earlier.clone();
        assert_eq!(counts.since(&earlier).summary(), None);
        counts.add(0.001, 60);
        counts.add(0.01, 39);
        counts.add(f64::INFINITY, 1);
        let expected = LatencySummary { p50_us: 1_000, p99_us: 10_000 };
        assert_eq!(counts.since(&earlier).summary(), Some(expected));
        counts.add(f64::INFINITY, 1);
        let slow = counts.since(&earlier).summary().expect("observations");
        assert_eq!(slow.p99_us, UNBOUNDED_MICROS);
    }
}

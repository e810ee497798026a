//! The activity of this node over the last minutes: one sample a second in a buffer of fixed size.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::latency::LatencySummary;

/// Number of samples that are kept: ten minutes, 80 KB.
pub(super) const SECONDS_MAX: u32 = 600;

/// What a node did in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Seconds since the Unix epoch.
    pub(super) second: u64,
    pub(super) published: u64,
    pub(super) rejected: u64,
    pub(super) delivered: u64,
    pub(super) sent_bytes: u64,
    pub(super) sessions: u64,
    pub(super) subscriptions: u64,
    pub(super) publish: Option<LatencySummary>,
    pub(super) delivery: Option<LatencySummary>,
}

/// The samples of this node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::node) struct SampleHistory(Arc<Mutex<VecDeque<Sample>>>);

impl SampleHistory {
    /// Adds a sample, and drops the oldest. After the clock was set back, the samples of the future are dropped.
    pub(super) fn push(&self, sample: Sample) {
        let mut samples = self.samples();
        while samples.back().is_some_and(|newest| newest.second >= sample.second) {
            samples.pop_back();
        }
        if samples.len() >= SECONDS_MAX as usize {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The newest `count_max` samples, ordered by time.
    pub(super) fn newest(&self, count_max: u32) -> Vec<Sample> {
        let samples = self.samples();
        let skipped = samples.len().saturating_sub(count_max as usize);
        samples.iter().skip(skipped).copied().collect()
    }

    /// Ignores poisoning: each change of the samples is complete at any panic.
    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(history: &SampleHistory, count_max: u32) -> Vec<u64> {
        history.newest(count_max).iter().map(|sample| sample.second).collect()
    }

    #[test]
    fn history_keeps_the_newest_samples_in_order() {
        let history = SampleHistory::default();
        let push = |second| history.push(Sample { second, ..Sample::default() });
        (1..=u64::from(SECONDS_MAX) + 5).for_each(push);
        assert_eq!(seconds(&history, SECONDS_MAX).len(), SECONDS_MAX as usize);
        assert_eq!(seconds(&history, 2), [604, 605]);
        push(602);
        assert_eq!(seconds(&history, 3), [600, 601, 602], "the clock was set back");
    }
}

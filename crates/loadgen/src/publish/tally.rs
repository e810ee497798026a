//! Counts the outcomes of a worker's publishes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pushonce_client::PublishFailure;
use pushonce_instruments::LatencyHistogram;

/// The counts of one worker, which the progress display reads.
#[derive(Default)]
pub(super) struct PublishTally(Mutex<PublishCounts>);

/// The outcomes of publishes. Publishes that were sent and have no outcome are in flight.
#[derive(Clone, Default)]
pub(crate) struct PublishCounts {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// The error of the first failed publish.
    pub(super) first_failure: Option<String>,
    /// Latency from the due time of a publish to its acknowledgement.
    pub(super) latency: LatencyHistogram,
}

impl PublishTally {
    pub(super) fn on_sent(&self) {
        self.lock().sent += 1;
    }

    pub(super) fn on_acknowledged(&self, latency: Duration) {
        let mut count = self.lock();
        count.acknowledged += 1;
        count.latency.record(latency);
    }

    pub(super) fn on_failed(&self, failure: &PublishFailure) {
        let mut count = self.lock();
        match failure {
            PublishFailure::Rejected { .. } => count.refused += 1,
            PublishFailure::Unknown(_) => count.unknown += 1,
        }
        count.first_failure.get_or_insert_with(|| failure.to_string());
    }

    pub(super) fn acknowledged_count(&self) -> u64 {
        self.lock().acknowledged
    }

    pub(super) fn add_to(&self, sum: &mut PublishCounts) {
        let count = self.lock();
        sum.sent += count.sent;
        sum.acknowledged += count.acknowledged;
        sum.refused += count.refused;
        sum.unknown += count.unknown;
        sum.latency.add(&count.latency);
        if sum.first_failure.is_none() {
            sum.first_failure.clone_from(&count.first_failure);
        }
    }

    fn lock(&self) -> MutexGuard<'_, PublishCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PublishCounts {
    pub(super) fn finished_count(&self) -> u64 {
        self.acknowledged + self.refused + self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_workers_add_up_and_the_first_failure_is_kept() {
        let (one, other) = (PublishTally::default(), PublishTally::default());
        (0..3).for_each(|_| one.on_sent());
        one.on_acknowledged(Duration::from_millis(1));
        one.on_failed(&PublishFailure::Unknown("the stream ended".to_owned()));
        one.on_failed(&PublishFailure::Unknown("another".to_owned()));
        other.on_sent();
        other.on_acknowledged(Duration::from_millis(1));
        let mut sum = PublishCounts::default();
        one.add_to(&mut sum);
        other.add_to(&mut sum);
        assert_eq!((sum.sent, sum.finished_count(), sum.acknowledged, sum.unknown), (4, 4, 2, 2));
        assert_eq!(sum.first_failure.as_deref(), Some("the outcome is unknown: the stream ended"));
    }
}

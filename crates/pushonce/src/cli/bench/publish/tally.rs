//! What came of a worker's publishes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pushonce_client::Failure;

use crate::instruments::Latency;

/// One worker's count: written by it, read by who shows the progress.
#[derive(Default)]
pub(super) struct Tally(Mutex<Count>);

/// How publishes ended. What was sent and has not ended is on its way.
#[derive(Clone, Default)]
pub(in crate::cli::bench) struct Count {
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Why the first that failed did.
    pub(super) failure: Option<String>,
    /// From the moment it was meant to go to its acknowledgement.
    pub(super) latency: Latency,
}

impl Tally {
    pub(super) fn sent(&self) {
        self.lock().sent += 1;
    }

    pub(super) fn acknowledged_after(&self, took: Duration) {
        let mut count = self.lock();
        count.acknowledged += 1;
        count.latency.record(took);
    }

    pub(super) fn failed(&self, why: &Failure) {
        let mut count = self.lock();
        match why {
            Failure::Refused { .. } => count.refused += 1,
            Failure::Unknown(_) => count.unknown += 1,
        }
        count.failure.get_or_insert_with(|| why.to_string());
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    pub(super) fn add_to(&self, sum: &mut Count) {
        let count = self.lock();
        sum.sent += count.sent;
        sum.acknowledged += count.acknowledged;
        sum.refused += count.refused;
        sum.unknown += count.unknown;
        sum.latency.add(&count.latency);
        if sum.failure.is_none() {
            sum.failure.clone_from(&count.failure);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    pub(super) fn ended(&self) -> u64 {
        self.acknowledged + self.refused + self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_and_the_first_failure_is_kept() {
        let (one, other) = (Tally::default(), Tally::default());
        (0..3).for_each(|_| one.sent());
        one.acknowledged_after(Duration::from_millis(1));
        one.failed(&Failure::Unknown("the stream ended".to_owned()));
        one.failed(&Failure::Unknown("another".to_owned()));
        other.sent();
        other.acknowledged_after(Duration::from_millis(1));
        let mut sum = Count::default();
        one.add_to(&mut sum);
        other.add_to(&mut sum);
        assert_eq!((sum.sent, sum.ended(), sum.acknowledged, sum.unknown), (4, 4, 2, 2));
        assert_eq!(sum.failure.as_deref(), Some("the outcome is unknown: the stream ended"));
    }
}

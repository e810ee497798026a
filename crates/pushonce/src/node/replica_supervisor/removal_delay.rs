//! [`RemovalDelay`]: a replica is deleted only because of a claim that has lasted.

use std::collections::BTreeMap;
use std::time::Duration;

use pushonce_control::hosting::ReplicaRemoval;
use pushonce_core::ShardId;
use tokio::time::Instant;

/// Delays removals. A replica is deleted because of a claim, and a false claim is refuted within two seconds.
#[derive(Default)]
pub(super) struct RemovalDelay(BTreeMap<ShardId, Instant>);

/// How long a claim must show that a replica was removed, before the replica is deleted.
const REMOVAL_DELAY: Duration = Duration::from_secs(5);

impl RemovalDelay {
    /// The removals that were planned at every call for [`REMOVAL_DELAY`].
    pub(super) fn due(
        &mut self,
        planned: Vec<ReplicaRemoval>,
        now: Instant,
    ) -> Vec<ReplicaRemoval> {
        self.0.retain(|shard, _| planned.iter().any(|removal| removal.shard == *shard));
        let is_due = |removal: &ReplicaRemoval| {
            let since = *self.0.entry(removal.shard).or_insert(now);
            now.saturating_duration_since(since) >= REMOVAL_DELAY
        };
        planned.into_iter().filter(is_due).collect()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_is_removed_only_after_its_claim_has_lasted() {
        let (mut delay, start) = (RemovalDelay::default(), Instant::now());
        let removal = ReplicaRemoval { shard: ShardId(3), removed_at: 7 };
        let mut due = |planned: &[ReplicaRemoval], at: Duration| {
            delay.due(planned.to_vec(), start + at).len()
        };
        assert_eq!(due(&[removal], Duration::ZERO), 0);
        assert_eq!(due(&[], REMOVAL_DELAY / 2), 0, "the claim was refuted");
        assert_eq!(due(&[removal], REMOVAL_DELAY), 0, "another claim");
        assert_eq!(due(&[removal], 2 * REMOVAL_DELAY), 1);
        assert!(delay.is_waiting());
    }
}

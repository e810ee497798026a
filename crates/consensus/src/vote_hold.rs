//! The duration of a lease, and of the hold during which a replica does not vote against its leader.
//!
//! In openraft both are one fixed time of each replica. Here they are two times that can change at run time,
//! so that a cluster can change them while at no moment the lease of one node is longer than the hold of
//! another (see `ClusterTimes` in core). openraft's own timers keep the values from the start of the node:
//! they decide when a replica tries to be elected, never whether it may.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pushonce_core::{ClusterTimes, FailPoint};

use crate::clock::BootTime;

/// The lease and hold times of a node, for all of its groups. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct LeaseTimes(Arc<LeaseMillis>);

#[derive(Debug)]
struct LeaseMillis {
    lease_ms: AtomicU64,
    hold_ms: AtomicU64,
}

/// The last contact of one replica with its leader. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct VoteHold {
    lease_times: LeaseTimes,
    last_contact: Arc<Mutex<Option<BootTime>>>,
}

impl LeaseTimes {
    /// Lease and hold with the same value.
    pub(crate) fn new(time: Duration) -> LeaseTimes {
        let millis = millis(time);
        LeaseTimes(Arc::new(LeaseMillis { lease_ms: millis.into(), hold_ms: millis.into() }))
    }

    /// Applies the times that the cluster agreed on. A reader that sees one old and one new value is safe,
    /// because each step of a change is valid in halves.
    pub(crate) fn set(&self, times: &ClusterTimes) {
        self.0.lease_ms.store(millis(times.lease()), Ordering::SeqCst);
        self.0.hold_ms.store(millis(times.vote_holdoff()), Ordering::SeqCst);
    }

    /// How long after a quorum was asked a leader may assume that no other node is elected.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.0.lease_ms.load(Ordering::SeqCst))
    }

    /// How long after contact with its leader a replica neither votes nor asks for votes.
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(self.0.hold_ms.load(Ordering::SeqCst))
    }
}

impl VoteHold {
    /// The hold of a replica without contact to a leader.
    pub(crate) fn new(lease_times: LeaseTimes) -> VoteHold {
        VoteHold { lease_times, last_contact: Arc::default() }
    }

    /// Records contact with the leader.
    pub(crate) fn on_leader_contact(&self) {
        *self.last_contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(BootTime::now());
    }

    /// Whether the last known leader may still have its lease.
    pub(crate) fn is_active(&self) -> bool {
        if FailPoint::VoteHoldSkipped.is_active() {
            return false;
        }
        let last_contact = *self.last_contact.lock().unwrap_or_else(PoisonError::into_inner);
        last_contact.is_some_and(|contact| BootTime::now() < contact + self.lease_times.hold())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use pushonce_core::ConsensusTimes;

    use super::*;

    #[test]
    fn vote_hold_follows_current_cluster_times() {
        let times = LeaseTimes::new(Duration::ZERO);
        let hold = VoteHold::new(times.clone());
        assert!(!hold.is_active(), "there was no leader contact");
        hold.on_leader_contact();
        assert!(!hold.is_active(), "the hold is zero");
        times.set(&ClusterTimes::new(ConsensusTimes::WAN));
        assert!(hold.is_active(), "the new hold applies to an earlier contact");
        assert_eq!(times.lease(), times.hold());
    }
}

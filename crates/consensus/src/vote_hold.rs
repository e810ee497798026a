//! How long a lease lasts, and how long a replica stays with the leader it heard.
//!
//! openraft has both as one fixed time per replica. Here they are two, and change while a node runs,
//! so that a cluster can change them without a moment at which one node's lease is longer than
//! another's hold (see `ClusterTimes` in core). openraft's own timers stay what they were at the
//! start of the node: they decide when a replica tries, never when it may.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pushonce_core::{ClusterTimes, FailPoint};

use crate::clock::BootTime;

/// The two times of a node, for all of its groups. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct LeaseTimes(Arc<LeaseMillis>);

#[derive(Debug)]
struct LeaseMillis {
    lease_ms: AtomicU64,
    hold_ms: AtomicU64,
}

/// When one replica last heard its leader. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct VoteHold {
    lease_times: LeaseTimes,
    last_contact: Arc<Mutex<Option<BootTime>>>,
}

impl LeaseTimes {
    /// Both are the same.
    pub(crate) fn new(time: Duration) -> LeaseTimes {
        let millis = millis(time);
        LeaseTimes(Arc::new(LeaseMillis { lease_ms: millis.into(), hold_ms: millis.into() }))
    }

    /// Takes what the cluster has agreed on. Whoever reads one old and one new value is safe: each
    /// step of a change may be taken in halves.
    pub(crate) fn set(&self, times: &ClusterTimes) {
        self.0.lease_ms.store(millis(times.lease()), Ordering::SeqCst);
        self.0.hold_ms.store(millis(times.vote_holdoff()), Ordering::SeqCst);
    }

    /// How long a leader may trust that nobody else is elected, after a quorum was asked.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.0.lease_ms.load(Ordering::SeqCst))
    }

    /// How long a replica neither votes nor asks for votes after it heard its leader.
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(self.0.hold_ms.load(Ordering::SeqCst))
    }
}

impl VoteHold {
    /// Of a replica that has heard nobody.
    pub(crate) fn new(lease_times: LeaseTimes) -> VoteHold {
        VoteHold { lease_times, last_contact: Arc::default() }
    }

    /// The leader has just said something.
    pub(crate) fn on_leader_contact(&self) {
        *self.last_contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(BootTime::now());
    }

    /// Whether the leader that was heard last may still have its lease.
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
        assert!(!hold.is_active(), "it has heard nobody");
        hold.on_leader_contact();
        assert!(!hold.is_active(), "the hold is zero");
        times.set(&ClusterTimes::new(ConsensusTimes::WAN));
        assert!(hold.is_active(), "the new hold counts for what was heard before");
        assert_eq!(times.lease(), times.hold());
    }
}

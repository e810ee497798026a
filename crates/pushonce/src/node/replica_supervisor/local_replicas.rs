//! [`LocalReplicas`]: the replicas that run on this node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use pushonce_control::reconcile::ReconcileProgress;
use pushonce_core::{NodeId, ShardId};
use pushonce_shard::Handle;
use tokio::sync::watch;

/// The replicas that run on this node, by shard. Clones share the map.
#[derive(Clone, Default)]
pub(in crate::node) struct LocalReplicas {
    replicas: Arc<RwLock<BTreeMap<ShardId, LocalReplica>>>,
    /// The replicas on this node's disk that this build cannot read, with the reason.
    unreadable: Arc<RwLock<BTreeMap<ShardId, String>>>,
    /// Whether every replica on this node's disk was started or cannot be started.
    all_opened: Arc<AtomicBool>,
}

/// A running replica, and the progress of its reconciler while this node leads the group.
#[derive(Clone)]
pub(super) struct LocalReplica {
    pub(super) handle: Handle,
    pub(super) progress: watch::Receiver<Option<ReconcileProgress>>,
}

impl LocalReplicas {
    /// The replica of a shard, if it runs here.
    pub(in crate::node) fn get(&self, shard: ShardId) -> Option<Handle> {
        self.read().get(&shard).map(|replica| replica.handle.clone())
    }

    /// Whether some of the replicas on this node's disk have not been started yet.
    pub(in crate::node) fn is_opening(&self) -> bool {
        !self.all_opened.load(Ordering::Relaxed)
    }

    pub(super) fn set_all_opened(&self) {
        self.all_opened.store(true, Ordering::Relaxed);
    }

    /// What the groups that this node leads do or wait for. Groups that are as they should be are left out.
    pub(in crate::node) fn progress(&self) -> BTreeMap<ShardId, ReconcileProgress> {
        let hosted = self.read();
        let progress = |(&shard, replica): (&ShardId, &LocalReplica)| {
            replica.progress.borrow().clone().map(|progress| (shard, progress))
        };
        hosted.iter().filter_map(progress).collect()
    }

    /// The shards that run here, each with the index of its newest membership on this node's disk that names
    /// `me`; `None` where it does not name it.
    pub(super) fn memberships(&self, me: NodeId) -> BTreeMap<ShardId, Option<u64>> {
        let hosted = self.read();
        let membership_index = |replica: &LocalReplica| {
            let status = replica.handle.group().status();
            let status = status.borrow();
            let is_member = status.voters.contains(&me) || status.learners.contains(&me);
            is_member.then_some(status.membership_index)
        };
        hosted.iter().map(|(&shard, replica)| (shard, membership_index(replica))).collect()
    }

    /// The replicas here that have halted or could not be started, because this build cannot read a part of
    /// them, with the reason.
    pub(in crate::node) fn halted(&self) -> BTreeMap<ShardId, String> {
        let mut halted = self.unreadable.read().unwrap_or_else(PoisonError::into_inner).clone();
        let halt_reason =
            |replica: &LocalReplica| replica.handle.group().status().borrow().halt_reason.clone();
        let hosted = self.read();
        halted.extend(
            hosted.iter().filter_map(|(&shard, replica)| Some((shard, halt_reason(replica)?))),
        );
        halted
    }

    pub(super) fn mark_unreadable(&self, shard: ShardId, reason: String) {
        self.unreadable.write().unwrap_or_else(PoisonError::into_inner).insert(shard, reason);
    }

    pub(super) fn is_unreadable(&self, shard: ShardId) -> bool {
        self.unreadable.read().unwrap_or_else(PoisonError::into_inner).contains_key(&shard)
    }

    /// Every replica that runs here.
    pub(in crate::node) fn all(&self) -> Vec<Handle> {
        self.read().values().map(|replica| replica.handle.clone()).collect()
    }

    pub(super) fn insert(&self, replica: LocalReplica) {
        let shard = replica.handle.id();
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).insert(shard, replica);
    }

    pub(super) fn remove(&self, shard: ShardId) -> Option<Handle> {
        let replica = self.replicas.write().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        replica.map(|removed| removed.handle)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ShardId, LocalReplica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Which shards live on this node: started, brought to their replicas, dropped.
//!
//! The plan is [`hosting::plan_digest`]; this loop carries it out and starts, beside each replica, the
//! three tasks that a replica needs: its commits, the reconciler that acts while it leads, and the
//! herald that tells its claim to the links.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_consensus::{ConsensusEngine, DestroyError, GroupId, GroupStatus, StartError};
use pushonce_control::hosting::ReplicaRemoval;
use pushonce_control::reconcile::{PeerWatches, ReconcileProgress};
use pushonce_control::{ControlHandle, hosting, reconcile};
use pushonce_core::{ClusterView, NodeId, OwnershipClaim, ShardId};
use pushonce_shard::{
    CommitListener, Handle, NodeTopics, ShardOpenError, ShardOptions, ShardSettings,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bootstrap::Bootstrap;
use super::clocks::NodeClocks;
use super::current_view::CurrentView;

/// Proposals of all shards of a node that may be under way at once. Measured: four cost a tenth of
/// the throughput at 256 in flight, sixteen gain nothing.
const PROPOSALS_MAX: usize = 8;

/// Shards of which a node moves replicas at once. A move copies the shard's history; more of them
/// would compete with the publishes.
const SHARD_MOVES_MAX: usize = 2;

/// The replicas that run on this node, by shard. Clones share it.
#[derive(Clone, Default)]
pub(super) struct LocalReplicas {
    replicas: Arc<RwLock<BTreeMap<ShardId, LocalReplica>>>,
    /// The replicas on this node's disk that this build cannot read, and why.
    unreadable: Arc<RwLock<BTreeMap<ShardId, String>>>,
    /// Whether every replica that is on this node's disk was started, or cannot be.
    all_opened: Arc<AtomicBool>,
}

/// A replica that runs here, and what its group does or waits for while this node leads it.
#[derive(Clone)]
struct LocalReplica {
    handle: Handle,
    progress: watch::Receiver<Option<ReconcileProgress>>,
}

/// Keeps [`LocalReplicas`] what it should be.
pub(super) struct ReplicaSupervisor {
    /// This node.
    pub(super) me: NodeId,
    /// Its Raft groups.
    pub(super) engine: ConsensusEngine,
    /// The list to keep.
    pub(super) local_replicas: LocalReplicas,
    /// Makes the time of the logs.
    pub(super) clocks: Arc<NodeClocks>,
    /// Told of what is committed, and of claims.
    pub(super) relay: pushonce_relay::Handle,
    /// The committed table.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The same once it is current.
    pub(super) current_view: watch::Receiver<CurrentView>,
    /// The group that commits it, as it stands here.
    pub(super) control: ControlHandle,
    /// What the shards are told of the cluster.
    pub(super) settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    /// Whether this node may begin groups.
    pub(super) bootstrap: Bootstrap,
    /// What its replicas hold.
    pub(super) topics: Arc<NodeTopics>,
}

/// What runs beside one replica.
struct ReplicaTasks {
    wanted_nodes: watch::Sender<Vec<NodeId>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl LocalReplicas {
    /// The replica of a shard, if it runs here.
    pub(super) fn get(&self, shard: ShardId) -> Option<Handle> {
        self.read().get(&shard).map(|replica| replica.handle.clone())
    }

    /// Whether some of the replicas on this node's disk were not started yet.
    pub(super) fn is_opening(&self) -> bool {
        !self.all_opened.load(Ordering::Relaxed)
    }

    /// What the groups that this node leads do or wait for; those that are as they should be are
    /// left out.
    pub(super) fn progress(&self) -> BTreeMap<ShardId, ReconcileProgress> {
        let hosted = self.read();
        let progress = |(&shard, replica): (&ShardId, &LocalReplica)| {
            replica.progress.borrow().clone().map(|progress| (shard, progress))
        };
        hosted.iter().filter_map(progress).collect()
    }

    /// The shards that run here, with the newest membership of each group, as this node's own disk
    /// has it, that names `me`; `NoFault` where it does not.
    fn memberships(&self, me: NodeId) -> BTreeMap<ShardId, Option<u64>> {
        let hosted = self.read();
        let membership_index = |replica: &LocalReplica| {
            let status = replica.handle.group().status();
            let status = status.borrow();
            let is_member = status.voters.contains(&me) || status.learners.contains(&me);
            is_member.then_some(status.membership_index)
        };
        hosted.iter().map(|(&shard, replica)| (shard, membership_index(replica))).collect()
    }

    /// The replicas here that have halted, or could not be started, because this build cannot read
    /// something of them, and why.
    pub(super) fn halted(&self) -> BTreeMap<ShardId, String> {
        let mut halted = self.unreadable.read().unwrap_or_else(PoisonError::into_inner).clone();
        let halt_reason =
            |replica: &LocalReplica| replica.handle.group().status().borrow().halt_reason.clone();
        let hosted = self.read();
        halted.extend(
            hosted.iter().filter_map(|(&shard, replica)| Some((shard, halt_reason(replica)?))),
        );
        halted
    }

    fn mark_unreadable(&self, shard: ShardId, reason: String) {
        self.unreadable.write().unwrap_or_else(PoisonError::into_inner).insert(shard, reason);
    }

    fn is_unreadable(&self, shard: ShardId) -> bool {
        self.unreadable.read().unwrap_or_else(PoisonError::into_inner).contains_key(&shard)
    }

    /// Every replica that runs here.
    pub(super) fn all(&self) -> Vec<Handle> {
        self.read().values().map(|replica| replica.handle.clone()).collect()
    }

    fn insert(&self, replica: LocalReplica) {
        let shard = replica.handle.id();
        self.replicas.write().unwrap_or_else(PoisonError::into_inner).insert(shard, replica);
    }

    fn remove(&self, shard: ShardId) -> Option<Handle> {
        let replica = self.replicas.write().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        replica.map(|removed| removed.handle)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ShardId, LocalReplica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every replica of the node is started with.
struct SharedResources {
    proposal_permits: Arc<Semaphore>,
    move_permits: Arc<Semaphore>,
    failures: mpsc::Sender<String>,
}

/// How the removal of a replica ended.
enum RemovalOutcome {
    /// Its data is deleted, or stays because the engine has stopped.
    Removed,
    /// The group has taken it back meanwhile: it is to be started again.
    Readded,
}

impl ReplicaSupervisor {
    /// Follows the committed table and the claims until `shutdown`, then stops every replica.
    ///
    /// # Errors
    /// When a replica cannot be opened, when one has ended or a task of one has panicked, or when the
    /// end of the founding cannot be kept: the node must stop.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut owners = self.relay.owners();
        let mut replicas = BTreeMap::new();
        let (failures, mut failed) = mpsc::channel(1);
        let resources = SharedResources {
            proposal_permits: Arc::new(Semaphore::new(PROPOSALS_MAX)),
            move_permits: Arc::new(Semaphore::new(SHARD_MOVES_MAX)),
            failures,
        };
        let mut control_watch = JoinSet::new();
        let (status, failures) = (self.control.status(), resources.failures.clone());
        control_watch.spawn(report_failure(status, GroupId::CONTROL, failures, shutdown.clone()));
        // To stop a replica may take as long as a full disk is full: that holds up nothing else.
        let mut removals = JoinSet::new();
        let mut being_removed = BTreeSet::new();
        // What is on disk runs even when the table no longer lists it: its vote may be needed until
        // its owner says that it is not.
        let mut to_start: Vec<ShardId> =
            self.engine.stored_groups().iter().filter_map(|group| group.as_shard()).collect();
        let mut view_is_current = false;
        loop {
            for shard in std::mem::take(&mut to_start) {
                let started = shutdown.run_until_cancelled(self.start(shard, &resources)).await;
                let Some(started) = started else { break };
                replicas.extend(started?.map(|replica| (shard, replica)));
            }
            self.local_replicas.all_opened.store(true, Ordering::Relaxed);
            if !view_is_current {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = self.wait_until_view_is_current() => view_is_current = true,
                    Some(failure) = failed.recv() => anyhow::bail!(failure),
                }
            }
            if shutdown.is_cancelled() {
                break;
            }
            let view = self.view.borrow_and_update().clone();
            let claims = owners.borrow_and_update().clone();
            self.topics.set_shard_count(view.shards);
            let hosted = self.local_replicas.memberships(self.me);
            let plan = hosting::plan(self.me, &view, &claims, &hosted, self.bootstrap.is_pending());
            to_start.extend(plan.start.into_iter().filter(|shard| {
                !being_removed.contains(shard) && !self.local_replicas.is_unreadable(*shard)
            }));
            for removal in plan.remove {
                let shard = removal.shard;
                let (Some(replica), Some(handle)) =
                    (replicas.remove(&shard), self.local_replicas.remove(shard))
                else {
                    continue;
                };
                being_removed.insert(shard);
                removals.spawn(remove_replica(self.engine.clone(), replica, handle, removal));
            }
            if !to_start.is_empty() {
                continue;
            }
            for (&shard, replica) in &replicas {
                let wanted = view.placement.replicas_of(shard).to_vec();
                replica.wanted_nodes.send_if_modified(|known| replace_if_changed(known, wanted));
            }
            self.bootstrap.advance(&view, &self.local_replicas).await?;
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(failure) = failed.recv() => anyhow::bail!(failure),
                Some(finished) = removals.join_next() => {
                    let (shard, outcome) = finished?;
                    being_removed.remove(&shard);
                    to_start.extend(matches!(outcome, RemovalOutcome::Readded).then_some(shard));
                }
                Ok(()) = self.view.changed() => {}
                Ok(()) = owners.changed() => {}
            }
        }
        // All at once: each may wait for a proposal that is under way.
        replicas.values().for_each(|replica| replica.stop.cancel());
        for (shard, mut replica) in replicas {
            replica.stop_and_wait().await;
            self.local_replicas.remove(shard);
        }
        Ok(())
    }

    /// Waits for a current view. An older table may be the one before that of the last run, and to act
    /// on it would take replicas away from where they belong.
    async fn wait_until_view_is_current(&mut self) {
        let current = self.current_view.wait_for(Option::is_some).await;
        let version = current.map_or(0, |view| view.as_ref().map_or(0, |view| view.version));
        // The senders live as long as the node's own tasks; when they end, so does this one.
        let _ = self.view.wait_for(|view| view.version >= version).await;
    }

    /// Starts a replica; `NoFault` for one that this build cannot read, which stays as it is: the others of
    /// the node go on without it, and readiness says why.
    async fn start(
        &self,
        id: ShardId,
        resources: &SharedResources,
    ) -> anyhow::Result<Option<ReplicaTasks>> {
        let SharedResources { proposal_permits: permits, move_permits: moves, failures } =
            resources;
        let shard = ShardOptions {
            id,
            me: self.me,
            permits: permits.clone(),
            settings: self.settings.clone(),
            commit_listener: Arc::new(RelayCommitted(self.relay.clone())),
            clock: self.clocks.clone(),
            topics: self.topics.clone(),
        };
        let (handle, runner) = match shard.open(&self.engine).await {
            Ok(opened) => opened,
            Err(ShardOpenError { source: StartError::Unreadable { reason: why, .. }, .. }) => {
                tracing::error!(shard = %id, error = why, "cannot start a replica, going on without it");
                self.local_replicas.mark_unreadable(id, why);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        // Nobody is moved before the loop has said what is wanted.
        let (wanted_sender, wanted_receiver) = watch::channel(Vec::new());
        let (progress_sender, progress_receiver) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut spawn_supervised =
            |task_name, task| tasks.spawn(supervise(id, task_name, task, failures.clone()));
        spawn_supervised("commit", runner.run(stop.clone()).boxed());
        let group = handle.group().clone();
        let peers =
            PeerWatches { reachable: self.relay.reachable(), stopping: self.relay.stopping() };
        let (me, moves) = (self.me, moves.clone());
        let reconcile_task =
            reconcile::run(group, me, wanted_receiver, peers, moves, progress_sender, stop.clone());
        spawn_supervised("reconcile", reconcile_task.boxed());
        let claim_task = announce_claims(id, handle.claim(), self.relay.clone(), stop.clone());
        spawn_supervised("claim", claim_task.boxed());
        tasks.spawn(report_failure(
            handle.group().status(),
            GroupId::shard(id),
            failures.clone(),
            stop.clone(),
        ));
        self.local_replicas.insert(LocalReplica { handle, progress: progress_receiver });
        tracing::info!(shard = %id, "replica started");
        Ok(Some(ReplicaTasks { wanted_nodes: wanted_sender, stop, tasks }))
    }
}

/// The group has let go of this replica: stops it and deletes its data, unless the group has taken it
/// back by the time it is stopped.
async fn remove_replica(
    engine: ConsensusEngine,
    mut replica: ReplicaTasks,
    handle: Handle,
    removal: ReplicaRemoval,
) -> (ShardId, RemovalOutcome) {
    let ReplicaRemoval { shard, removed_at } = removal;
    replica.stop_and_wait().await;
    handle.group().stop().await;
    let outcome = match engine.destroy(GroupId::shard(shard), removed_at).await {
        Ok(()) => {
            tracing::info!(%shard, "gave a replica away");
            RemovalOutcome::Removed
        }
        Err(error @ DestroyError::StillMember { .. }) => {
            tracing::info!(%shard, %error, "removed replica is needed again");
            RemovalOutcome::Readded
        }
        Err(error) => {
            tracing::warn!(%shard, %error, "cannot delete the data of a removed replica");
            RemovalOutcome::Removed
        }
    };
    (shard, outcome)
}

/// Runs a task of a replica, and reports its panic: without the task the shard commits, moves or claims
/// nothing any more, while the node looks healthy. The node stops, for what a panic leaves behind in
/// memory is not known; what is on disk is.
async fn supervise(
    shard: ShardId,
    task_name: &'static str,
    task: BoxFuture<'static, ()>,
    failures: mpsc::Sender<String>,
) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(%shard, task = task_name, "task of a replica panicked, stopping the node");
        // When the host has ended there is nobody to tell.
        let failure =
            format!("the {task_name} task of {shard} has panicked; the log above says where");
        let _ = failures.send(failure).await;
    }
}

impl ReplicaTasks {
    async fn stop_and_wait(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Tells the links of each claim of a local replica, and when there is none.
async fn announce_claims(
    shard: ShardId,
    mut claim: watch::Receiver<Option<OwnershipClaim>>,
    relay: pushonce_relay::Handle,
    stop: CancellationToken,
) {
    loop {
        let current_claim = claim.borrow_and_update().clone();
        match current_claim {
            Some(claim) => relay.announce_claim(claim),
            None => relay.revoke_claim(shard),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = claim.changed() => if changed.is_err() { break },
        }
    }
    relay.revoke_claim(shard);
}

/// Tells when a replica has ended by itself: a node that goes on without it looks healthy, and the
/// next death takes the shard's quorum. One that has halted at something that this build cannot read makes
/// the node not ready, and the others of the node go on.
async fn report_failure(
    mut status: watch::Receiver<GroupStatus>,
    group: GroupId,
    failures: mpsc::Sender<String>,
    stop: CancellationToken,
) {
    let wait_for_failure =
        async { status.wait_for(|now| now.failure.is_some()).await.map(|now| now.clone()) };
    tokio::select! {
        () = stop.cancelled() => {}
        failed = wait_for_failure => match failed {
            Ok(GroupStatus { halt_reason: Some(error), .. }) => {
                tracing::error!(%group, error, "replica halted");
            }
            Ok(GroupStatus { failure: Some(reason), .. }) => {
                tracing::error!(%group, reason, "replica failed, stopping the node");
                // When the host has ended there is nobody to tell.
                let _ = failures.send(format!("the replica of {group} has ended: {reason}")).await;
            }
            _ => {}
        }
    }
}

struct RelayCommitted(pushonce_relay::Handle);

impl CommitListener for RelayCommitted {
    fn on_committed(
        &self,
        _: ShardId,
        messages: Vec<(pushonce_core::Topic, Arc<pushonce_core::Message>)>,
    ) {
        self.0.push_committed(messages);
    }

    fn on_placed_in_memory(
        &self,
        _: ShardId,
        topic: pushonce_core::Topic,
        message: Arc<pushonce_core::Message>,
    ) {
        self.0.stage_committed(vec![(topic, message)]);
    }

    fn flush_placed(&self) {
        self.0.flush_committed();
    }
}

fn replace_if_changed<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_in_a_replica_task_is_reported_with_its_shard() {
        let (failures, mut failed) = mpsc::channel(1);
        supervise(ShardId(3), "commit", async { panic!("a bug") }.boxed(), failures.clone()).await;
        let failure = failed.recv().await.unwrap();
        assert!(failure.contains("the commit task of s3 has panicked"), "{failure}");
        supervise(ShardId(3), "commit", async {}.boxed(), failures).await;
        assert!(failed.recv().await.is_none(), "a task that ended as it should is reported");
    }

    #[tokio::test]
    async fn failed_replica_is_reported_and_a_stopped_one_is_not() {
        let (status, status_receiver) = watch::channel(GroupStatus::default());
        let (failures, mut failed) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let group = GroupId::shard(ShardId(3));
        let reporting = tokio::spawn(report_failure(
            status_receiver.clone(),
            group,
            failures.clone(),
            stop.clone(),
        ));
        status.send_modify(|status| status.failure = Some("its machine has panicked".to_owned()));
        let failure = failed.recv().await.unwrap();
        assert_eq!(failure, "the replica of s3 has ended: its machine has panicked");
        reporting.await.unwrap();

        status.send_modify(|status| status.failure = None);
        let reporting =
            tokio::spawn(report_failure(status_receiver, group, failures, stop.clone()));
        stop.cancel();
        reporting.await.unwrap();
        assert!(failed.recv().await.is_none());
    }
}

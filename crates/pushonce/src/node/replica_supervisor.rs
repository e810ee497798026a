//! Starts and removes the replicas of this node.
//!
//! The plan is made by [`hosting::plan`]; this loop executes it. Beside each replica it starts the three
//! tasks that a replica needs: the commit task, the reconciler that acts while the replica leads, and the
//! task that announces its ownership claim to the links.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

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
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::bootstrap::Bootstrap;
use super::clocks::NodeClocks;
use super::current_view::CurrentView;

/// Maximum number of concurrent proposals of all shards of a node. Measured: four cost a tenth of the
/// throughput at 256 in flight, sixteen gain nothing.
const PROPOSALS_MAX: usize = 8;

/// Maximum number of shards whose replicas a node moves at the same time. A move copies the shard's
/// history; more moves would compete with the publishes.
const SHARD_MOVES_MAX: usize = 2;

/// The replicas that run on this node, by shard. Clones share the map.
#[derive(Clone, Default)]
pub(super) struct LocalReplicas {
    replicas: Arc<RwLock<BTreeMap<ShardId, LocalReplica>>>,
    /// The replicas on this node's disk that this build cannot read, with the reason.
    unreadable: Arc<RwLock<BTreeMap<ShardId, String>>>,
    /// Whether every replica on this node's disk was started or cannot be started.
    all_opened: Arc<AtomicBool>,
}

/// A running replica, and the progress of its reconciler while this node leads the group.
#[derive(Clone)]
struct LocalReplica {
    handle: Handle,
    progress: watch::Receiver<Option<ReconcileProgress>>,
}

/// Keeps [`LocalReplicas`] as the placement requires.
pub(super) struct ReplicaSupervisor {
    /// This node.
    pub(super) me: NodeId,
    /// The Raft groups of this node.
    pub(super) engine: ConsensusEngine,
    /// The running replicas, maintained by this supervisor.
    pub(super) local_replicas: LocalReplicas,
    /// The clocks from which the time of the logs is derived.
    pub(super) clocks: Arc<NodeClocks>,
    /// Receives commits and ownership claims.
    pub(super) relay: pushonce_relay::Handle,
    /// The newest committed view.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The same, once it is current.
    pub(super) current_view: watch::Receiver<CurrentView>,
    /// The control group, which commits the view.
    pub(super) control: ControlHandle,
    /// The settings of the shards.
    pub(super) settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    /// The right of this node to initialize groups.
    pub(super) bootstrap: Bootstrap,
    /// Counts the topics of the replicas.
    pub(super) topics: Arc<NodeTopics>,
}

/// Delays removals. A replica is deleted because of a claim, and a false claim is refuted within two seconds.
#[derive(Default)]
struct RemovalDelay(BTreeMap<ShardId, Instant>);

/// How long a claim must show that a replica was removed, before the replica is deleted.
const REMOVAL_DELAY: Duration = Duration::from_secs(5);

/// Interval at which the supervisor checks what waits for time to pass.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl RemovalDelay {
    /// The removals that were planned at every call for [`REMOVAL_DELAY`].
    fn due(&mut self, planned: Vec<ReplicaRemoval>, now: Instant) -> Vec<ReplicaRemoval> {
        self.0.retain(|shard, _| planned.iter().any(|removal| removal.shard == *shard));
        let is_due = |removal: &ReplicaRemoval| {
            let since = *self.0.entry(removal.shard).or_insert(now);
            now.saturating_duration_since(since) >= REMOVAL_DELAY
        };
        planned.into_iter().filter(is_due).collect()
    }

    fn is_waiting(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The tasks of one replica.
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

    /// Whether some of the replicas on this node's disk have not been started yet.
    pub(super) fn is_opening(&self) -> bool {
        !self.all_opened.load(Ordering::Relaxed)
    }

    /// What the groups that this node leads do or wait for. Groups that are as they should be are left out.
    pub(super) fn progress(&self) -> BTreeMap<ShardId, ReconcileProgress> {
        let hosted = self.read();
        let progress = |(&shard, replica): (&ShardId, &LocalReplica)| {
            replica.progress.borrow().clone().map(|progress| (shard, progress))
        };
        hosted.iter().filter_map(progress).collect()
    }

    /// The shards that run here, each with the index of its newest membership on this node's disk that names
    /// `me`; `None` where it does not name it.
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

    /// The replicas here that have halted or could not be started, because this build cannot read a part of
    /// them, with the reason.
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

/// The resources shared by all replicas of the node.
struct SharedResources {
    proposal_permits: Arc<Semaphore>,
    move_permits: Arc<Semaphore>,
    failures: mpsc::Sender<String>,
}

/// The outcome of a removal.
enum RemovalOutcome {
    /// The data is deleted, or stays because the engine has stopped.
    Removed,
    /// The group has added the replica again meanwhile: it must be started again.
    Readded,
}

impl ReplicaSupervisor {
    /// Follows the placement and the claims until `shutdown` is cancelled, then stops every replica.
    ///
    /// # Errors
    /// When a replica cannot be opened, when one has ended or one of its tasks has panicked, or when the end
    /// of the bootstrap cannot be stored: the node must stop.
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
        // With a full disk, stopping a replica may take as long as the disk is full; nothing waits for it.
        let mut removals = JoinSet::new();
        let mut being_removed = BTreeSet::new();
        let mut removal_delay = RemovalDelay::default();
        // A replica on disk runs even when the placement no longer lists it: its vote may be needed until the
        // owner releases it.
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
            let due = removal_delay.due(plan.remove, Instant::now());
            for removal in due {
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
            let is_waiting = removal_delay.is_waiting() || self.bootstrap.is_pending();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep(RECHECK_INTERVAL), if is_waiting => {}
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
        // All at the same time: each may wait for a proposal that is in flight.
        replicas.values().for_each(|replica| replica.stop.cancel());
        for (shard, mut replica) in replicas {
            replica.stop_and_wait().await;
            self.local_replicas.remove(shard);
        }
        Ok(())
    }

    /// Waits for a current view. An older view may be that of a previous run, and following it would remove
    /// replicas from where they belong.
    async fn wait_until_view_is_current(&mut self) {
        let current = self.current_view.wait_for(Option::is_some).await;
        let version = current.map_or(0, |view| view.as_ref().map_or(0, |view| view.version));
        // The senders live as long as the node's own tasks; when they end, so does this one.
        let _ = self.view.wait_for(|view| view.version >= version).await;
    }

    /// Starts a replica; `None` for one that this build cannot read, which stays as it is: the other replicas
    /// of the node run without it, and readiness reports the reason.
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
        // No replica moves before the loop has published the placement.
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
        let status = handle.group().status();
        let observe_task = observe_leader(id, self.me, status, self.relay.clone(), stop.clone());
        spawn_supervised("leader", observe_task.boxed());
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

/// Stops a replica that its group has released, and deletes its data, unless the group has added it again
/// by the time it is stopped.
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

/// Runs a task of a replica, and reports its panic: without the task the shard no longer commits, moves or
/// claims anything, while the node looks healthy. The node stops, because the state in memory after a
/// panic is unknown; the state on disk is valid.
async fn supervise(
    shard: ShardId,
    task_name: &'static str,
    task: BoxFuture<'static, ()>,
    failures: mpsc::Sender<String>,
) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(%shard, task = task_name, "task of a replica panicked, stopping the node");
        // The receiver is gone when the supervisor has ended.
        let failure =
            format!("the {task_name} task of {shard} has panicked; the log above has the location");
        let _ = failures.send(failure).await;
    }
}

impl ReplicaTasks {
    async fn stop_and_wait(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Announces each ownership claim of a local replica to the links, and the end of each claim.
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

/// Announces the leader that a local replica follows as a voter, so that this node vouches for its claim.
async fn observe_leader(
    shard: ShardId,
    me: NodeId,
    mut status: watch::Receiver<GroupStatus>,
    relay: pushonce_relay::Handle,
    stop: CancellationToken,
) {
    let mut announced = None;
    loop {
        let observed = {
            let status = status.borrow_and_update();
            let leader = status.leader.filter(|_| status.voters.contains(&me));
            leader.map(|leader| (leader, status.term))
        };
        if observed != announced {
            relay.observe_leader(shard, observed);
            announced = observed;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = status.changed() => if changed.is_err() { break },
        }
    }
    relay.observe_leader(shard, None);
}

/// Reports a replica that has ended: a node that continues without it looks healthy, and the next failure
/// costs the shard its quorum. A replica that has halted because this build cannot read an entry makes the
/// node unready, and the other replicas of the node continue.
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
                // The receiver is gone when the supervisor has ended.
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

    #[tokio::test]
    async fn panic_in_a_replica_task_is_reported_with_its_shard() {
        let (failures, mut failed) = mpsc::channel(1);
        supervise(ShardId(3), "commit", async { panic!("a bug") }.boxed(), failures.clone()).await;
        let failure = failed.recv().await.unwrap();
        assert!(failure.contains("the commit task of s3 has panicked"), "{failure}");
        supervise(ShardId(3), "commit", async {}.boxed(), failures).await;
        assert!(failed.recv().await.is_none(), "a regular end of a task must not be reported");
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

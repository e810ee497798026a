//! Starts and removes the replicas of this node.
//!
//! The plan is made by [`hosting::plan`]; this loop executes it. Beside each replica it starts the three
//! tasks that a replica needs: the commit task, the reconciler that acts while the replica leads, and the
//! task that announces its ownership claim to the links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use pushonce_consensus::{ConsensusEngine, DestroyError, GroupId, StartError};
use pushonce_control::hosting::ReplicaRemoval;
use pushonce_control::reconcile::PeerWatches;
use pushonce_control::{ControlHandle, hosting, reconcile};
use pushonce_core::{ClusterView, NodeId, ShardId};
use pushonce_shard::{Handle, NodeTopics, ShardOpenError, ShardOptions, ShardSettings};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::bootstrap::Bootstrap;
use super::clocks::NodeClocks;
use super::current_view::CurrentView;
use local_replicas::LocalReplica;
pub(super) use local_replicas::LocalReplicas;
use removal_delay::RemovalDelay;
use replica_tasks::{
    RelayCommitted, ReplicaTasks, announce_claims, observe_leader, report_failure, supervise,
};

mod local_replicas;
mod removal_delay;
mod replica_tasks;

/// Maximum number of concurrent proposals of all shards of a node. Measured: four cost a tenth of the
/// throughput at 256 in flight, sixteen gain nothing.
const PROPOSALS_MAX: usize = 8;

/// Maximum number of shards whose replicas a node moves at the same time. A move copies the shard's
/// history; more moves would compete with the publishes.
const SHARD_MOVES_MAX: usize = 2;

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

/// Interval at which the supervisor checks what waits for time to pass.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

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
            self.local_replicas.set_all_opened();
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

fn replace_if_changed<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

//! Which shards live on this node: started, brought to their replicas, dropped.
//!
//! The plan is [`hosting::plan`]; this loop carries it out and starts, beside each replica, the
//! three tasks that a replica needs: its commits, the reconciler that acts while it leads, and the
//! herald that tells its claim to the links.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_consensus::{DestroyError, Engine, GroupId, StartError, Status};
use pushonce_control::hosting::Removal;
use pushonce_control::reconcile::{Peers, Progress};
use pushonce_control::{Control, hosting, reconcile};
use pushonce_core::{Claim, ClusterView, NodeId, ShardId};
use pushonce_shard::{Committed, Handle, NodeTopics, OpenError, Shard, ShardSettings};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clocks::NodeClocks;
use super::current::Current;
use super::founding::Founding;

/// Proposals of all shards of a node that may be under way at once. Measured: four cost a tenth of
/// the throughput at 256 in flight, sixteen gain nothing.
const PROPOSALS_MAX: usize = 8;

/// Shards of which a node moves replicas at once. A move copies the shard's history; more of them
/// would compete with the publishes.
const MOVES_MAX: usize = 2;

/// The replicas that run on this node, by shard. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Hosted {
    held: Arc<RwLock<BTreeMap<ShardId, Held>>>,
    /// The replicas on this node's disk that this build cannot read, and why.
    unreadable: Arc<RwLock<BTreeMap<ShardId, String>>>,
    /// Whether every replica that is on this node's disk was started, or cannot be.
    is_open: Arc<AtomicBool>,
}

/// A replica that runs here, and what its group does or waits for while this node leads it.
#[derive(Clone)]
struct Held {
    handle: Handle,
    progress: watch::Receiver<Option<Progress>>,
}

/// Keeps [`Hosted`] what it should be.
pub(super) struct Host {
    /// This node.
    pub(super) me: NodeId,
    /// Its Raft groups.
    pub(super) engine: Engine,
    /// The list to keep.
    pub(super) hosted: Hosted,
    /// Makes the time of the logs.
    pub(super) clocks: Arc<NodeClocks>,
    /// Told of what is committed, and of claims.
    pub(super) relay: pushonce_relay::Handle,
    /// The committed table.
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    /// The same once it is current.
    pub(super) current: watch::Receiver<Current>,
    /// The group that commits it, as it stands here.
    pub(super) control: Control,
    /// What the shards are told of the cluster.
    pub(super) settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    /// Whether this node may begin groups.
    pub(super) founding: Founding,
    /// What its replicas hold.
    pub(super) topics: Arc<NodeTopics>,
}

/// What runs beside one replica.
struct Replica {
    wanted: watch::Sender<Vec<NodeId>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Hosted {
    /// The replica of a shard, if it runs here.
    pub(super) fn get(&self, shard: ShardId) -> Option<Handle> {
        self.read().get(&shard).map(|held| held.handle.clone())
    }

    /// Whether some of the replicas on this node's disk were not started yet.
    pub(super) fn is_opening(&self) -> bool {
        !self.is_open.load(Ordering::Relaxed)
    }

    /// What the groups that this node leads do or wait for; those that are as they should be are
    /// left out.
    pub(super) fn progress(&self) -> BTreeMap<ShardId, Progress> {
        let hosted = self.read();
        let progress = |(&shard, held): (&ShardId, &Held)| {
            held.progress.borrow().clone().map(|progress| (shard, progress))
        };
        hosted.iter().filter_map(progress).collect()
    }

    /// The shards that run here, with the newest membership of each group, as this node's own disk
    /// has it, that names `me`; `None` where it does not.
    fn standing(&self, me: NodeId) -> BTreeMap<ShardId, Option<u64>> {
        let hosted = self.read();
        let standing = |held: &Held| {
            let status = held.handle.group().status();
            let status = status.borrow();
            let inside = status.voters.contains(&me) || status.learners.contains(&me);
            inside.then_some(status.membership)
        };
        hosted.iter().map(|(&shard, held)| (shard, standing(held))).collect()
    }

    /// The replicas here that have halted, or could not be started, because this build cannot read
    /// something of them, and why.
    pub(super) fn halted(&self) -> BTreeMap<ShardId, String> {
        let mut halted = self.unreadable.read().unwrap_or_else(PoisonError::into_inner).clone();
        let why = |held: &Held| held.handle.group().status().borrow().halted.clone();
        let held = self.read();
        halted.extend(held.iter().filter_map(|(&shard, held)| Some((shard, why(held)?))));
        halted
    }

    fn refuse(&self, shard: ShardId, why: String) {
        self.unreadable.write().unwrap_or_else(PoisonError::into_inner).insert(shard, why);
    }

    fn is_refused(&self, shard: ShardId) -> bool {
        self.unreadable.read().unwrap_or_else(PoisonError::into_inner).contains_key(&shard)
    }

    /// Every replica that runs here.
    pub(super) fn all(&self) -> Vec<Handle> {
        self.read().values().map(|held| held.handle.clone()).collect()
    }

    fn insert(&self, held: Held) {
        let shard = held.handle.id();
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(shard, held);
    }

    fn remove(&self, shard: ShardId) -> Option<Handle> {
        let held = self.held.write().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        held.map(|held| held.handle)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ShardId, Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every replica of the node is started with.
struct Common {
    permits: Arc<Semaphore>,
    moves: Arc<Semaphore>,
    failures: mpsc::Sender<String>,
}

/// How the removal of a replica ended.
enum Left {
    /// Its data is deleted, or stays because the engine has stopped.
    Gone,
    /// The group has taken it back meanwhile: it is to be started again.
    TakenBack,
}

impl Host {
    /// Follows the committed table and the claims until `shutdown`, then stops every replica.
    ///
    /// # Errors
    /// When a replica cannot be opened, when one has ended or a task of one has panicked, or when the
    /// end of the founding cannot be kept: the node must stop.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut owners = self.relay.owners();
        let mut replicas = BTreeMap::new();
        let (failures, mut failed) = mpsc::channel(1);
        let common = Common {
            permits: Arc::new(Semaphore::new(PROPOSALS_MAX)),
            moves: Arc::new(Semaphore::new(MOVES_MAX)),
            failures,
        };
        let mut control = JoinSet::new();
        let (status, failures) = (self.control.status(), common.failures.clone());
        control.spawn(mourn(status, GroupId::CONTROL, failures, shutdown.clone()));
        // To stop a replica may take as long as a full disk is full: that holds up nothing else.
        let mut leaving = JoinSet::new();
        let mut absent = BTreeSet::new();
        // What is on disk runs even when the table no longer lists it: its vote may be needed until
        // its owner says that it is not.
        let mut start: Vec<ShardId> =
            self.engine.found().iter().filter_map(|group| group.as_shard()).collect();
        let mut caught_up = false;
        loop {
            for shard in std::mem::take(&mut start) {
                let started = shutdown.run_until_cancelled(self.start(shard, &common)).await;
                let Some(started) = started else { break };
                replicas.extend(started?.map(|replica| (shard, replica)));
            }
            self.hosted.is_open.store(true, Ordering::Relaxed);
            if !caught_up {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = self.caught_up() => caught_up = true,
                    Some(why) = failed.recv() => anyhow::bail!(why),
                }
            }
            if shutdown.is_cancelled() {
                break;
            }
            let view = self.view.borrow_and_update().clone();
            let claims = owners.borrow_and_update().clone();
            self.topics.set_shards(view.shards);
            let hosted = self.hosted.standing(self.me);
            let plan = hosting::plan(self.me, &view, &claims, &hosted, self.founding.pending());
            start.extend(
                plan.start
                    .into_iter()
                    .filter(|shard| !absent.contains(shard) && !self.hosted.is_refused(*shard)),
            );
            for removal in plan.drop {
                let shard = removal.shard;
                let (Some(replica), Some(handle)) =
                    (replicas.remove(&shard), self.hosted.remove(shard))
                else {
                    continue;
                };
                absent.insert(shard);
                leaving.spawn(leave(self.engine.clone(), replica, handle, removal));
            }
            if !start.is_empty() {
                continue;
            }
            for (&shard, replica) in &replicas {
                let wanted = view.placement.of(shard).to_vec();
                replica.wanted.send_if_modified(|known| replace(known, wanted));
            }
            self.founding.advance(&view, &self.hosted).await?;
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(why) = failed.recv() => anyhow::bail!(why),
                Some(left) = leaving.join_next() => {
                    let (shard, left) = left?;
                    absent.remove(&shard);
                    start.extend(matches!(left, Left::TakenBack).then_some(shard));
                }
                Ok(()) = self.view.changed() => {}
                Ok(()) = owners.changed() => {}
            }
        }
        // All at once: each may wait for a proposal that is under way.
        replicas.values().for_each(|replica| replica.stop.cancel());
        for (shard, mut replica) in replicas {
            replica.end().await;
            self.hosted.remove(shard);
        }
        Ok(())
    }

    /// Waits for a current view. An older table may be the one before that of the last run, and to act
    /// on it would take replicas away from where they belong.
    async fn caught_up(&mut self) {
        let current = self.current.wait_for(Option::is_some).await;
        let version = current.map_or(0, |view| view.as_ref().map_or(0, |view| view.version));
        // The senders live as long as the node's own tasks; when they end, so does this one.
        let _ = self.view.wait_for(|view| view.version >= version).await;
    }

    /// Starts a replica; `None` for one that this build cannot read, which stays as it is: the others of
    /// the node go on without it, and readiness says why.
    async fn start(&self, id: ShardId, common: &Common) -> anyhow::Result<Option<Replica>> {
        let Common { permits, moves, failures } = common;
        let shard = Shard {
            id,
            me: self.me,
            permits: permits.clone(),
            settings: self.settings.clone(),
            committed: Arc::new(ToRelay(self.relay.clone())),
            clock: self.clocks.clone(),
            topics: self.topics.clone(),
        };
        let (handle, runner) = match shard.open(&self.engine).await {
            Ok(opened) => opened,
            Err(OpenError { why: StartError::Unreadable { why, .. }, .. }) => {
                tracing::error!(shard = %id, error = why, "cannot start a replica, going on without it");
                self.hosted.refuse(id, why);
                return Ok(None);
            }
            Err(why) => return Err(why.into()),
        };
        // Nobody is moved before the loop has said what is wanted.
        let (wanted, wanted_here) = watch::channel(Vec::new());
        let (said, progress) = watch::channel(None);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut supervise = |what, task| tasks.spawn(supervise(id, what, task, failures.clone()));
        supervise("commit", runner.run(stop.clone()).boxed());
        let group = handle.group().clone();
        let peers = Peers { reachable: self.relay.reachable(), stopping: self.relay.stopping() };
        let (me, moves) = (self.me, moves.clone());
        let reconciling = reconcile::run(group, me, wanted_here, peers, moves, said, stop.clone());
        supervise("reconcile", reconciling.boxed());
        let heralding = herald(id, handle.claim(), self.relay.clone(), stop.clone());
        supervise("claim", heralding.boxed());
        tasks.spawn(mourn(
            handle.group().status(),
            GroupId::shard(id),
            failures.clone(),
            stop.clone(),
        ));
        self.hosted.insert(Held { handle, progress });
        tracing::info!(shard = %id, "holding a replica");
        Ok(Some(Replica { wanted, stop, tasks }))
    }
}

/// The group has let go of this replica: stops it and deletes its data, unless the group has taken it
/// back by the time it is stopped.
async fn leave(
    engine: Engine,
    mut replica: Replica,
    handle: Handle,
    removal: Removal,
) -> (ShardId, Left) {
    let Removal { shard, removed_at } = removal;
    replica.end().await;
    handle.group().stop().await;
    let left = match engine.destroy(GroupId::shard(shard), removed_at).await {
        Ok(()) => {
            tracing::info!(%shard, "gave a replica away");
            Left::Gone
        }
        Err(why @ DestroyError::Member { .. }) => {
            tracing::info!(%shard, %why, "a removed replica is wanted again");
            Left::TakenBack
        }
        Err(why) => {
            tracing::warn!(%shard, %why, "a replica that was given away keeps its data");
            Left::Gone
        }
    };
    (shard, left)
}

/// Runs a task of a replica, and reports its panic: without the task the shard commits, moves or claims
/// nothing any more, while the node looks healthy. The node stops, for what a panic leaves behind in
/// memory is not known; what is on disk is.
async fn supervise(
    shard: ShardId,
    what: &'static str,
    task: BoxFuture<'static, ()>,
    failures: mpsc::Sender<String>,
) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(%shard, task = what, "a task of a replica has panicked: the node stops");
        // When the host has ended there is nobody to tell.
        let why = format!("the {what} task of {shard} has panicked; the log above says where");
        let _ = failures.send(why).await;
    }
}

impl Replica {
    async fn end(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Tells the links of each claim of a local replica, and when there is none.
async fn herald(
    shard: ShardId,
    mut claim: watch::Receiver<Option<Claim>>,
    relay: pushonce_relay::Handle,
    stop: CancellationToken,
) {
    loop {
        let claimed = claim.borrow_and_update().clone();
        match claimed {
            Some(claim) => relay.claim(claim),
            None => relay.disclaim(shard),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = claim.changed() => if changed.is_err() { break },
        }
    }
    relay.disclaim(shard);
}

/// Tells when a replica has ended by itself: a node that goes on without it looks healthy, and the
/// next death takes the shard's quorum. One that has halted at something that this build cannot read makes
/// the node not ready, and the others of the node go on.
async fn mourn(
    mut status: watch::Receiver<Status>,
    group: GroupId,
    failures: mpsc::Sender<String>,
    stop: CancellationToken,
) {
    let failed = async { status.wait_for(|now| now.failed.is_some()).await.map(|now| now.clone()) };
    tokio::select! {
        () = stop.cancelled() => {}
        failed = failed => match failed {
            Ok(Status { halted: Some(error), .. }) => {
                tracing::error!(%group, error, "a replica has halted");
            }
            Ok(Status { failed: Some(why), .. }) => {
                tracing::error!(%group, why, "a replica has ended");
                // When the host has ended there is nobody to tell.
                let _ = failures.send(format!("the replica of {group} has ended: {why}")).await;
            }
            _ => {}
        }
    }
}

struct ToRelay(pushonce_relay::Handle);

impl Committed for ToRelay {
    fn committed(
        &self,
        _: ShardId,
        messages: Vec<(pushonce_core::Topic, Arc<pushonce_core::Message>)>,
    ) {
        self.0.committed(messages);
    }

    fn placed(
        &self,
        _: ShardId,
        topic: pushonce_core::Topic,
        message: Arc<pushonce_core::Message>,
    ) {
        self.0.placed(vec![(topic, message)]);
    }

    fn pass_on(&self) {
        self.0.pass_on();
    }
}

fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_in_a_task_of_a_replica_is_reported_with_its_shard() {
        let (failures, mut failed) = mpsc::channel(1);
        supervise(ShardId(3), "commit", async { panic!("a bug") }.boxed(), failures.clone()).await;
        let why = failed.recv().await.unwrap();
        assert!(why.contains("the commit task of s3 has panicked"), "{why}");
        supervise(ShardId(3), "commit", async {}.boxed(), failures).await;
        assert!(failed.recv().await.is_none(), "a task that ended as it should is reported");
    }

    #[tokio::test]
    async fn replica_that_has_ended_is_reported_and_one_that_was_stopped_is_not() {
        let (status, watched) = watch::channel(Status::default());
        let (failures, mut failed) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let group = GroupId::shard(ShardId(3));
        let mourning = tokio::spawn(mourn(watched.clone(), group, failures.clone(), stop.clone()));
        status.send_modify(|status| status.failed = Some("its machine has panicked".to_owned()));
        let why = failed.recv().await.unwrap();
        assert_eq!(why, "the replica of s3 has ended: its machine has panicked");
        mourning.await.unwrap();

        status.send_modify(|status| status.failed = None);
        let mourning = tokio::spawn(mourn(watched, group, failures, stop.clone()));
        stop.cancel();
        mourning.await.unwrap();
        assert!(failed.recv().await.is_none());
    }
}

//! Which shards live on this node: started, brought to their replicas, dropped.
//!
//! The plan is [`hosting::plan`]; this loop carries it out and starts, beside each replica, the
//! three tasks that a replica needs: its commits, the reconciler that acts while it leads, and the
//! herald that tells its claim to the links.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use pushonce_consensus::{Engine, Group, GroupId, StartError, Status};
use pushonce_control::reconcile::Progress;
use pushonce_control::{Control, hosting, reconcile};
use pushonce_core::{Claim, ClusterView, Namespaces, NodeId, ShardId};
use pushonce_shard::{Committed, Handle, OpenError, Shard};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clocks::NodeClocks;
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
    /// The group that commits it, as it stands here.
    pub(super) control: Control,
    /// Whether this node may begin groups.
    pub(super) founding: Founding,
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

impl Host {
    /// Follows the committed table and the claims until `shutdown`, then stops every replica.
    ///
    /// # Errors
    /// When a replica cannot be opened or the end of the founding cannot be kept: the node must stop.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut owners = self.relay.owners();
        let mut replicas = BTreeMap::new();
        let moves = Arc::new(Semaphore::new(MOVES_MAX));
        let permits = Arc::new(Semaphore::new(PROPOSALS_MAX));
        let namespaces = namespaces(&self.view);
        let (failed, mut failures) = mpsc::channel(1);
        // What is on disk runs even when the table no longer lists it: its vote may be needed until
        // its owner says that it is not.
        for shard in self.engine.found().iter().filter_map(|group| group.as_shard()) {
            let replica = self.start(shard, &permits, &moves, &namespaces, &failed).await?;
            replicas.extend(replica.map(|replica| (shard, replica)));
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.caught_up() => {}
        }
        while !shutdown.is_cancelled() {
            let view = self.view.borrow_and_update().clone();
            let claims = owners.borrow_and_update().clone();
            namespaces.send_if_modified(|known| replace(known, view.namespaces.clone()));
            let hosted = self.hosted.standing(self.me);
            let plan = hosting::plan(self.me, &view, &claims, &hosted, self.founding.pending());
            for shard in plan.start {
                let replica = self.start(shard, &permits, &moves, &namespaces, &failed).await?;
                replicas.extend(replica.map(|replica| (shard, replica)));
            }
            for shard in plan.drop {
                self.drop_replica(shard, replicas.remove(&shard)).await;
            }
            for (&shard, replica) in &replicas {
                let wanted = view.placement.of(shard).to_vec();
                replica.wanted.send_if_modified(|known| replace(known, wanted));
            }
            self.founding.advance(&view, &self.hosted).await?;
            tokio::select! {
                () = shutdown.cancelled() => {}
                Some(shard) = failures.recv() => {
                    anyhow::bail!("the replica of {shard} has ended; the log above says why")
                }
                Ok(()) = self.view.changed() => {}
                Ok(()) = owners.changed() => {}
            }
        }
        for (shard, mut replica) in replicas {
            replica.end().await;
            self.hosted.remove(shard);
        }
        Ok(())
    }

    /// Waits until all that the control log held at the start is applied here. What was committed
    /// last is not known to be so after a restart: the table of that moment may be the one before,
    /// and to act on it would take replicas away from where they belong. Only a living leader can say
    /// that the end of the log is committed, so this is contact with one, too.
    async fn caught_up(&mut self) {
        let mut status = self.control.status();
        let end = status.borrow().last_log;
        let level = |now: &Status| {
            now.leader.is_some() && !now.recovering && now.applied >= end.min(now.last_log)
        };
        // The senders live as long as the engine; when they end, so does this node.
        let _ = status.wait_for(level).await;
        let version = self.control.view().borrow().as_ref().map_or(0, |view| view.version);
        let _ = self.view.wait_for(|view| view.version >= version).await;
    }

    /// Starts a replica; `None` for one that this build cannot read, which stays as it is: the others of
    /// the node go on without it, and readiness says why.
    async fn start(
        &self,
        id: ShardId,
        permits: &Arc<Semaphore>,
        moves: &Arc<Semaphore>,
        namespaces: &watch::Sender<Namespaces>,
        failures: &mpsc::Sender<ShardId>,
    ) -> anyhow::Result<Option<Replica>> {
        if self.hosted.is_refused(id) {
            return Ok(None);
        }
        let shard = Shard {
            id,
            me: self.me,
            permits: permits.clone(),
            namespaces: namespaces.subscribe(),
            committed: Arc::new(ToRelay(self.relay.clone())),
            clock: self.clocks.clone(),
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
        tasks.spawn(runner.run(stop.clone()));
        tasks.spawn(reconcile::run(
            handle.group().clone(),
            self.me,
            wanted_here,
            self.relay.reachable(),
            moves.clone(),
            said,
            stop.clone(),
        ));
        tasks.spawn(herald(id, handle.claim(), self.relay.clone(), stop.clone()));
        tasks.spawn(mourn(handle.group().clone(), id, failures.clone(), stop.clone()));
        self.hosted.insert(Held { handle, progress });
        tracing::info!(shard = %id, "holding a replica");
        Ok(Some(Replica { wanted, stop, tasks }))
    }

    /// The group has let go of this replica: stop it and delete its data.
    async fn drop_replica(&self, shard: ShardId, replica: Option<Replica>) {
        if let Some(mut replica) = replica {
            replica.end().await;
        }
        let Some(handle) = self.hosted.remove(shard) else { return };
        handle.group().stop().await;
        match self.engine.destroy(GroupId::shard(shard)).await {
            Ok(()) => tracing::info!(%shard, "gave a replica away"),
            Err(why) => {
                tracing::warn!(%shard, %why, "a replica that was given away keeps its data")
            }
        }
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
    group: Group,
    shard: ShardId,
    failures: mpsc::Sender<ShardId>,
    stop: CancellationToken,
) {
    let mut status = group.status();
    let failed = async { status.wait_for(|now| now.failed.is_some()).await.map(|now| now.clone()) };
    tokio::select! {
        () = stop.cancelled() => {}
        failed = failed => match failed {
            Ok(Status { halted: Some(why), .. }) => {
                tracing::error!(%shard, error = why, "a replica has halted");
            }
            Ok(Status { failed: Some(why), .. }) => {
                tracing::error!(%shard, why, "a replica has ended");
                // When the host has ended there is nobody to tell.
                let _ = failures.send(shard).await;
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

fn namespaces(view: &watch::Receiver<Arc<ClusterView>>) -> watch::Sender<Namespaces> {
    watch::channel(view.borrow().namespaces.clone()).0
}

fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

//! The consensus engine of a node: opening the store, destroying replicas, stopping.

mod start;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::Config;
use pushonce_core::{
    AgreedVersion, ClusterId, ClusterTimes, ClusterVersion, DiskFull, FailPoint, NodeId,
    UnsupportedVersion,
};
use pushonce_peer::PeerTransport;
use pushonce_proto::pb::peer::v1::raft_service_server::RaftServiceServer;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster_nodes::ClusterNodes;
use crate::disk_reserve::{DiskProbe, DiskReserve, DiskSpace};
use crate::network::{
    FRAME_BYTES_MAX, Fence, GroupRegistry, LogKey, PeerCalls, RaftLinks, RaftLinksContext,
    RollbackDetector,
};
use crate::recovery;
use crate::store::{DelayedFsyncStore, FatalHook, LogMark, RedbStore, StoreWriter, WriteCounter};
use crate::vote_hold::LeaseTimes;
use crate::{ConsensusSettings, GroupId, InvalidSettings, RaftGroup, RaftService};

/// All groups of this node: one store, one writer, one stream to each peer. Clones share the engine.
#[derive(Clone)]
pub struct ConsensusEngine(Arc<EngineInner>);

struct EngineInner {
    me: NodeId,
    settings: Arc<ConsensusSettings>,
    config: Arc<Config>,
    writer: StoreWriter,
    disk_reserve: DiskReserve,
    stored_groups: Vec<GroupId>,
    log_mark: LogMark,
    lease_times: LeaseTimes,
    cluster_nodes: ClusterNodes,
    fence: Fence,
    links: RaftLinks,
    service: RaftService,
    groups: GroupRegistry,
    /// Held while a group is started or destroyed, so that the two do not overlap.
    lifecycle_lock: Mutex<()>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// The interface of an engine to the machine it runs on.
#[derive(Clone)]
pub struct HostHooks {
    /// Measures the space of the data directory's disk.
    pub disk_space: DiskProbe,
    /// Called once, on the writer thread, with the reason when the disk has failed. After it no group of the
    /// engine makes progress, and the process must end.
    pub on_fatal: Arc<dyn Fn(&str) + Send + Sync>,
}

/// A store after it was opened.
struct OpenedStore {
    writer: StoreWriter,
    stored_groups: Vec<GroupId>,
    log_mark: LogMark,
    write_counter: WriteCounter,
    log_key: Option<LogKey>,
    fence: Fence,
}

/// The reason why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EngineOpenError {
    /// Invalid settings.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The store is open in another process or in this one.
    #[error("{} is already open: stop the node that uses it, or configure another directory", path.display())]
    AlreadyOpen {
        /// The store file.
        path: PathBuf,
    },
    /// The store file of an existing node is missing, and with it the node's votes.
    #[error("{} is missing: restore it, or remove this node from the cluster and join again as a new node with an empty directory", path.display())]
    Missing {
        /// The store file.
        path: PathBuf,
    },
    /// The store was made by another cluster or node.
    #[error("{} belongs to another node ({found}; expected {wanted}): configure the directory of this node, or an empty one", path.display())]
    Foreign {
        /// The store file.
        path: PathBuf,
        /// The owner of the store.
        found: String,
        /// The node that opened it.
        wanted: String,
    },
    /// The store was made before cluster versions existed.
    #[error("{} was written by a build older than cluster versions and cannot be read: remove this node from its cluster and join again as a new node with an empty directory", path.display())]
    Unversioned {
        /// The store file.
        path: PathBuf,
    },
    /// The cluster version of the store is not supported by this build.
    #[error("{} cannot be opened: {reason}", path.display())]
    UnsupportedVersion {
        /// The store file.
        path: PathBuf,
        /// The version of the store, and the versions that this build supports.
        reason: UnsupportedVersion,
    },
    /// The store cannot be read. Nothing was changed.
    #[error("{} is damaged ({reason}); nothing was deleted: restore it, or join again as a new node with an empty directory", path.display())]
    Damaged {
        /// The store file.
        path: PathBuf,
        /// The damage that was found.
        reason: String,
    },
    /// The disk has no space to open the store: redb writes to the file when it opens it.
    #[error("{} cannot be opened: its disk is full; free some space there and start again", path.display())]
    DiskFull {
        /// The store file.
        path: PathBuf,
    },
    /// The operating system returned an error.
    #[error("{} cannot be opened: {reason}", path.display())]
    Io {
        /// The store file.
        path: PathBuf,
        /// The error of the operating system.
        reason: String,
    },
}

/// The reason why a group cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The group is running already.
    #[error("group {0} is already running on this node")]
    AlreadyRunning(GroupId),
    /// The vote cannot be read, or the log or snapshot cannot be read and no other replica has them.
    #[error(
        "group {group} cannot be restored ({reason}); nothing was deleted: restore the data \
         directory, or remove this node from the cluster and join again as a new node with an \
         empty one"
    )]
    Damaged {
        /// The group.
        group: GroupId,
        /// The damage that was found.
        reason: String,
    },
    /// The group holds data that this build cannot read. Nothing was changed: a build that reads it continues
    /// there.
    #[error("group {group} cannot be started: {reason}")]
    Unreadable {
        /// The group.
        group: GroupId,
        /// The data that cannot be read, and the build to run instead.
        reason: String,
    },
    /// The engine was stopped.
    #[error("the consensus engine is stopped")]
    Stopped,
}

/// The reason why the data of a replica was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    /// The group is running.
    #[error("group {0} is running: stop it first")]
    Running(GroupId),
    /// The group has added this node again.
    #[error(
        "the membership of group {group} at log index {membership} includes this node: start the replica again"
    )]
    StillMember {
        /// The group.
        group: GroupId,
        /// The log index of that membership.
        membership: u64,
    },
    /// The engine was stopped.
    #[error("the consensus engine is stopped")]
    Stopped,
}

impl ConsensusEngine {
    /// Creates the store of a new node in `dir`, atomically. `Ok` when the directory already has a store of
    /// this node of this cluster. Call it before any other record of the node's existence is written.
    pub async fn create(dir: &Path, cluster: ClusterId, me: NodeId) -> Result<(), EngineOpenError> {
        run_blocking(dir, move |dir| RedbStore::create(dir, cluster, me)).await
    }

    /// Whether `dir` holds a store, complete and in place.
    pub fn has_store(dir: &Path) -> bool {
        RedbStore::exists(dir)
    }

    /// Opens the store in `dir` and locks it. The store must belong to the node of `transport`, whose agreed
    /// version becomes that of the store.
    ///
    /// When the disk fails later, the process exits with status 74: the state on disk is then unknown, and a
    /// node that continues could break its guarantees.
    pub async fn open(
        dir: &Path,
        settings: ConsensusSettings,
        transport: PeerTransport,
    ) -> Result<ConsensusEngine, EngineOpenError> {
        let on_fatal = |reason: &str| {
            tracing::error!(reason, "disk failed, stopping the node");
            std::process::exit(74);
        };
        let hooks =
            HostHooks { disk_space: Arc::new(DiskSpace::for_dir), on_fatal: Arc::new(on_fatal) };
        ConsensusEngine::open_with_hooks(dir, settings, transport, hooks).await
    }

    /// Like [`ConsensusEngine::open`], with the given hooks.
    pub async fn open_with_hooks(
        dir: &Path,
        settings: ConsensusSettings,
        transport: PeerTransport,
        hooks: HostHooks,
    ) -> Result<ConsensusEngine, EngineOpenError> {
        for warning in settings.validate()? {
            tracing::warn!(warning = warning.0, "unusual consensus settings");
        }
        let config = Arc::new(settings.raft_config()?);
        let disk_reserve = DiskReserve::new(dir, settings.disk_reserve_bytes, hooks.disk_space);
        let opened = open_store(dir, &transport, disk_reserve.clone(), hooks.on_fatal).await?;
        let persist_fence = opened.fence.clone().persist_when_closed(dir.to_owned());
        let engine = ConsensusEngine::from_store(
            opened,
            disk_reserve,
            Arc::new(settings),
            config,
            transport,
        );
        let EngineInner { tasks, shutdown, .. } = &*engine.0;
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(persist_fence));
        Ok(engine)
    }

    fn from_store(
        opened: OpenedStore,
        disk_reserve: DiskReserve,
        settings: Arc<ConsensusSettings>,
        config: Arc<Config>,
        transport: PeerTransport,
    ) -> ConsensusEngine {
        let me = transport.me();
        let OpenedStore { writer, stored_groups, log_mark, write_counter, log_key, fence } = opened;
        let lease_times = LeaseTimes::new(settings.election_max);
        let rollback_detector =
            RollbackDetector::new(me, log_mark.writes, write_counter, log_key, fence.clone());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(disk_reserve.clone().run(shutdown.clone()));
        let groups = GroupRegistry::default();
        let links = RaftLinks::new(RaftLinksContext {
            transport: transport.clone(),
            settings: Arc::clone(&settings),
            rollback_detector: rollback_detector.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        });
        let service = RaftService {
            transport,
            rollback_detector,
            groups: groups.clone(),
            peer_calls: PeerCalls::default(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let lifecycle_lock = Mutex::new(());
        let inner = EngineInner {
            me,
            settings,
            config,
            writer,
            disk_reserve,
            stored_groups,
            log_mark,
            lease_times,
            cluster_nodes: ClusterNodes::default(),
            fence,
            links,
            service,
            groups,
            lifecycle_lock,
            tasks,
            shutdown,
        };
        ConsensusEngine(Arc::new(inner))
    }

    /// Checks that this node's disk has space for publishes.
    ///
    /// # Errors
    /// [`DiskFull`] while the free space is below the reserve.
    pub fn check_disk_space(&self) -> Result<(), DiskFull> {
        self.0.disk_reserve.publish_error().map_or(Ok(()), Err)
    }

    /// The version in which this node writes, as stored on its disk.
    pub fn agreed_version(&self) -> AgreedVersion {
        self.0.writer.agreed_version().clone()
    }

    /// Stores the version of the cluster on disk and then writes in it. A version lower than the current one
    /// has no effect. Builds that do not support the version cannot open the directory afterwards.
    ///
    /// # Errors
    /// When it cannot be written, in which case the process is about to end, or the engine was stopped.
    pub async fn raise_version(&self, version: ClusterVersion) -> io::Result<()> {
        self.0.writer.raise_version(version).await
    }

    /// Reads the mark of the log in `dir` without opening the engine.
    pub async fn read_log_mark(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
    ) -> Result<LogMark, EngineOpenError> {
        run_blocking(dir, move |dir| {
            with_log_mark(dir, RedbStore::open(dir, cluster, me)?).map(|(_, mark)| mark)
        })
        .await
    }

    /// The mark of the log when it was opened.
    pub fn log_mark(&self) -> LogMark {
        self.0.log_mark
    }

    /// Applies the times that the cluster agreed on, at once and for all groups: the lease and the vote hold.
    /// Heartbeats, timeouts and the pace of elections keep the values of the [`ConsensusSettings`].
    pub fn set_times(&self, times: &ClusterTimes) {
        self.0.lease_times.set(times);
    }

    /// Replaces the nodes that may lead groups: the members with the core role in the newest cluster view. An id
    /// from `next_id` on is a node that may have joined since. Other nodes may not lead a group unless its
    /// own log names them as voters.
    pub fn set_cluster_nodes(&self, core: BTreeSet<NodeId>, next_id: NodeId) {
        self.0.cluster_nodes.set(core, next_id);
    }

    /// The reason why this node takes part in no group: its log was rolled back to an earlier state, as its
    /// peers detected. `None` while it takes part.
    pub fn rollback_reason(&self) -> Option<String> {
        self.0.fence.reason()
    }

    /// The groups of which this node had a replica when the engine was opened. Each must be started again,
    /// because its vote may be needed to elect a leader.
    pub fn stored_groups(&self) -> &[GroupId] {
        &self.0.stored_groups
    }

    /// The gRPC service to mount on the peer port.
    ///
    /// Serve it on [`PeerTransport::server`]. Without `TCP_NODELAY` every response waits 40 ms for the peer's
    /// delayed acknowledgement, and without keep-alives the streams of vanished peers remain open.
    pub fn service(&self) -> RaftServiceServer<RaftService> {
        RaftServiceServer::new(self.0.service.clone()).max_decoding_message_size(FRAME_BYTES_MAX)
    }

    /// Deletes log and snapshot of a stopped replica that the membership at log index `removed_at` does not
    /// include. Its vote is kept with a mark that the replica left: other replicas may not know of the
    /// removal and still count its vote and its acknowledgements. Started again, it votes once it has
    /// everything that its leader has.
    ///
    /// A stopped replica receives nothing, so the state on disk decides: a newer membership that includes
    /// this node means that the group added it again, counts its acknowledgements, and may depend on its
    /// vote.
    ///
    /// # Errors
    /// [`DestroyError::StillMember`] when the group has added it again: start the replica again.
    pub async fn destroy(&self, group: GroupId, removed_at: u64) -> Result<(), DestroyError> {
        let _guard = self.0.lifecycle_lock.lock().await;
        if self.0.groups.get(group).is_some() {
            return Err(DestroyError::Running(group));
        }
        let (writer, stored) =
            self.0.writer.open(group).await.map_err(|_| DestroyError::Stopped)?;
        if let Some(newest) = recovery::newest_membership(&writer, &stored).await {
            let index = newest.log_id().map_or(0, |id| id.index);
            let was_readded =
                index > removed_at && newest.membership().get_node(&self.0.me.0).is_some();
            if was_readded && !FailPoint::ReaddedReplicaDestroyed.is_active() {
                return Err(DestroyError::StillMember { group, membership: index });
            }
        }
        self.0.writer.destroy(group).await.map_err(|_| DestroyError::Stopped)
    }

    /// Stops all groups, the links and the writer, and unlocks the directory. Acknowledged data is on disk.
    /// Writes that wait for space on a full disk are aborted without acknowledgement.
    pub async fn stop(&self) {
        // First, because the holder of the lock may wait for that space.
        self.0.shutdown.cancel();
        self.0.writer.abort_blocked_writes();
        let _guard = self.0.lifecycle_lock.lock().await;
        let groups = self.0.groups.all();
        futures::future::join_all(groups.iter().map(RaftGroup::stop)).await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.writer.close().await;
    }
}

/// Stops the tasks of an engine that is dropped without [`ConsensusEngine::stop`].
impl Drop for EngineInner {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn open_store(
    dir: &Path,
    transport: &PeerTransport,
    disk_reserve: DiskReserve,
    on_fatal: FatalHook,
) -> Result<OpenedStore, EngineOpenError> {
    let io_error = |error: std::io::Error| EngineOpenError::Io {
        path: dir.to_owned(),
        reason: error.to_string(),
    };
    let (cluster, me) = (transport.cluster(), transport.me());
    let open = move |dir: &Path| with_log_mark(dir, RedbStore::open(dir, cluster, me)?);
    let (mut disk, log_mark) = run_blocking(dir, open).await?;
    let stored_groups = disk.groups().map_err(io_error)?;
    let log_key = disk.read_log_key().map_err(io_error)?;
    let (version, write_counter) = (disk.version(), disk.write_counter());
    let writer = match FailPoint::AcknowledgeBeforeFsync.is_active() {
        true => StoreWriter::start(DelayedFsyncStore::new(disk), disk_reserve, on_fatal),
        false => StoreWriter::start(disk, disk_reserve, on_fatal),
    };
    let writer = writer.map_err(io_error)?.with_agreed_version(transport.agreed_version());
    writer.agreed_version().raise(version);
    let fence = Fence::load(dir);
    Ok(OpenedStore { writer, stored_groups, log_mark, write_counter, log_key, fence })
}

fn with_log_mark(dir: &Path, mut disk: RedbStore) -> Result<(RedbStore, LogMark), EngineOpenError> {
    let log_mark = disk.read_log_mark();
    let failed =
        |error: io::Error| EngineOpenError::Io { path: dir.to_owned(), reason: error.to_string() };
    Ok((disk, log_mark.map_err(failed)?))
}

/// Runs blocking work. Opening may repair the file after a crash, which takes time linear in its size.
async fn run_blocking<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&Path) -> Result<T, EngineOpenError> + Send + 'static,
) -> Result<T, EngineOpenError> {
    let path = dir.to_owned();
    let result = tokio::task::spawn_blocking(move || work(&path)).await;
    let failed = |error: tokio::task::JoinError| EngineOpenError::Io {
        path: dir.to_owned(),
        reason: error.to_string(),
    };
    result.map_err(failed)?
}

#[cfg(test)]
#[path = "engine/full_disk_test.rs"]
mod full_disk_test;

//! All groups of a node: opening, destroying, stopping.

mod start;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::Config;
use pushonce_core::{
    AgreedVersion, ClusterId, ClusterTimes, ClusterVersion, NodeId, UnsupportedVersion,
};
use pushonce_proto::pb::peer::v1::raft_server::RaftServer;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::disk_reserve::{DiskProbe, DiskReserve, DiskSpace};
use crate::network::{
    FRAME_BYTES_MAX, Fence, GroupRegistry, RaftLinks, RaftLinksContext, RollbackDetector,
};
use crate::recovery;
use crate::store::{FatalHook, LogMark, RedbStore, StoreWriter, WriteCounter};
use crate::vote_hold::LeaseTimes;
use crate::{
    ConsensusSettings, DiskFull, GroupId, InvalidSettings, PeerAddresses, RaftGroup, RaftService,
};

/// All groups of this node: one store, one writer, one stream to each peer. Clones share it.
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
    fence: Fence,
    links: RaftLinks,
    service: RaftService,
    groups: GroupRegistry,
    /// Held while a group is started or destroyed, so that neither meets the other half way.
    lifecycle_lock: Mutex<()>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What an engine learns from, and says to, the machine it runs on.
#[derive(Clone)]
pub struct HostHooks {
    /// How much room the data directory's disk has.
    pub disk_space: DiskProbe,
    /// Called once, on the writer's thread, when the disk has failed, with the reason. After it no
    /// group of the engine makes progress, and the process must not go on.
    pub on_fatal: Arc<dyn Fn(&str) + Send + Sync>,
}

/// A store as it was opened.
struct OpenedStore {
    writer: StoreWriter,
    stored_groups: Vec<GroupId>,
    log_mark: LogMark,
    write_counter: WriteCounter,
    fence: Fence,
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EngineOpenError {
    /// Settings that cannot work.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// Another process, or this one, has it open.
    #[error("{} is already open: stop the node that uses it, or name another directory", path.display())]
    AlreadyOpen {
        /// The store.
        path: PathBuf,
    },
    /// A node that has been one has no store any more, and with it its votes.
    #[error("{} is missing: restore it, or remove this node from the cluster and join again as a new node with an empty directory", path.display())]
    Missing {
        /// The store.
        path: PathBuf,
    },
    /// It was made by another cluster or node, or by a version that wrote otherwise.
    #[error("{} belongs to another node ({found}; this is {wanted}): name the directory of this node, or an empty one", path.display())]
    Foreign {
        /// The store.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// It was made before there were cluster versions.
    #[error("{} was made by a build that is older than cluster versions, and cannot be read: remove this node from its cluster and join again as a new node with an empty directory", path.display())]
    Unversioned {
        /// The store.
        path: PathBuf,
    },
    /// Its cluster has a version that this build does not support.
    #[error("{} cannot be opened: {reason}", path.display())]
    UnsupportedVersion {
        /// The store.
        path: PathBuf,
        /// Which version it has, and which this build supports.
        reason: UnsupportedVersion,
    },
    /// It cannot be read; nothing was changed.
    #[error("{} is damaged ({reason}); nothing was deleted: restore it, or join again as a new node with an empty directory", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no room to open it: redb notes in the file that it is open.
    #[error("{} cannot be opened: its disk is full; free some space there and start again", path.display())]
    DiskFull {
        /// The store.
        path: PathBuf,
    },
    /// The system said no.
    #[error("{} cannot be opened: {reason}", path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// Why a group cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It runs.
    #[error("group {0} is already running on this node")]
    AlreadyRunning(GroupId),
    /// Its vote cannot be read, or its log or snapshot and there is nobody to get them from.
    #[error(
        "group {group} cannot be restored ({reason}); nothing was deleted: restore the data \
         directory, or remove this node from the cluster and join again as a new node with an \
         empty one"
    )]
    Damaged {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
    /// It holds something that this build cannot read. Nothing was changed: a build that reads it goes
    /// on there.
    #[error("group {group} cannot be started: {reason}")]
    Unreadable {
        /// The group.
        group: GroupId,
        /// What cannot be read, and what to run instead.
        reason: String,
    },
    /// The engine was stopped.
    #[error("the consensus engine is stopped")]
    Stopped,
}

/// Why a replica's data was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    /// It runs.
    #[error("group {0} is running: stop it first")]
    Running(GroupId),
    /// The group has taken it back.
    #[error(
        "the membership of group {group} at log index {membership} names this node: start the replica again"
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
    /// Makes the store of a new node in `dir`, whole or not at all. `Ok` when there is one of this
    /// node of this cluster. Call it before anything else remembers that the node exists.
    pub async fn create(dir: &Path, cluster: ClusterId, me: NodeId) -> Result<(), EngineOpenError> {
        run_blocking(dir, move |dir| RedbStore::create(dir, cluster, me)).await
    }

    /// Whether `dir` holds a store, complete and in place.
    pub fn has_store(dir: &Path) -> bool {
        RedbStore::exists(dir)
    }

    /// Opens the store in `dir` and locks it.
    ///
    /// When the disk fails later the process exits with status 74: what is on disk is not known
    /// then, and a node that goes on could break what it promised.
    pub async fn open(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
        settings: ConsensusSettings,
        peer_addresses: PeerAddresses,
    ) -> Result<ConsensusEngine, EngineOpenError> {
        let on_fatal = |reason: &str| {
            tracing::error!(reason, "disk failed, stopping the node");
            std::process::exit(74);
        };
        let hooks =
            HostHooks { disk_space: Arc::new(DiskSpace::for_dir), on_fatal: Arc::new(on_fatal) };
        ConsensusEngine::open_with_hooks(dir, cluster, me, settings, peer_addresses, hooks).await
    }

    /// As [`ConsensusEngine::open`], on another machine than this one.
    pub async fn open_with_hooks(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
        settings: ConsensusSettings,
        peer_addresses: PeerAddresses,
        hooks: HostHooks,
    ) -> Result<ConsensusEngine, EngineOpenError> {
        for warning in settings.validate()? {
            tracing::warn!(warning = warning.0, "unusual consensus settings");
        }
        let config = Arc::new(settings.raft_config()?);
        let disk_reserve = DiskReserve::new(dir, settings.disk_reserve_bytes, hooks.disk_space);
        let opened = open_store(dir, cluster, me, disk_reserve.clone(), hooks.on_fatal).await?;
        let persist_fence = opened.fence.clone().persist_when_closed(dir.to_owned());
        let engine = ConsensusEngine::from_store(
            opened,
            disk_reserve,
            cluster,
            me,
            Arc::new(settings),
            config,
            peer_addresses,
        );
        let EngineInner { tasks, shutdown, .. } = &*engine.0;
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(persist_fence));
        Ok(engine)
    }

    fn from_store(
        opened: OpenedStore,
        disk_reserve: DiskReserve,
        cluster: ClusterId,
        me: NodeId,
        settings: Arc<ConsensusSettings>,
        config: Arc<Config>,
        peer_addresses: PeerAddresses,
    ) -> ConsensusEngine {
        let OpenedStore { writer, stored_groups, log_mark, write_counter, fence } = opened;
        let lease_times = LeaseTimes::new(settings.election_max);
        let rollback_detector =
            RollbackDetector::new(me, log_mark.writes, write_counter, fence.clone());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(disk_reserve.clone().run(shutdown.clone()));
        let groups = GroupRegistry::default();
        let links = RaftLinks::new(RaftLinksContext {
            cluster,
            me,
            agreed_version: writer.agreed_version().clone(),
            settings: Arc::clone(&settings),
            peer_addresses: peer_addresses.clone(),
            rollback_detector: rollback_detector.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        });
        let service = RaftService {
            cluster,
            me,
            agreed_version: writer.agreed_version().clone(),
            peer_addresses,
            rollback_detector,
            groups: groups.clone(),
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

    /// Whether there is room to publish on this node's disk.
    ///
    /// # Errors
    /// [`DiskFull`] while there is less than the reserve.
    pub fn check_disk_space(&self) -> Result<(), DiskFull> {
        self.0.disk_reserve.publish_error().map_or(Ok(()), Err)
    }

    /// The version in which this node writes, as it stands on its disk.
    pub fn agreed_version(&self) -> AgreedVersion {
        self.0.writer.agreed_version().clone()
    }

    /// Notes on disk that the cluster has this version, and writes in it from then on. A lower version
    /// than the present changes nothing. Builds that do not support the version refuse the directory from
    /// then on.
    ///
    /// # Errors
    /// When it cannot be written; the process is about to end then, or the engine was stopped.
    pub async fn raise_version(&self, version: ClusterVersion) -> io::Result<()> {
        self.0.writer.raise_version(version).await
    }

    /// What the log in `dir` says of itself, without using it for anything else.
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

    /// What the log said of itself when it was opened.
    pub fn log_mark(&self) -> LogMark {
        self.0.log_mark
    }

    /// Takes the times that the cluster has agreed on, at once and for all groups: how long leases
    /// last and are respected. Heartbeats, timeouts and the pace of elections stay those of the
    /// [`ConsensusSettings`].
    pub fn set_times(&self, times: &ClusterTimes) {
        self.0.lease_times.set(times);
    }

    /// Why this node takes part in no group any more: its log was put back to an earlier state, as its
    /// peers know. `NoFault` as long as it does.
    pub fn rollback_reason(&self) -> Option<String> {
        self.0.fence.reason()
    }

    /// The groups of which this node had a replica when the engine was opened. Each must be started
    /// again, whatever else is known: its vote may be needed before anybody can lead.
    pub fn stored_groups(&self) -> &[GroupId] {
        &self.0.stored_groups
    }

    /// The service to mount on the peer port.
    ///
    /// The server must set `TCP_NODELAY`, or every answer waits 40 ms for the peer's delayed
    /// acknowledgement, and should send HTTP/2 keep-alives, or the streams of peers that vanished
    /// stay.
    pub fn service(&self) -> RaftServer<RaftService> {
        RaftServer::new(self.0.service.clone()).max_decoding_message_size(FRAME_BYTES_MAX)
    }

    /// Deletes log and snapshot of a replica that is stopped and that the membership at the log index
    /// `removed_at` does not name. Its vote stays, with a mark that it left: other replicas may not know of
    /// the removal, and still count its vote and its acknowledgements. Started again, it votes once it has
    /// all that its leader has.
    ///
    /// A stopped replica learns nothing, so what is on disk decides: a newer membership that names
    /// this node means that the group has taken it back, counts what it acknowledged, and may count on
    /// its vote.
    ///
    /// # Errors
    /// [`DestroyError::StillMember`] when the group has taken it back: start it again.
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
            #[cfg(feature = "planted-bugs")]
            let was_readded = was_readded && !crate::planted::destroys_readded_replicas();
            if was_readded {
                return Err(DestroyError::StillMember { group, membership: index });
            }
        }
        self.0.writer.destroy(group).await.map_err(|_| DestroyError::Stopped)
    }

    /// Stops all groups, the links and the writer, and unlocks the directory. What was acknowledged
    /// is on disk. What waits for room on a full disk is given up, unacknowledged.
    pub async fn stop(&self) {
        // First of all: who holds the gate may wait for that room.
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

/// An engine that is dropped rather than stopped leaves nothing running.
impl Drop for EngineInner {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn open_store(
    dir: &Path,
    cluster: ClusterId,
    me: NodeId,
    disk_reserve: DiskReserve,
    on_fatal: FatalHook,
) -> Result<OpenedStore, EngineOpenError> {
    let io_error = |error: std::io::Error| EngineOpenError::Io {
        path: dir.to_owned(),
        reason: error.to_string(),
    };
    let open = move |dir: &Path| with_log_mark(dir, RedbStore::open(dir, cluster, me)?);
    let (mut disk, log_mark) = run_blocking(dir, open).await?;
    let stored_groups = disk.groups().map_err(io_error)?;
    let (version, write_counter) = (disk.version(), disk.write_counter());
    let writer = StoreWriter::start(disk, disk_reserve, on_fatal).map_err(io_error)?;
    writer.agreed_version().raise(version);
    Ok(OpenedStore { writer, stored_groups, log_mark, write_counter, fence: Fence::load(dir) })
}

fn with_log_mark(dir: &Path, mut disk: RedbStore) -> Result<(RedbStore, LogMark), EngineOpenError> {
    let log_mark = disk.read_log_mark();
    let failed =
        |error: io::Error| EngineOpenError::Io { path: dir.to_owned(), reason: error.to_string() };
    Ok((disk, log_mark.map_err(failed)?))
}

/// Opening may repair the file after a crash, which takes as long as the file is large.
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

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

use crate::hold::LeaseTimes;
use crate::network::{FRAME_BYTES_MAX, Fence, Groups, Links, LinksParts, Marks};
use crate::recovery;
use crate::space::{Probe, Room, Space};
use crate::store::{Disk, Fatal, LogMark, Writer, Writes};
use crate::{AddressBook, DiskFull, Group, GroupId, InvalidSettings, Service, Settings};

/// All groups of this node: one store, one writer, one stream to each peer. Clones share it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    me: NodeId,
    settings: Arc<Settings>,
    config: Arc<Config>,
    writer: Writer,
    space: Space,
    found: Vec<GroupId>,
    mark: LogMark,
    times: LeaseTimes,
    fence: Fence,
    links: Links,
    service: Service,
    groups: Groups,
    /// Held while a group is started or destroyed, so that neither meets the other half way.
    gate: Mutex<()>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What an engine learns from, and says to, the machine it runs on.
#[derive(Clone)]
pub struct Outside {
    /// How much room the data directory's disk has.
    pub room: Probe,
    /// Called once, on the writer's thread, when the disk has failed, with the reason. After it no
    /// group of the engine makes progress, and the process must not go on.
    pub fatal: Arc<dyn Fn(&str) + Send + Sync>,
}

/// A store as it was opened.
struct Opened {
    writer: Writer,
    found: Vec<GroupId>,
    mark: LogMark,
    writes: Writes,
    fence: Fence,
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    #[error("{} cannot be opened: {why}", path.display())]
    Version {
        /// The store.
        path: PathBuf,
        /// Which version it has, and which this build supports.
        why: UnsupportedVersion,
    },
    /// It cannot be read; nothing was changed.
    #[error("{} is damaged ({why}); nothing was deleted: restore it, or join again as a new node with an empty directory", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no room to open it: redb notes in the file that it is open.
    #[error("{} cannot be opened: its disk is full; free some space there and start again", path.display())]
    Full {
        /// The store.
        path: PathBuf,
    },
    /// The system said no.
    #[error("{} cannot be opened: {why}", path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// What it said.
        why: String,
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
        "group {group} cannot be restored ({why}); nothing was deleted: restore the data \
         directory, or remove this node from the cluster and join again as a new node with an \
         empty one"
    )]
    Damaged {
        /// The group.
        group: GroupId,
        /// What is wrong.
        why: String,
    },
    /// It holds something that this build cannot read. Nothing was changed: a build that reads it goes
    /// on there.
    #[error("group {group} cannot be started: {why}")]
    Unreadable {
        /// The group.
        group: GroupId,
        /// What cannot be read, and what to run instead.
        why: String,
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
    Member {
        /// The group.
        group: GroupId,
        /// The log index of that membership.
        membership: u64,
    },
    /// The engine was stopped.
    #[error("the consensus engine is stopped")]
    Stopped,
}

impl Engine {
    /// Makes the store of a new node in `dir`, whole or not at all. `Ok` when there is one of this
    /// node of this cluster. Call it before anything else remembers that the node exists.
    pub async fn create(dir: &Path, cluster: ClusterId, me: NodeId) -> Result<(), OpenError> {
        with_disk(dir, move |dir| Disk::create(dir, cluster, me)).await
    }

    /// Whether `dir` holds a store, complete and in place.
    pub fn has_store(dir: &Path) -> bool {
        Disk::exists(dir)
    }

    /// Opens the store in `dir` and locks it.
    ///
    /// When the disk fails later the process exits with status 74: what is on disk is not known
    /// then, and a node that goes on could break what it promised.
    pub async fn open(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
        settings: Settings,
        book: AddressBook,
    ) -> Result<Engine, OpenError> {
        let fatal = |why: &str| {
            tracing::error!(why, "the node stops: its disk failed");
            std::process::exit(74);
        };
        let outside = Outside { room: Arc::new(Room::of), fatal: Arc::new(fatal) };
        Engine::open_with(dir, cluster, me, settings, book, outside).await
    }

    /// As [`Engine::open`], on another machine than this one.
    pub async fn open_with(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
        settings: Settings,
        book: AddressBook,
        outside: Outside,
    ) -> Result<Engine, OpenError> {
        for warning in settings.check()? {
            tracing::warn!(why = warning.0, "consensus settings");
        }
        let config = Arc::new(settings.raft()?);
        let space = Space::new(dir, settings.disk_reserve, outside.room);
        let opened = open_store(dir, cluster, me, space.clone(), outside.fatal).await?;
        let keeping = opened.fence.clone().keep(dir.to_owned());
        let engine = Engine::over(opened, space, cluster, me, Arc::new(settings), config, book);
        let Inner { tasks, shutdown, .. } = &*engine.0;
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(keeping));
        Ok(engine)
    }

    fn over(
        opened: Opened,
        space: Space,
        cluster: ClusterId,
        me: NodeId,
        settings: Arc<Settings>,
        config: Arc<Config>,
        book: AddressBook,
    ) -> Engine {
        let Opened { writer, found, mark, writes, fence } = opened;
        let times = LeaseTimes::new(settings.election_max);
        let marks = Marks::new(me, mark.writes, writes, fence.clone());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(space.clone().run(shutdown.clone()));
        let groups = Groups::default();
        let links = Links::new(LinksParts {
            cluster,
            me,
            agreed: writer.agreed().clone(),
            settings: Arc::clone(&settings),
            book: book.clone(),
            marks: marks.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        });
        let service = Service {
            cluster,
            me,
            agreed: writer.agreed().clone(),
            book,
            marks,
            groups: groups.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let gate = Mutex::new(());
        let inner = Inner {
            me,
            settings,
            config,
            writer,
            space,
            found,
            mark,
            times,
            fence,
            links,
            service,
            groups,
            gate,
            tasks,
            shutdown,
        };
        Engine(Arc::new(inner))
    }

    /// Whether there is room to publish on this node's disk.
    ///
    /// # Errors
    /// [`DiskFull`] while there is less than the reserve.
    pub fn room(&self) -> Result<(), DiskFull> {
        self.0.space.refused().map_or(Ok(()), Err)
    }

    /// The version in which this node writes, as it stands on its disk.
    pub fn agreed_version(&self) -> AgreedVersion {
        self.0.writer.agreed().clone()
    }

    /// Notes on disk that the cluster has this version, and writes in it from then on. A lower version
    /// than the present changes nothing. Builds that do not support the version refuse the directory from
    /// then on.
    ///
    /// # Errors
    /// When it cannot be written; the process is about to end then, or the engine was stopped.
    pub async fn raise_version(&self, version: ClusterVersion) -> io::Result<()> {
        self.0.writer.raise(version).await
    }

    /// What the log in `dir` says of itself, without using it for anything else.
    pub async fn mark_in(dir: &Path, cluster: ClusterId, me: NodeId) -> Result<LogMark, OpenError> {
        with_disk(dir, move |dir| marked(dir, Disk::open(dir, cluster, me)?).map(|(_, mark)| mark))
            .await
    }

    /// What the log said of itself when it was opened.
    pub fn mark(&self) -> LogMark {
        self.0.mark
    }

    /// Takes the times that the cluster has agreed on, at once and for all groups: how long leases
    /// last and are respected. Heartbeats, timeouts and the pace of elections stay those of the
    /// [`Settings`].
    pub fn set_times(&self, times: &ClusterTimes) {
        self.0.times.set(times);
    }

    /// Why this node takes part in no group any more: its log was put back to an earlier state, as its
    /// peers know. `None` as long as it does.
    pub fn rolled_back(&self) -> Option<String> {
        self.0.fence.reason()
    }

    /// The groups of which this node had a replica when the engine was opened. Each must be started
    /// again, whatever else is known: its vote may be needed before anybody can lead.
    pub fn found(&self) -> &[GroupId] {
        &self.0.found
    }

    /// The service to mount on the peer port.
    ///
    /// The server must set `TCP_NODELAY`, or every answer waits 40 ms for the peer's delayed
    /// acknowledgement, and should send HTTP/2 keep-alives, or the streams of peers that vanished
    /// stay.
    pub fn service(&self) -> RaftServer<Service> {
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
    /// [`DestroyError::Member`] when the group has taken it back: start it again.
    pub async fn destroy(&self, group: GroupId, removed_at: u64) -> Result<(), DestroyError> {
        let _gate = self.0.gate.lock().await;
        if self.0.groups.get(group).is_some() {
            return Err(DestroyError::Running(group));
        }
        let (writer, stored) =
            self.0.writer.open(group).await.map_err(|_| DestroyError::Stopped)?;
        if let Some(newest) = recovery::newest_membership(&writer, &stored).await {
            let index = newest.log_id().map_or(0, |id| id.index);
            let is_back =
                index > removed_at && newest.membership().get_node(&self.0.me.0).is_some();
            #[cfg(feature = "planted-bugs")]
            let is_back = is_back && !crate::planted::destroys_members();
            if is_back {
                return Err(DestroyError::Member { group, membership: index });
            }
        }
        self.0.writer.destroy(group).await.map_err(|_| DestroyError::Stopped)
    }

    /// Stops all groups, the links and the writer, and unlocks the directory. What was acknowledged
    /// is on disk. What waits for room on a full disk is given up, unacknowledged.
    pub async fn stop(&self) {
        // First of all: who holds the gate may wait for that room.
        self.0.shutdown.cancel();
        self.0.writer.give_up();
        let _gate = self.0.gate.lock().await;
        let groups = self.0.groups.all();
        futures::future::join_all(groups.iter().map(Group::stop)).await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.writer.close().await;
    }
}

/// An engine that is dropped rather than stopped leaves nothing running.
impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn open_store(
    dir: &Path,
    cluster: ClusterId,
    me: NodeId,
    space: Space,
    fatal: Fatal,
) -> Result<Opened, OpenError> {
    let io = |error: std::io::Error| OpenError::Io { path: dir.to_owned(), why: error.to_string() };
    let open = move |dir: &Path| marked(dir, Disk::open(dir, cluster, me)?);
    let (mut disk, mark) = with_disk(dir, open).await?;
    let found = disk.groups().map_err(io)?;
    let (version, writes) = (disk.version(), disk.writes());
    let writer = Writer::start(disk, space, fatal).map_err(io)?;
    writer.agreed().raise(version);
    Ok(Opened { writer, found, mark, writes, fence: Fence::of(dir) })
}

fn marked(dir: &Path, mut disk: Disk) -> Result<(Disk, LogMark), OpenError> {
    let mark = disk.mark();
    let failed = |why: io::Error| OpenError::Io { path: dir.to_owned(), why: why.to_string() };
    Ok((disk, mark.map_err(failed)?))
}

/// Opening may repair the file after a crash, which takes as long as the file is large.
async fn with_disk<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&Path) -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let path = dir.to_owned();
    let worked = tokio::task::spawn_blocking(move || work(&path)).await;
    let failed = |error: tokio::task::JoinError| OpenError::Io {
        path: dir.to_owned(),
        why: error.to_string(),
    };
    worked.map_err(failed)?
}

#[cfg(test)]
#[path = "engine/full_disk_test.rs"]
mod full_disk_test;

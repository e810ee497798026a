//! The identity of a node, stored in its data directory, which one process at a time has open.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use pushonce_core::{ClusterId, ClusterTimes, ConsensusTimes, FailPoint, HostPort, NodeId};
use pushonce_telemetry::LogLimiter;
use serde::{Deserialize, Serialize};

use super::join_outcome::JoinRequester;
use crate::metrics::DATA_WRITE_ERRORS;

/// Maximum size of the peers file: 1,000 members with a line of at most 260 bytes each.
const PEERS_BYTES_MAX: u64 = 512 << 10;

/// A data directory that is open in this process, and in no other.
pub(super) struct DataDir {
    path: PathBuf,
    incarnation: [u8; 16],
    start_count: u64,
    /// The lock of the directory. The system releases it when the process dies.
    _lock: File,
}

/// The identity of a node that belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The cluster that the node belongs to.
    pub(super) cluster: ClusterId,
    /// The id of the node in that cluster.
    pub(super) node: NodeId,
    /// Set by `pushonce init` until every shard group is initialized. Only such a node may ever
    /// initialize one: two initializations of a group would be two histories.
    pub(super) bootstrap: Option<BootstrapConfig>,
}

impl Identity {
    /// This node as the sender of a join request.
    pub(super) fn join_requester(&self) -> JoinRequester {
        JoinRequester::Member { cluster: self.cluster, node: self.node }
    }
}

/// The settings that `pushonce init` fixed for the new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BootstrapConfig {
    /// Number of shards. Permanent.
    pub(super) shards: u16,
    /// Replicas per shard.
    pub(super) replicas: u8,
}

/// The JSON of the file: ids in their printed form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    cluster: String,
    node: u64,
    bootstrap: Option<BootstrapConfig>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataDirError {
    /// Another process has the directory open.
    #[error(
        "the data directory {path} is already open in another process; \
         stop that process, or choose another directory with --data", path = .0.display()
    )]
    InUse(PathBuf),
    /// The directory cannot be read or written.
    #[error("cannot read or write {path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// A file has content that no node wrote, or is damaged. Nothing is deleted.
    #[error(
        "{path} cannot be read ({reason}); restore it from a backup, or remove the node from the \
         cluster and let it join again with an empty directory", path = .path.display()
    )]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
}

impl DataDir {
    /// Opens a directory, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`DataDirError`] when it is in use, or cannot be read or written.
    pub(super) fn open(path: &Path) -> Result<DataDir, DataDirError> {
        fs::create_dir_all(path).map_err(io_error(path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(io_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io_error(&lock_path)(error)),
        }
        let incarnation = load_or_create_incarnation(&path.join("incarnation"))?;
        let starts = increment_start_count(&path.join("starts"))?;
        Ok(DataDir { path: path.to_owned(), incarnation, start_count: starts, _lock: lock })
    }

    /// How often the directory was opened, this time included. The count is on disk before anything else is
    /// done with the directory.
    pub(super) fn start_count(&self) -> u64 {
        self.start_count
    }

    /// The last known peer addresses of the other members, as `host:port`. A hint: an unreadable file counts
    /// as empty, and invalid lines are skipped.
    pub(super) fn peers(&self) -> Vec<String> {
        let path = self.peers_path();
        let bytes = match File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(PEERS_BYTES_MAX).read_to_end(&mut bytes).map(|_| bytes)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let bytes = bytes.unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "cannot read the last known peers");
            Vec::new()
        });
        let text = String::from_utf8_lossy(&bytes);
        let addresses = text.lines().filter_map(|line| line.trim().parse::<HostPort>().ok());
        addresses.map(|address| address.to_string()).collect()
    }

    /// Stores the addresses of the other members, so that they can be asked before anything else in the
    /// directory is used. A hint: an error is logged. Returns whether they are stored; if not, store them again
    /// later.
    pub(super) fn save_peers(&self, peers: &[String]) -> bool {
        let path = self.peers_path();
        let written = write_atomically(&path, peers.join("\n").as_bytes());
        let is_written = written.is_ok();
        if let Err(error) = written {
            DATA_WRITE_ERRORS.register_counter(&["peers"]).increment(1);
            static LIMITER: LogLimiter = LogLimiter::new();
            if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                tracing::warn!(%error, path = %path.display(), suppressed,
                    "cannot write the last known peers, retrying");
            }
        }
        is_written
    }

    fn peers_path(&self) -> PathBuf {
        self.path.join("peers")
    }

    /// The consensus times that the node had in force last. They are written before the identity: without
    /// them the node would have to guess how long the leases of other nodes last.
    ///
    /// # Errors
    /// [`DataDirError`] when the file cannot be read or does not exist.
    pub(super) fn load_times(&self) -> Result<ClusterTimes, DataDirError> {
        let path = self.path.join("times.json");
        let text = match fs::read_to_string(&path) {
            Err(_) if FailPoint::LostTimesDefaulted.is_active() => {
                return Ok(ClusterTimes::new(ConsensusTimes::LAN));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DataDirError::Corrupted { path, reason: error.to_string() });
            }
            result => result.map_err(io_error(&path))?,
        };
        serde_json::from_str(&text)
            .map_err(|error| DataDirError::Corrupted { path, reason: error.to_string() })
    }

    /// Writes the consensus times. They are durable when this returns, and acknowledged only then.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when the file cannot be written.
    pub(super) fn save_times(&self, times: &ClusterTimes) -> Result<(), DataDirError> {
        let path = self.path.join("times.json");
        let text =
            serde_json::to_string_pretty(times).map_err(|error| io_error(&path)(error.into()))?;
        write_atomically(&path, text.as_bytes())
            .inspect_err(|_| DATA_WRITE_ERRORS.register_counter(&["times.json"]).increment(1))
    }

    /// The path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A random value drawn when the directory was created: a join repeated with it gets the same node id.
    pub(super) fn incarnation(&self) -> [u8; 16] {
        self.incarnation
    }

    /// The identity of the node; `None` in a directory that belongs to no cluster yet.
    ///
    /// # Errors
    /// [`DataDirError::Corrupted`] when the file exists and cannot be parsed.
    pub(super) fn load_identity(&self) -> Result<Option<Identity>, DataDirError> {
        let path = self.identity_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let corrupted = |reason: String| DataDirError::Corrupted { path: path.clone(), reason };
        let file: IdentityFile =
            serde_json::from_str(&text).map_err(|error| corrupted(error.to_string()))?;
        let cluster =
            file.cluster.parse().map_err(|_| corrupted("the cluster id is invalid".to_owned()))?;
        Ok(Some(Identity { cluster, node: NodeId(file.node), bootstrap: file.bootstrap }))
    }

    /// Writes the identity atomically: after a power cut it is there completely or not at all.
    ///
    /// # Errors
    /// [`DataDirError::Io`] when the file cannot be written.
    pub(super) fn save_identity(&self, identity: &Identity) -> Result<(), DataDirError> {
        let path = self.identity_path();
        let file = IdentityFile {
            cluster: identity.cluster.to_string(),
            node: identity.node.0,
            bootstrap: identity.bootstrap,
        };
        let text =
            serde_json::to_string_pretty(&file).map_err(|error| io_error(&path)(error.into()))?;
        write_atomically(&path, text.as_bytes())
    }

    fn identity_path(&self) -> PathBuf {
        self.path.join("identity.json")
    }
}

fn load_or_create_incarnation(path: &Path) -> Result<[u8; 16], DataDirError> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| DataDirError::Corrupted {
            path: path.to_owned(),
            reason: "it must have 16 bytes".to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let generated: [u8; 16] = rand::random();
            write_atomically(path, &generated)?;
            Ok(generated)
        }
        Err(error) => Err(io_error(path)(error)),
    }
}

/// Increments the stored count, and returns the new one.
fn increment_start_count(path: &Path) -> Result<u64, DataDirError> {
    let corrupted = || DataDirError::Corrupted {
        path: path.to_owned(),
        reason: "it is not a number".to_owned(),
    };
    let previous: u64 = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| corrupted())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io_error(path)(error)),
    };
    let now = previous.checked_add(1).ok_or_else(corrupted)?;
    write_atomically(path, now.to_string().as_bytes())?;
    Ok(now)
}

/// Writes a temporary file, syncs it, renames it over the target, and syncs the directory.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    let temp_path = path.with_extension("new");
    let mut file = File::create(&temp_path).map_err(io_error(&temp_path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error(&temp_path))?;
    fs::rename(&temp_path, path).map_err(io_error(path))?;
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error(parent))
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> DataDirError {
    let path = path.to_owned();
    move |error| DataDirError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use pushonce_core::ConsensusTimes;

    use super::*;

    #[test]
    fn data_directory_stores_the_identity_of_the_node() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bootstrap = Some(BootstrapConfig { shards: 16, replicas: 3 });
        let identity = Identity { cluster: ClusterId(7), node: NodeId(3), bootstrap };
        let (first, incarnation) = {
            let data = DataDir::open(dir.path()).expect("opens");
            assert_eq!(data.load_identity().expect("reads"), None);
            data.save_identity(&identity).expect("writes");
            (data.load_identity().expect("reads"), data.incarnation())
        };
        assert_eq!(first, Some(identity.clone()));
        let reopened = DataDir::open(dir.path()).expect("opens again");
        assert_eq!(reopened.load_identity().expect("reads"), Some(identity));
        assert_eq!(reopened.incarnation(), incarnation);
    }

    #[test]
    fn data_directory_cannot_be_opened_twice() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let _first = DataDir::open(dir.path()).expect("opens");
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse(_))));
    }

    #[test]
    fn start_count_increases_at_each_start_and_continues_from_a_restored_copy() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start_count = || DataDir::open(dir.path()).expect("opens").start_count();
        assert_eq!((start_count(), start_count()), (1, 2));
        fs::write(dir.path().join("starts"), "1").expect("writes");
        assert_eq!(start_count(), 2);
        fs::write(dir.path().join("starts"), "many").expect("writes");
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Corrupted { .. })));
    }

    #[test]
    fn data_directory_stores_the_consensus_times() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(dir.path()).expect("opens");
        assert!(matches!(data.load_times(), Err(DataDirError::Corrupted { .. })), "no guess");
        let (current, next) = (ConsensusTimes::LAN, Some(ConsensusTimes::WAN));
        let times = ClusterTimes { version: 2, current, next };
        data.save_times(&times).expect("writes");
        assert_eq!(data.load_times().expect("reads"), times);
        fs::write(dir.path().join("times.json"), "{}").expect("writes");
        assert!(matches!(data.load_times(), Err(DataDirError::Corrupted { .. })));
    }

    #[test]
    fn data_directory_stores_the_addresses_of_peers() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(dir.path()).expect("opens");
        assert_eq!(data.peers(), Vec::<String>::new());
        let peers = ["a:1".to_owned(), "b:2".to_owned()];
        assert!(data.save_peers(&peers));
        assert_eq!(data.peers(), peers);
    }

    #[test]
    fn invalid_lines_of_the_peers_file_are_skipped() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(dir.path()).expect("opens");
        let path = dir.path().join("peers");
        fs::write(&path, b"a b:7091\nhttp://c\n\xff\xfe:1\n b:2 \n:0\n").expect("writes");
        assert_eq!(data.peers(), ["b:2"]);
        fs::remove_file(&path).expect("the file exists");
        fs::create_dir(&path).expect("create a directory in its place");
        assert_eq!(data.peers(), Vec::<String>::new());
        assert!(!data.save_peers(&["a:1".to_owned()]), "a directory is in its place");
        fs::remove_dir(&path).expect("remove it");
        assert!(data.save_peers(&["a:1".to_owned()]));
    }

    #[test]
    fn corrupted_identity_is_reported_and_not_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(dir.path()).expect("opens");
        let path = dir.path().join("identity.json");
        fs::write(&path, "{\"cluster\":").expect("writes");
        assert!(matches!(data.load_identity(), Err(DataDirError::Corrupted { .. })));
        assert_eq!(fs::read_to_string(&path).expect("the file exists"), "{\"cluster\":");
    }
}

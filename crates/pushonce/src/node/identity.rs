//! Who a node is: kept in its data directory, held open by one process at a time.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use pushonce_core::{ClusterId, ClusterTimes, HostPort, NodeId};
use serde::{Deserialize, Serialize};

use super::verdict::Asker;

/// A peers file has a line of at most 260 bytes for each of at most 1,000 members.
const PEERS_BYTES_MAX: u64 = 512 << 10;

/// A data directory that this process, and no other, has open.
pub(super) struct DataDir {
    path: PathBuf,
    incarnation: [u8; 16],
    starts: u64,
    /// Held for as long as the node lives; the system lets go of it when the process dies.
    _lock: File,
}

/// What a node is once it belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The cluster it belongs to.
    pub(super) cluster: ClusterId,
    /// Its own id there.
    pub(super) node: NodeId,
    /// Set by `pushonce init` until every shard group is initialized. Only such a node may ever
    /// initialize one: two initializations of a group would be two histories.
    pub(super) bootstrap: Option<Bootstrap>,
}

impl Identity {
    /// This node as one that asks other members.
    pub(super) fn asker(&self) -> Asker {
        Asker::Member { cluster: self.cluster, node: self.node }
    }
}

/// What `pushonce init` fixed for the new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bootstrap {
    /// Number of shards, permanent.
    pub(super) shards: u16,
    /// Replicas per shard.
    pub(super) replicas: u8,
}

/// As it stands in the file: ids in the form they are printed in.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    cluster: String,
    node: u64,
    bootstrap: Option<Bootstrap>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    /// Another process has it.
    #[error(
        "the data directory {path} is already open in another process; \
         stop that one, or give this one a directory of its own with --data", path = .0.display()
    )]
    InUse(PathBuf),
    /// It cannot be read or written.
    #[error("the data directory {path}: {why}", path = .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// There is something in it that no node wrote, or that was damaged. Nothing is deleted.
    #[error(
        "{path} cannot be read ({why}); restore it from a copy, or remove the node from the \
         cluster and let it join again with an empty directory", path = .path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl DataDir {
    /// Opens a directory, making it when it is not there.
    ///
    /// # Errors
    /// [`DataError`] when it is in use, or cannot be read or written.
    pub(super) fn open(path: &Path) -> Result<DataDir, DataError> {
        fs::create_dir_all(path).map_err(io(path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataError::InUse(path.to_owned())),
            Err(TryLockError::Error(why)) => return Err(io(&lock_path)(why)),
        }
        let incarnation = incarnation(&path.join("incarnation"))?;
        let starts = count(&path.join("starts"))?;
        Ok(DataDir { path: path.to_owned(), incarnation, starts, _lock: lock })
    }

    /// How often the directory was opened, this time included; on disk before anything else is done
    /// with it.
    pub(super) fn starts(&self) -> u64 {
        self.starts
    }

    /// Where the other members were last, as `host:port` of their peer ports. A hint: a file that cannot
    /// be read is an empty one, and a line that is no address is left out.
    pub(super) fn peers(&self) -> Vec<String> {
        let path = self.peers_path();
        let bytes = match File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(PEERS_BYTES_MAX).read_to_end(&mut bytes).map(|_| bytes)
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(why) => Err(why),
        };
        let bytes = bytes.unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "cannot read the last known peers");
            Vec::new()
        });
        let text = String::from_utf8_lossy(&bytes);
        let addresses = text.lines().filter_map(|line| line.trim().parse::<HostPort>().ok());
        addresses.map(|address| address.to_string()).collect()
    }

    /// Remembers where the other members are, so that they can be asked before anything of the
    /// directory is used. A hint: an error is logged, and nothing else.
    pub(super) fn keep_peers(&self, peers: &[String]) {
        let path = self.peers_path();
        if let Err(error) = write_whole(&path, peers.join("\n").as_bytes()) {
            tracing::warn!(%error, path = %path.display(), "cannot write the last known peers");
        }
    }

    fn peers_path(&self) -> PathBuf {
        self.path.join("peers")
    }

    /// The times of consensus that the node had in force last. They are older than the identity: without
    /// them the node would guess how long the leases of others last.
    ///
    /// # Errors
    /// [`DataError`] when the file cannot be read, or is not there.
    pub(super) fn times(&self) -> Result<ClusterTimes, DataError> {
        let path = self.path.join("times.json");
        let text = match fs::read_to_string(&path) {
            #[cfg(feature = "planted-bugs")]
            Err(_) if super::planted::guesses_times() => {
                return Ok(ClusterTimes::new(pushonce_core::ConsensusTimes::LAN));
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                return Err(DataError::Damaged { path, why: why.to_string() });
            }
            read => read.map_err(io(&path))?,
        };
        serde_json::from_str(&text).map_err(|why| DataError::Damaged { path, why: why.to_string() })
    }

    /// Writes the times of consensus, durable when it returns: before they are acknowledged.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub(super) fn keep_times(&self, times: &ClusterTimes) -> Result<(), DataError> {
        let path = self.path.join("times.json");
        let text = serde_json::to_string_pretty(times).map_err(|why| io(&path)(why.into()))?;
        write_whole(&path, text.as_bytes())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Drawn when the directory was made: a join that is repeated with it gets the same node id.
    pub(super) fn incarnation(&self) -> [u8; 16] {
        self.incarnation
    }

    /// Who the node is; `None` in a directory that belongs to no cluster yet.
    ///
    /// # Errors
    /// [`DataError::Damaged`] when the file is there and cannot be understood.
    pub(super) fn identity(&self) -> Result<Option<Identity>, DataError> {
        let path = self.identity_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(io(&path)(why)),
        };
        let damaged = |why: String| DataError::Damaged { path: path.clone(), why };
        let file: IdentityFile =
            serde_json::from_str(&text).map_err(|why| damaged(why.to_string()))?;
        let cluster = file.cluster.parse().map_err(|_| damaged("no cluster id".to_owned()))?;
        Ok(Some(Identity { cluster, node: NodeId(file.node), bootstrap: file.bootstrap }))
    }

    /// Writes who the node is, so that it is there after a power cut or not at all.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub(super) fn keep(&self, identity: &Identity) -> Result<(), DataError> {
        let path = self.identity_path();
        let file = IdentityFile {
            cluster: identity.cluster.to_string(),
            node: identity.node.0,
            bootstrap: identity.bootstrap,
        };
        let text = serde_json::to_string_pretty(&file).map_err(|why| io(&path)(why.into()))?;
        write_whole(&path, text.as_bytes())
    }

    fn identity_path(&self) -> PathBuf {
        self.path.join("identity.json")
    }
}

fn incarnation(path: &Path) -> Result<[u8; 16], DataError> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| DataError::Damaged {
            path: path.to_owned(),
            why: "it should have 16 bytes".to_owned(),
        }),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            let drawn: [u8; 16] = rand::random();
            write_whole(path, &drawn)?;
            Ok(drawn)
        }
        Err(why) => Err(io(path)(why)),
    }
}

/// One more than it says there, and now it says so there.
fn count(path: &Path) -> Result<u64, DataError> {
    let damaged = || DataError::Damaged { path: path.to_owned(), why: "it is no count".to_owned() };
    let before: u64 = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| damaged())?,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => 0,
        Err(why) => return Err(io(path)(why)),
    };
    let now = before.checked_add(1).ok_or_else(damaged)?;
    write_whole(path, now.to_string().as_bytes())?;
    Ok(now)
}

/// Beside it, synced, then renamed over it, then the directory synced: whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft).map_err(io(&draft))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io(&draft))?;
    fs::rename(&draft, path).map_err(io(path))?;
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
    let path = path.to_owned();
    move |why| DataError::Io { path, why }
}

#[cfg(test)]
mod tests {
    use pushonce_core::ConsensusTimes;

    use super::*;

    #[test]
    fn a_directory_remembers_who_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let bootstrap = Some(Bootstrap { shards: 16, replicas: 3 });
        let identity = Identity { cluster: ClusterId(7), node: NodeId(3), bootstrap };
        let (first, incarnation) = {
            let data = DataDir::open(dir.path()).expect("opens");
            assert_eq!(data.identity().expect("reads"), None);
            data.keep(&identity).expect("writes");
            (data.identity().expect("reads"), data.incarnation())
        };
        assert_eq!(first, Some(identity.clone()));
        let again = DataDir::open(dir.path()).expect("opens again");
        assert_eq!(again.identity().expect("reads"), Some(identity));
        assert_eq!(again.incarnation(), incarnation);
    }

    #[test]
    fn a_directory_is_open_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let _held = DataDir::open(dir.path()).expect("opens");
        assert!(matches!(DataDir::open(dir.path()), Err(DataError::InUse(_))));
    }

    #[test]
    fn every_start_is_counted_and_a_copy_counts_on_from_where_it_was_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let starts = || DataDir::open(dir.path()).expect("opens").starts();
        assert_eq!((starts(), starts()), (1, 2));
        fs::write(dir.path().join("starts"), "1").expect("writes");
        assert_eq!(starts(), 2);
        fs::write(dir.path().join("starts"), "many").expect("writes");
        assert!(matches!(DataDir::open(dir.path()), Err(DataError::Damaged { .. })));
    }

    #[test]
    fn a_directory_remembers_the_times_of_consensus() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("opens");
        assert!(matches!(data.times(), Err(DataError::Damaged { .. })), "never guessed");
        let (current, next) = (ConsensusTimes::LAN, Some(ConsensusTimes::WAN));
        let times = ClusterTimes { version: 2, current, next };
        data.keep_times(&times).expect("writes");
        assert_eq!(data.times().expect("reads"), times);
        fs::write(dir.path().join("times.json"), "{}").expect("writes");
        assert!(matches!(data.times(), Err(DataError::Damaged { .. })));
    }

    #[test]
    fn a_directory_remembers_where_the_others_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("opens");
        assert_eq!(data.peers(), Vec::<String>::new());
        let peers = ["a:1".to_owned(), "b:2".to_owned()];
        data.keep_peers(&peers);
        assert_eq!(data.peers(), peers);
    }

    #[test]
    fn a_peers_file_of_any_content_is_read_as_far_as_it_makes_sense() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("opens");
        let path = dir.path().join("peers");
        fs::write(&path, b"a b:7091\nhttp://c\n\xff\xfe:1\n b:2 \n:0\n").expect("writes");
        assert_eq!(data.peers(), ["b:2"]);
        fs::remove_file(&path).expect("it was there");
        fs::create_dir(&path).expect("a directory in its place");
        assert_eq!(data.peers(), Vec::<String>::new());
        data.keep_peers(&["a:1".to_owned()]);
    }

    #[test]
    fn a_damaged_identity_is_told_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("opens");
        let path = dir.path().join("identity.json");
        fs::write(&path, "{\"cluster\":").expect("writes");
        assert!(matches!(data.identity(), Err(DataError::Damaged { .. })));
        assert_eq!(fs::read_to_string(&path).expect("is there"), "{\"cluster\":");
    }
}

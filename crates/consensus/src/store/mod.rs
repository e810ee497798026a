//! The storage interface of consensus: the logs, votes and snapshots of all groups of a node.

mod backend;
mod delayed_fsync;
mod log_mark;
mod record;
mod redb_panic;
mod redb_store;
mod writer;

use std::io;

use bytes::Bytes;
use pushonce_core::ClusterVersion;

pub(crate) use delayed_fsync::DelayedFsyncStore;
pub use log_mark::LogMark;
pub(crate) use log_mark::WriteCounter;
pub(crate) use record::{
    decode_record, decode_record_with_data, encode_record, encode_record_with_data,
    unsupported_version,
};
pub(crate) use redb_store::{RedbStore, STORE_FILE, rename_durably};
pub(crate) use writer::{FatalHook, GroupWriter, StoreWriter, WriteCompletion};

use crate::GroupId;

/// Stores the logs of all groups. Records are opaque to it.
pub(crate) trait RaftStore: Send + 'static {
    /// Makes all changes durable, in order, or none. After an error of kind `StorageFull` the caller retries:
    /// either all changes or none are visible, and applying them twice has the same effect as once. After any
    /// other error the store is not used any more, because the state on disk is unknown.
    fn write(&mut self, changes: &[(GroupId, StoreChange)]) -> io::Result<()>;

    /// Reads a group without the pieces of its snapshot.
    fn read(&mut self, group: GroupId) -> io::Result<StoredGroup>;

    /// Reads one piece of a snapshot.
    fn read_piece(
        &mut self,
        group: GroupId,
        generation: u64,
        number: u32,
    ) -> io::Result<Option<Bytes>>;
}

/// One change of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreChange {
    /// Writes an entry.
    Append { index: u64, record: Bytes },
    /// Deletes every entry from this index on.
    Truncate { from: u64 },
    /// Deletes every entry up to and including this index, and stores the last one deleted.
    Purge { upto: u64, record: Bytes },
    /// Replaces a single value.
    Set { key: StoreKey, record: Bytes },
    /// Writes a piece of a snapshot. It is used once [`StoreKey::Snapshot`] names its generation.
    PutPiece { generation: u64, number: u32, record: Bytes },
    /// Deletes all pieces of a snapshot.
    DeletePieces { generation: u64 },
    /// Removes a single value.
    Remove { key: StoreKey },
    /// Deletes everything that a damaged replica restores from the other replicas: all but its vote and the
    /// recovery mark.
    ClearReplica,
    /// Deletes everything but the vote, and sets [`StoreKey::Removed`].
    Destroy,
    /// Sets the cluster version of the whole store.
    SetVersion(ClusterVersion),
}

/// The single values of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKey {
    Vote,
    Committed,
    Purged,
    Snapshot,
    /// The replica lost data that it had acknowledged.
    Recovering,
    /// The replica left its group and was destroyed. Started again, it must recover first.
    Removed,
}

/// The records of a group on disk, not decoded and not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredGroup {
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<Bytes>,
    pub(crate) snapshot: Option<Bytes>,
    pub(crate) recovering: Option<Bytes>,
    pub(crate) removed: Option<Bytes>,
    /// The generations that have snapshot pieces.
    pub(crate) generations: Vec<u64>,
    /// By index, increasing.
    pub(crate) entries: Vec<Bytes>,
}

impl StoreChange {
    /// The approximate memory of a queued change.
    fn approximate_bytes(&self) -> usize {
        match self {
            StoreChange::Append { record, .. }
            | StoreChange::Purge { record, .. }
            | StoreChange::PutPiece { record, .. }
            | StoreChange::Set { record, .. } => record.len() + 64,
            StoreChange::Truncate { .. }
            | StoreChange::DeletePieces { .. }
            | StoreChange::Remove { .. }
            | StoreChange::ClearReplica
            | StoreChange::Destroy
            | StoreChange::SetVersion(_) => 64,
        }
    }
}

#[cfg(test)]
mod faults_test;

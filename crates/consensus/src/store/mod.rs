//! What is on disk, behind a narrow seam: everything a store has to do for all groups of a node.

mod backend;
mod delayed_fsync;
mod log_mark;
mod record;
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
pub(crate) use redb_store::{RedbStore, rename_durably};
pub(crate) use writer::{FatalHook, GroupWriter, StoreWriter, WriteCompletion};

use crate::GroupId;

/// Keeps the logs of all groups. Records are opaque to it.
pub(crate) trait RaftStore: Send + 'static {
    /// Makes all changes durable, in order, or none. After an error of the kind `StorageFull` they
    /// are to be tried again: all of them are seen or none, and to make them twice is as to make them
    /// once. After any other error nothing more is asked of the store: what is on disk is no longer
    /// known.
    fn write(&mut self, changes: &[(GroupId, StoreChange)]) -> io::Result<()>;

    /// Reads all of a group but the pieces of its snapshot.
    fn read(&mut self, group: GroupId) -> io::Result<StoredGroup>;

    /// Reads one piece of a snapshot.
    fn read_piece(
        &mut self,
        group: GroupId,
        generation: u64,
        number: u32,
    ) -> io::Result<Option<Bytes>>;
}

/// One change of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreChange {
    /// Puts an entry.
    Append { index: u64, record: Bytes },
    /// Drops every entry from this index on.
    Truncate { from: u64 },
    /// Drops every entry up to and with this index, and remembers the last one dropped.
    Purge { upto: u64, record: Bytes },
    /// Replaces a single value.
    Set { key: StoreKey, record: Bytes },
    /// Puts a piece of a snapshot. It counts once [`StoreKey::RaftSnapshot`] names its generation.
    PutPiece { generation: u64, number: u32, record: Bytes },
    /// Drops all pieces of a snapshot.
    DeletePieces { generation: u64 },
    /// Removes a single value.
    Remove { key: StoreKey },
    /// Drops what a damaged replica gets from the others again: all but its vote and the mark that
    /// it recovers.
    ClearReplica,
    /// Drops all there is but the vote, and notes [`StoreKey::Removed`].
    Destroy,
    /// Notes the version of the cluster, of the whole store.
    SetVersion(ClusterVersion),
}

/// The single values of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKey {
    Vote,
    Committed,
    Purged,
    Snapshot,
    /// The replica has lost something it had acknowledged.
    Recovering,
    /// The replica has left its group and was destroyed. Started again, it must recover first.
    Removed,
}

/// A group as it lies on disk: sealed records, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredGroup {
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<Bytes>,
    pub(crate) snapshot: Option<Bytes>,
    pub(crate) recovering: Option<Bytes>,
    pub(crate) removed: Option<Bytes>,
    /// The snapshots of which there are pieces.
    pub(crate) generations: Vec<u64>,
    /// By index, rising.
    pub(crate) entries: Vec<Bytes>,
}

impl StoreChange {
    /// About how much it occupies while it waits.
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

//! What is on disk, behind a narrow seam: everything a store has to do for all groups of a node.

mod backend;
mod disk;
mod mark;
#[cfg(feature = "planted-bugs")]
mod planted;
mod record;
mod writer;

use std::io;

use bytes::Bytes;
use pushonce_core::ClusterVersion;

pub(crate) use disk::{Disk, put_in_place};
pub use mark::LogMark;
pub(crate) use mark::Writes;
pub(crate) use record::{open, open_with, seal, seal_with, unsupported};
pub(crate) use writer::{Done, Fatal, GroupWriter, Writer};

use crate::GroupId;

/// Keeps the logs of all groups. Records are opaque to it.
pub(crate) trait Store: Send + 'static {
    /// Makes all changes durable, in order, or none. After an error of the kind `StorageFull` they
    /// are to be tried again: all of them are seen or none, and to make them twice is as to make them
    /// once. After any other error nothing more is asked of the store: what is on disk is no longer
    /// known.
    fn write(&mut self, changes: &[(GroupId, Change)]) -> io::Result<()>;

    /// Reads all of a group but the pieces of its snapshot.
    fn read(&mut self, group: GroupId) -> io::Result<Stored>;

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
pub(crate) enum Change {
    /// Puts an entry.
    Append { index: u64, record: Bytes },
    /// Drops every entry from this index on.
    Truncate { from: u64 },
    /// Drops every entry up to and with this index, and remembers the last one dropped.
    Purge { upto: u64, record: Bytes },
    /// Replaces a single value.
    Set { key: Key, record: Bytes },
    /// Puts a piece of a snapshot. It counts once [`Key::Snapshot`] names its generation.
    Piece { generation: u64, number: u32, record: Bytes },
    /// Drops all pieces of a snapshot.
    Forget { generation: u64 },
    /// Removes a single value.
    Unset { key: Key },
    /// Drops what a damaged replica gets from the others again: all but its vote and the mark that
    /// it recovers.
    Clear,
    /// Drops all there is but the vote, and notes [`Key::Left`].
    Destroy,
    /// Notes the version of the cluster, of the whole store.
    Version(ClusterVersion),
}

/// The single values of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Vote,
    Committed,
    Purged,
    Snapshot,
    /// The replica has lost something it had acknowledged.
    Recovering,
    /// The replica has left its group and was destroyed. Started again, it must recover first.
    Left,
}

/// A group as it lies on disk: sealed records, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<Bytes>,
    pub(crate) snapshot: Option<Bytes>,
    pub(crate) recovering: Option<Bytes>,
    pub(crate) left: Option<Bytes>,
    /// The snapshots of which there are pieces.
    pub(crate) generations: Vec<u64>,
    /// By index, rising.
    pub(crate) entries: Vec<Bytes>,
}

impl Change {
    /// About how much it occupies while it waits.
    fn size(&self) -> usize {
        match self {
            Change::Append { record, .. }
            | Change::Purge { record, .. }
            | Change::Piece { record, .. }
            | Change::Set { record, .. } => record.len() + 64,
            Change::Truncate { .. }
            | Change::Forget { .. }
            | Change::Unset { .. }
            | Change::Clear
            | Change::Destroy
            | Change::Version(_) => 64,
        }
    }
}

#[cfg(test)]
mod faults_test;

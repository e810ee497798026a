//! What is on disk, behind a narrow seam: everything a store has to do for all groups of a node.

mod disk;
mod record;
mod writer;

use std::io;

use bytes::Bytes;

pub(crate) use disk::Disk;
pub(crate) use record::{open, seal};
pub(crate) use writer::{Done, Fatal, GroupWriter, Writer};

use crate::GroupId;

/// Keeps the logs of all groups. Records are opaque to it.
pub(crate) trait Store: Send + 'static {
    /// Makes all changes durable, in order, or none. After an error nothing more is asked of the
    /// store: what is on disk is no longer known.
    fn write(&mut self, changes: &[(GroupId, Change)]) -> io::Result<()>;

    /// Reads all of a group but its snapshot.
    fn read(&mut self, group: GroupId) -> io::Result<Stored>;

    /// Reads a group's snapshot.
    fn read_snapshot(&mut self, group: GroupId) -> io::Result<Option<Bytes>>;
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
    /// Drops all there is.
    Destroy,
}

/// The single values of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Vote,
    Committed,
    Purged,
    Snapshot,
}

/// A group as it lies on disk: sealed records, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<Bytes>,
    /// By index, rising.
    pub(crate) entries: Vec<Bytes>,
}

impl Change {
    /// About how much it occupies while it waits.
    fn size(&self) -> usize {
        match self {
            Change::Append { record, .. }
            | Change::Purge { record, .. }
            | Change::Set { record, .. } => record.len() + 64,
            Change::Truncate { .. } | Change::Destroy => 64,
        }
    }
}

//! The port to the replicated state machines.

use std::io::{self, Write};

use bytes::Bytes;
use pushonce_core::Term;
use pushonce_core::versioned::VersionedDecodeError;

use crate::GroupId;

/// The log position of an entry in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId {
    /// The index. It increases with every entry and may skip values (elections and membership changes).
    pub index: u64,
    /// The term under which the entry was proposed.
    pub term: Term,
}

/// A state captured at one moment and not encoded yet.
pub struct StateSnapshot(Box<EncodeFn>);

type EncodeFn = dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send;

/// A deterministic state machine: on every replica the same entries in the same order must produce the same
/// state and the same responses. All methods are called from one task of the group.
pub trait StateMachine: Send + 'static {
    /// Applies a committed entry. The response is sent to the proposer if it is on this node or waits in
    /// [`RaftGroup::propose_at_leader`](crate::RaftGroup::propose_at_leader).
    ///
    /// # Errors
    /// [`VersionedDecodeError`] for an entry that this build cannot read. The state must be unchanged: the
    /// entry does not count as applied, and the replica halts. After a restart with a build that reads the
    /// entry it continues there.
    fn apply(&mut self, at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError>;

    /// Checks that this build can read an entry. Called for entries that other nodes forward, before they are
    /// proposed, and for those of a leader, before they are stored, because a committed entry that cannot be
    /// read would halt the replica.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] if it cannot.
    fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError>
    where
        Self: Sized;

    /// Checks that this build can read a snapshot of `group`. Called for snapshots of a leader, before they
    /// replace anything, on a thread where it may block.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] if it cannot.
    fn check_snapshot(group: GroupId, snapshot: &[u8]) -> Result<(), VersionedDecodeError>
    where
        Self: Sized;

    /// Captures the whole current state. No entry is applied meanwhile, so it should only clone pointers;
    /// slow work belongs in the encoding of the [`StateSnapshot`].
    fn snapshot(&self) -> StateSnapshot;

    /// Replaces the whole state with that of a snapshot.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] for a snapshot that this build cannot read. The state must be unchanged.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError>;
}

impl StateSnapshot {
    /// A state that `encode` writes. It is called at most once, on a thread where it may block. It must
    /// return the errors of its writer unchanged.
    pub fn new(
        encode: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> StateSnapshot {
        StateSnapshot(Box::new(encode))
    }

    /// Writes the state.
    pub fn encode(self, writer: &mut dyn Write) -> io::Result<()> {
        (self.0)(writer)
    }
}

/// A small state that is encoded already.
impl From<Bytes> for StateSnapshot {
    fn from(bytes: Bytes) -> StateSnapshot {
        StateSnapshot::new(move |writer| writer.write_all(&bytes))
    }
}

//! What is replicated: the port to the state machines of the engines above.

use std::io::{self, Write};

use bytes::Bytes;
use pushonce_core::Term;
use pushonce_core::versioned::VersionedDecodeError;

/// Where an entry stands in the log of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId {
    /// Its index: rises with every entry, with holes (elections and changes of membership).
    pub index: u64,
    /// The term under which it was proposed.
    pub term: Term,
}

/// A state as it was at one moment, not encoded yet.
pub struct StateSnapshot(Box<EncodeFn>);

type EncodeFn = dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send;

/// A deterministic state machine: on every replica the same entries, in the same order, must lead to
/// the same state and the same answers. All methods are called from one task of the group.
pub trait StateMachine: Send + 'static {
    /// Applies a committed entry. The answer goes to the proposer, if it is on this node or waits
    /// behind [`RaftGroup::propose_at_leader`](crate::RaftGroup::propose_at_leader).
    ///
    /// # Errors
    /// [`VersionedDecodeError`] for an entry that this build cannot read. The state must be as it was: the entry
    /// does not count as applied, and the replica halts. Restarted with a build that reads the entry, it
    /// goes on there.
    fn apply(&mut self, at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError>;

    /// Whether this build can read an entry. Asked of entries that other nodes forward, before they
    /// are proposed: a committed entry that nobody can read would halt every replica.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] if it cannot.
    fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError>
    where
        Self: Sized;

    /// The whole state, as it is now. Nothing is applied meanwhile, so it should cost no more than
    /// the cloning of pointers: what takes long belongs into the encoding of the [`StateSnapshot`].
    fn snapshot(&self) -> StateSnapshot;

    /// Replaces the whole state by that of a snapshot.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] for a snapshot that this build cannot read. The state must be as it was.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError>;
}

impl StateSnapshot {
    /// What `encode` will write: called once at most, on a thread where it may take its time. An
    /// error is the writer's own and is to be handed on.
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

/// A small state, encoded already.
impl From<Bytes> for StateSnapshot {
    fn from(bytes: Bytes) -> StateSnapshot {
        StateSnapshot::new(move |writer| writer.write_all(&bytes))
    }
}

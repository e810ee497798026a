//! What is replicated: the port to the state machines of the engines above.

use bytes::Bytes;
use pushonce_core::Term;

/// Where an entry stands in the log of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Its index: rises with every entry, with holes (elections and changes of membership).
    pub index: u64,
    /// The term under which it was proposed.
    pub term: Term,
}

/// A snapshot that cannot be read. Says what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot cannot be read: {0}")]
pub struct Damaged(pub String);

/// A deterministic state machine: on every replica the same entries, in the same order, must lead to
/// the same state and the same answers. All methods are called from one task of the group.
pub trait Machine: Send + 'static {
    /// Applies a committed entry. The answer goes to the proposer, if it is on this node or waits
    /// behind [`Group::propose_at_leader`](crate::Group::propose_at_leader).
    fn apply(&mut self, at: At, entry: &Bytes) -> Bytes;

    /// The whole state.
    fn snapshot(&self) -> Bytes;

    /// Replaces the whole state by that of a snapshot.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Damaged>;
}

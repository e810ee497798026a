//! How openraft is set up here.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::type_config::alias;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// One leader a term, as in the Raft paper: of two claims to a shard the higher term must be the
    /// newer, which openraft's default leader ids do not promise.
    ///
    /// A node has no data in a membership: where it is found is said by the address book, and changes
    /// without a change of membership.
    pub(crate) Types:
        D = Data,
        R = Answer,
        NodeId = u64,
        Node = (),
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = alias::SnapshotOf<Types, crate::snapshot::Image>;

/// What is proposed. Cheap to clone: replication and apply share the bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data {
    pub(crate) bytes: Bytes,
    /// A replica without room for publishes accepts it all the same.
    pub(crate) essential: bool,
}

/// What the machine answered to an entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer(pub(crate) Bytes);

// Entries end up in openraft's logs: their size is of interest there, their content is not.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

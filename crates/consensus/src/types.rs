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
    pub(crate) TypeConfig:
        D = ProposalData,
        R = ApplyResponse,
        NodeId = u64,
        Node = (),
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::runtime::RaftRuntime,
);

pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type LogEntry = alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type RaftSnapshot = alias::SnapshotOf<TypeConfig, crate::snapshot::StoredSnapshot>;

/// What is proposed. Cheap to clone: replication and apply share the bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposalData {
    pub(crate) bytes: Bytes,
    /// A replica without room for publishes accepts it all the same.
    pub(crate) essential: bool,
}

/// What the machine answered to an entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApplyResponse(pub(crate) Bytes);

// Entries end up in openraft's logs: their size is of interest there, their content is not.
impl fmt::Display for ProposalData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl fmt::Debug for ProposalData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for ApplyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

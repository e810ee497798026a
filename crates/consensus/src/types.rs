//! The type configuration of openraft.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::type_config::alias;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
        /// One leader in each term, as in the Raft paper: of two claims to a shard the one with the higher
        /// term must be the newer, which openraft's default leader ids do not guarantee.
        ///
        /// A membership has no data of nodes: addresses are in `PeerAddresses` and change without a change of
        /// membership.
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

/// The payload of an entry. Cheap to clone: replication and apply share the bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposalData {
    pub(crate) bytes: Bytes,
    /// Whether a replica without space for publishes accepts it nevertheless.
    pub(crate) essential: bool,
}

/// The response of the machine to an entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApplyResponse(pub(crate) Bytes);

// openraft logs entries: their size is useful there, their content is not.
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

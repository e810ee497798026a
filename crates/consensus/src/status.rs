//! The status of a group as seen by one node.

use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::{NodeId, Term};

/// The status of a group as seen by this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// The leader, as far as this node knows. A leader that lost its quorum may still be named here; use
    /// [`RaftGroup::leader_term`](crate::RaftGroup::leader_term) to decide ownership.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: Term,
    /// This node leads with an unexpired lease. Refreshed at least once per heartbeat interval.
    pub is_leader: bool,
    /// The group has a membership here: it was initialised, or the leader reached this replica.
    pub initialized: bool,
    /// The replicas that vote; while `is_joint`, those of both configurations.
    pub voters: BTreeSet<NodeId>,
    /// The replicas without a vote.
    pub learners: BTreeSet<NodeId>,
    /// A change of voters is in progress.
    pub is_joint: bool,
    /// The log index of the membership above; a higher index is newer.
    pub membership_index: u64,
    /// The index of the last entry in the log here; 0 when there is none.
    pub last_log_index: u64,
    /// The index of the last entry that the machine applied here; 0 when there is none.
    pub applied_index: u64,
    /// On the leader: the last index that each replica is known to hold. A replica that is not known to hold
    /// any entry is missing. Empty on other nodes.
    pub matched: BTreeMap<NodeId, u64>,
    /// On the leader: the voters that have not answered for the duration of a lease. A link needs longer to
    /// detect that its peer hangs. Empty on other nodes.
    pub unresponsive: BTreeSet<NodeId>,
    /// On the leader: the snapshot transfers in progress, by receiver. Empty on other nodes.
    pub snapshot_transfers: BTreeMap<NodeId, SnapshotProgress>,
    /// The index of the last entry that the leader is known to hold: its own on the leader, the one reported
    /// by the leader on other nodes; 0 before contact with a leader.
    pub leader_last_log_index: u64,
    /// This replica lost data that it had acknowledged and has not restored all of it: it does not vote.
    pub recovering: bool,
    /// The reason why this replica failed, if it did.
    pub failure: Option<String>,
    /// The reason why this replica halted, if it did: an entry or snapshot that this build cannot read.
    /// `failure` is then set as well. Nothing is lost; a build that reads it continues there.
    pub halt_reason: Option<String>,
}

/// The progress of a snapshot transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Pieces that the receiver holds.
    pub pieces_sent: u32,
    /// Pieces of the whole snapshot; a piece has a quarter of a mebibyte.
    pub pieces_total: u32,
}

impl GroupStatus {
    /// Entries that the leader holds and this replica has not applied; 0 on the leader.
    pub fn lag(&self) -> u64 {
        self.leader_last_log_index.saturating_sub(self.applied_index)
    }

    /// On the leader: entries that a replica is not known to hold. `None` on other nodes.
    pub fn follower_lag(&self, node: NodeId) -> Option<u64> {
        let matched = self.matched.get(&node).copied();
        self.is_leader.then(|| self.last_log_index.saturating_sub(matched.unwrap_or_default()))
    }
}

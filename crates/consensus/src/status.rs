//! What a group looks like from this node.

use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::{NodeId, Term};

/// A group as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// Who leads, as far as this node knows. A leader that lost its quorum may still be named here:
    /// for ownership ask `leads`.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: Term,
    /// This node leads, with an unexpired lease. Refreshed at least once a heartbeat.
    pub is_leader: bool,
    /// The group has a membership here: it was initialised, or the leader has reached this replica.
    pub initialized: bool,
    /// The replicas that vote; while `is_joint`, those of both configurations.
    pub voters: BTreeSet<NodeId>,
    /// The replicas that only follow.
    pub learners: BTreeSet<NodeId>,
    /// A change of voters is under way.
    pub is_joint: bool,
    /// The log index of the membership above; the higher is the newer.
    pub membership_index: u64,
    /// The index of the last entry in the log here; 0 when there is none.
    pub last_log_index: u64,
    /// The index of the last entry the machine has applied here; 0 when there is none.
    pub applied_index: u64,
    /// On the leader: the last index each replica is known to hold. Elsewhere empty.
    pub matched: BTreeMap<NodeId, u64>,
    /// On the leader: the voters that have answered nothing for as long as its lease lasts. A link takes
    /// longer to tell that its other end sleeps. Elsewhere empty.
    pub unresponsive: BTreeSet<NodeId>,
    /// On the leader: the snapshots that are on their way, by receiver. Elsewhere empty.
    pub snapshot_transfers: BTreeMap<NodeId, SnapshotProgress>,
    /// The index of the last entry that the leader was last known to hold: its own on the leader, what
    /// the leader said elsewhere; 0 before a leader was heard.
    pub leader_last_log_index: u64,
    /// This replica had lost something it had acknowledged, and has not got all of it back from the
    /// others: it does not vote.
    pub recovering: bool,
    /// Why this replica has ended, if it has.
    pub failure: Option<String>,
    /// Why this replica has halted, if it has: it met an entry or a snapshot that this build cannot read.
    /// It has `failed` then, too; nothing is lost, and a build that reads it goes on there.
    pub halt_reason: Option<String>,
}

/// How far the transfer of a snapshot has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Pieces that the receiver holds.
    pub pieces_sent: u32,
    /// Pieces in all; a piece is a quarter of a mebibyte.
    pub pieces_total: u32,
}

impl GroupStatus {
    /// Entries that this replica has not applied and its leader holds; 0 on the leader.
    pub fn lag(&self) -> u64 {
        self.leader_last_log_index.saturating_sub(self.applied_index)
    }

    /// On the leader: entries that a replica is not known to hold. Elsewhere `NoFault`.
    pub fn follower_lag(&self, node: NodeId) -> Option<u64> {
        let matched = self.matched.get(&node).copied();
        self.is_leader.then(|| self.last_log_index.saturating_sub(matched.unwrap_or_default()))
    }
}

//! What a group does on its way to its wanted replicas, or waits for: for who looks on.

use std::fmt;

use pushonce_consensus::{GroupStatus, SnapshotProgress};
use pushonce_core::{FailPoint, NodeId};

use super::{
    DesiredReplicas, GroupPlanner, NodeAvailability, ReconcileStep, catching_up, is_caught_up, plan,
};

/// Where a group stands that is not what it should be, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconcileProgress {
    /// This is being done, or waits for its turn behind other groups.
    Step(ReconcileStep),
    /// A replica does not hold the log yet.
    CatchingUp {
        /// Whose.
        node: NodeId,
        /// The last entry that it is known to hold.
        matched: u64,
        /// The last entry there is.
        last_log: u64,
        /// The snapshot that is being sent to it, if one is.
        snapshot: Option<SnapshotProgress>,
    },
    /// Nothing can be done before a node can be reached.
    Unreachable(NodeId),
    /// A node can be reached, and its replica answers nothing: it has halted, or its disk does not move.
    Unresponsive(NodeId),
    /// A node should lead, and lost the lead a moment ago.
    InBackoff(NodeId),
    /// A node should lead, and is being stopped.
    Stopping(NodeId),
}

/// What the leader of a group does next or waits for; `NoFault` when the group is as it should be, or
/// led by another.
pub(crate) fn current_progress(
    status: &GroupStatus,
    me: NodeId,
    desired: &DesiredReplicas,
    nodes: &NodeAvailability,
) -> Option<ReconcileProgress> {
    if !status.is_leader || desired.voters.is_empty() {
        return None;
    }
    if let Some(step) = plan(status, me, desired, nodes) {
        return Some(ReconcileProgress::Step(step));
    }
    let planner = GroupPlanner { status, me, desired, nodes };
    let lagging = |node| ReconcileProgress::CatchingUp {
        node,
        matched: status.matched.get(&node).copied().unwrap_or(0),
        last_log: status.last_log_index,
        snapshot: status.snapshot_transfers.get(&node).copied(),
    };
    if let Some(node) = catching_up(status, desired, nodes) {
        return Some(lagging(node));
    }
    let mut missing = desired.voters.iter().copied().filter(|node| !status.voters.contains(node));
    let has_surplus = status.voters.iter().any(|&node| !planner.is_desired_voter(node));
    let mut unreachable = status.voters.iter().copied().filter(|&node| !planner.is_alive(node));
    let waits_for = missing.next().or_else(|| unreachable.next().filter(|_| has_surplus));
    if let Some(node) = waits_for {
        return Some(ReconcileProgress::Unreachable(node));
    }
    let is_unresponsive = |node: &NodeId| {
        nodes.reachable.contains(node)
            && status.unresponsive.contains(node)
            && !FailPoint::UnresponsiveReplicaHidden.is_active()
    };
    if let Some(node) = status.voters.iter().copied().find(is_unresponsive) {
        return Some(ReconcileProgress::Unresponsive(node));
    }
    let Some(next) = desired.voters.first().copied().filter(|&node| node != me) else {
        // All are where they should be, and still one may not hold what it should.
        let is_lagging =
            |node: &NodeId| *node != me && planner.is_alive(*node) && !is_caught_up(status, *node);
        return status.voters.iter().copied().find(is_lagging).map(lagging);
    };
    Some(if !planner.is_alive(next) {
        ReconcileProgress::Unreachable(next)
    } else if !is_caught_up(status, next) {
        lagging(next)
    } else if nodes.stopping.contains(&next) {
        ReconcileProgress::Stopping(next)
    } else {
        ReconcileProgress::InBackoff(next)
    })
}

impl ReconcileProgress {
    /// The node that it is about, if it is about one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            ReconcileProgress::Step(step) => match step {
                ReconcileStep::AddLearner(node)
                | ReconcileStep::RemoveLearner(node)
                | ReconcileStep::TransferLeadership(node)
                | ReconcileStep::Promote { node, .. }
                | ReconcileStep::RemoveVoter { node, .. } => Some(*node),
                ReconcileStep::FinishJointChange { .. } => None,
            },
            ReconcileProgress::CatchingUp { node, .. }
            | ReconcileProgress::Unreachable(node)
            | ReconcileProgress::Unresponsive(node)
            | ReconcileProgress::InBackoff(node)
            | ReconcileProgress::Stopping(node) => Some(*node),
        }
    }
}

impl fmt::Display for ReconcileProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReconcileProgress::Step(step) => step.fmt(f),
            ReconcileProgress::CatchingUp { node, snapshot: Some(snapshot), .. } => {
                let SnapshotProgress { pieces_sent: sent, pieces_total: pieces } = snapshot;
                write!(f, "{node} gets a snapshot: {sent} of {pieces}")
            }
            ReconcileProgress::CatchingUp { node, matched, last_log, .. } => {
                write!(f, "{node} catches up: {matched} of {last_log}")
            }
            ReconcileProgress::Unresponsive(node) => {
                write!(f, "the replica on {node} answers nothing")
            }
            ReconcileProgress::Unreachable(node) => {
                write!(f, "waits for {node}, which cannot be reached")
            }
            ReconcileProgress::InBackoff(node) => {
                write!(f, "{node} will lead; it lost the lead just now")
            }
            ReconcileProgress::Stopping(node) => {
                write!(f, "{node} will lead again; it is stopping")
            }
        }
    }
}

//! The progress of a group towards its desired replicas, for status reports.

use std::fmt;

use pushonce_consensus::{GroupStatus, SnapshotProgress};
use pushonce_core::{FailPoint, NodeId};

use super::{
    DesiredReplicas, GroupPlanner, NodeAvailability, ReconcileStep, catching_up, is_caught_up, plan,
};

/// What a group that is not in its desired state does or waits for, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconcileProgress {
    /// The step is in progress, or waits for other groups.
    Step(ReconcileStep),
    /// A replica does not hold the whole log yet.
    CatchingUp {
        /// The node of the replica.
        node: NodeId,
        /// The last entry that the replica is known to hold.
        matched: u64,
        /// The last entry of the leader's log.
        last_log: u64,
        /// The snapshot transfer to the replica, if one is in progress.
        snapshot: Option<SnapshotProgress>,
    },
    /// No step is possible before a node is reachable.
    Unreachable(NodeId),
    /// A node is reachable, but its replica does not respond: it has halted, or its disk hangs.
    Unresponsive(NodeId),
    /// A node should lead, but lost leadership a moment ago.
    InBackoff(NodeId),
    /// A node should lead, but is stopping.
    Stopping(NodeId),
}

/// The next step of the leader of a group, or what it waits for; `None` when the group is in its desired
/// state or led by another node.
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
        // All replicas are in place, but one may still lack entries.
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
    /// The node that the progress is about, if any.
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
                write!(f, "sending a snapshot to {node}: {sent} of {pieces} pieces")
            }
            ReconcileProgress::CatchingUp { node, matched, last_log, .. } => {
                write!(f, "{node} is catching up: {matched} of {last_log} entries")
            }
            ReconcileProgress::Unresponsive(node) => {
                write!(f, "the replica on {node} does not respond")
            }
            ReconcileProgress::Unreachable(node) => {
                write!(f, "waiting for {node}, which cannot be reached")
            }
            ReconcileProgress::InBackoff(node) => {
                write!(f, "waiting to transfer leadership to {node}, which lost it a moment ago")
            }
            ReconcileProgress::Stopping(node) => {
                write!(f, "waiting to transfer leadership to {node}, which is stopping")
            }
        }
    }
}

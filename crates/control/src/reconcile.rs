//! Moves one group from its current replicas to the desired ones.
//!
//! The order makes it safe. A new replica is a learner before it votes, and votes only when it is reachable
//! and has caught up. Only then is another voter removed. The group makes one change at a time. Leadership
//! is transferred last, or before the leader itself has to leave, and only to a live voter that has caught
//! up, did not lose leadership a moment ago and is not stopping. The consensus engine does not check this:
//! it would transfer leadership to a dead voter.

mod group_reconciler;
mod leadership_backoff;
mod progress;

use std::collections::BTreeSet;
use std::fmt;

use pushonce_consensus::GroupStatus;
use pushonce_core::{FailPoint, NodeId};

pub(crate) use group_reconciler::apply_step;
pub use group_reconciler::{PeerWatches, run};
pub use progress::ReconcileProgress;

/// The desired replicas of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredReplicas {
    /// The desired voters, the preferred leader first. Nothing is done while it is empty.
    pub voters: Vec<NodeId>,
    /// The nodes that should at least be learners; may include voters. They are added whether they are
    /// reachable or not: a joining node has no links before it has the view, and it receives the view as a
    /// learner.
    pub learners: BTreeSet<NodeId>,
}

/// The leader's knowledge of the other nodes. `me` always counts as reachable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAvailability {
    /// The nodes with a link to the leader.
    pub reachable: BTreeSet<NodeId>,
    /// The nodes that lost the leadership of this group a moment ago.
    pub in_backoff: BTreeSet<NodeId>,
    /// The nodes that are stopping.
    pub stopping: BTreeSet<NodeId>,
}

/// One step of a membership change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconcileStep {
    /// Adds a learner. The step is retried until the node has started the replica.
    AddLearner(NodeId),
    /// Makes a learner that has caught up a voter.
    Promote {
        /// The node.
        node: NodeId,
        /// All voters after the step.
        voters: BTreeSet<NodeId>,
    },
    /// Removes a voter. Its node is not notified: see [`hosting::plan`](crate::hosting::plan).
    RemoveVoter {
        /// The node.
        node: NodeId,
        /// All voters after the step.
        voters: BTreeSet<NodeId>,
    },
    /// Removes a learner.
    RemoveLearner(NodeId),
    /// Transfers leadership to another voter.
    TransferLeadership(NodeId),
    /// Finishes a change of voters that an earlier leader left incomplete.
    FinishJointChange {
        /// The voters of either configuration. The two differ by one replica, so this union is one of them.
        voters: BTreeSet<NodeId>,
    },
}

impl fmt::Display for ReconcileStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReconcileStep::AddLearner(node) => write!(f, "adding {node} as a learner"),
            ReconcileStep::Promote { node, voters } => {
                write!(f, "promoting {node} to a voter ({} voters)", voters.len())
            }
            ReconcileStep::RemoveVoter { node, voters } => {
                write!(f, "removing voter {node} ({} voters remain)", voters.len())
            }
            ReconcileStep::RemoveLearner(node) => write!(f, "removing learner {node}"),
            ReconcileStep::TransferLeadership(node) => {
                write!(f, "transferring leadership to {node}")
            }
            ReconcileStep::FinishJointChange { voters } => {
                write!(f, "finishing an incomplete membership change ({} voters)", voters.len())
            }
        }
    }
}

/// Maximum number of entries that a replica may lack and still count as caught up. A busy group always has
/// some in flight, which the replica receives while the change itself is committed. With a lower limit a
/// replica of a busy group would never count as caught up.
const CAUGHT_UP_LAG_MAX: u64 = 64;

/// Whether the leader knows that a replica holds its log, up to [`CAUGHT_UP_LAG_MAX`] entries. A replica
/// without any entry is not caught up: it does not know the members of its group and rejects every candidate.
pub(crate) fn is_caught_up(status: &GroupStatus, node: NodeId) -> bool {
    let matched = status.matched.get(&node).copied().unwrap_or(0);
    matched > 0 && matched.saturating_add(CAUGHT_UP_LAG_MAX) >= status.last_log_index
}

/// The next step of `me` as the leader of the group; `None` when it does not lead, nothing is left to do,
/// or the rest waits for a node to be reachable or to catch up.
///
/// An unreachable voter keeps its vote while it is desired.
pub fn plan(
    status: &GroupStatus,
    me: NodeId,
    desired: &DesiredReplicas,
    nodes: &NodeAvailability,
) -> Option<ReconcileStep> {
    if !status.is_leader || desired.voters.is_empty() {
        return None;
    }
    if status.is_joint {
        return Some(ReconcileStep::FinishJointChange { voters: status.voters.clone() });
    }
    let planner = GroupPlanner { status, me, desired, nodes };
    planner
        .remove_unreachable_voter()
        .or_else(|| planner.remove_surplus_voter())
        .or_else(|| planner.promote())
        .or_else(|| planner.remove_learner())
        .or_else(|| planner.add_learner())
        .or_else(|| planner.transfer())
}

/// The voter to which a stopping leader `me` transfers leadership: the first of the `preferred` that has
/// caught up, is reachable and responsive and is not stopping itself, otherwise any other such voter. A
/// voter that has `failed` to take over is retried when there is no other: its disk may be slow, or it may
/// have started a moment ago. `None` while there is no candidate.
pub fn successor(
    status: &GroupStatus,
    me: NodeId,
    nodes: &NodeAvailability,
    preferred: &[NodeId],
    failed: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let is_eligible = |&node: &NodeId| {
        node != me
            && status.voters.contains(&node)
            && nodes.reachable.contains(&node)
            && !nodes.stopping.contains(&node)
            && !status.unresponsive.contains(&node)
            && is_caught_up(status, node)
    };
    if status.is_joint {
        return None;
    }
    let mut candidates = preferred.iter().chain(&status.voters).copied().filter(is_eligible);
    candidates.clone().find(|node| !failed.contains(node)).or_else(|| candidates.next())
}

/// A reachable learner that should become a voter. If no step is left, it has not caught up yet.
pub(crate) fn catching_up(
    status: &GroupStatus,
    desired: &DesiredReplicas,
    nodes: &NodeAvailability,
) -> Option<NodeId> {
    let is_following =
        |node: &NodeId| status.learners.contains(node) && nodes.reachable.contains(node);
    desired.voters.iter().copied().find(is_following)
}

struct GroupPlanner<'a> {
    status: &'a GroupStatus,
    me: NodeId,
    desired: &'a DesiredReplicas,
    nodes: &'a NodeAvailability,
}

impl GroupPlanner<'_> {
    /// Removes an unresponsive voter that is not desired before its replacement has caught up, if that lowers the
    /// quorum, now or with the next one, and leaves more than a single copy. Otherwise it stays: three voters need two as
    /// well as two voters do, and if it comes back, the group survives the loss of another.
    fn remove_unreachable_voter(&self) -> Option<ReconcileStep> {
        let copies_min = self.desired.voters.len().min(2);
        let undesired = self.undesired_voters();
        let unreachable = undesired.iter().filter(|&&node| !self.is_alive(node));
        let lowers_quorum =
            self.status.voters.len().is_multiple_of(2) || unreachable.clone().count() > 1;
        let mut removable = unreachable.filter(|_| lowers_quorum);
        removable.find_map(|&node| self.remove_voter(node, copies_min))
    }

    /// Removes a voter while there are more than desired, before another replica is added. So the group
    /// briefly has one voter more than desired, and never fewer.
    fn remove_surplus_voter(&self) -> Option<ReconcileStep> {
        if self.status.voters.len() <= self.desired.voters.len() {
            return None;
        }
        self.undesired_voters().into_iter().find_map(|node| self.remove_voter(node, 1))
    }

    fn promote(&self) -> Option<ReconcileStep> {
        let is_ready = |node: &NodeId| {
            self.status.learners.contains(node)
                && self.is_alive(*node)
                && is_caught_up(self.status, *node)
        };
        let node = self.desired.voters.iter().copied().find(is_ready)?;
        let mut voters = self.status.voters.clone();
        voters.insert(node);
        Some(ReconcileStep::Promote { node, voters })
    }

    fn remove_learner(&self) -> Option<ReconcileStep> {
        let is_desired =
            |node: &NodeId| self.is_desired_voter(*node) || self.desired.learners.contains(node);
        self.status
            .learners
            .iter()
            .copied()
            .find(|node| !is_desired(node))
            .map(ReconcileStep::RemoveLearner)
    }

    fn add_learner(&self) -> Option<ReconcileStep> {
        let voters = self.desired.voters.iter().filter(|&&node| self.is_alive(node));
        let mut missing = voters.chain(&self.desired.learners).filter(|&node| {
            !self.status.voters.contains(node) && !self.status.learners.contains(node)
        });
        missing.next().copied().map(ReconcileStep::AddLearner)
    }

    /// Transfers leadership to the preferred leader when no replica is catching up, or, if the leader
    /// itself is not desired, to any desired voter when all of them vote. This step comes last.
    fn transfer(&self) -> Option<ReconcileStep> {
        let preferred = self.desired.voters.first().copied()?;
        if self.is_desired_voter(self.me) {
            let is_settled = catching_up(self.status, self.desired, self.nodes).is_none();
            return (is_settled && self.can_lead(preferred))
                .then_some(ReconcileStep::TransferLeadership(preferred));
        }
        let complete = self.desired.voters.iter().all(|node| self.status.voters.contains(node));
        let next = self.desired.voters.iter().copied().find(|&node| self.can_lead(node));
        next.filter(|_| complete).map(ReconcileStep::TransferLeadership)
    }

    /// `None` when the live voters would not be a majority any more, or fewer than `alive_min`.
    fn remove_voter(&self, node: NodeId, alive_min: usize) -> Option<ReconcileStep> {
        let mut voters = self.status.voters.clone();
        voters.remove(&node);
        let alive = voters.iter().filter(|&&voter| self.is_alive(voter)).count();
        let is_safe = alive > voters.len() / 2 && alive >= alive_min;
        is_safe.then_some(ReconcileStep::RemoveVoter { node, voters })
    }

    /// The voters that should be removed, the unresponsive ones first. The leader is not among them: it transfers
    /// leadership, and its successor removes it.
    fn undesired_voters(&self) -> Vec<NodeId> {
        let voters = self.status.voters.iter().copied();
        let undesired = voters.filter(|&node| node != self.me && !self.is_desired_voter(node));
        let (alive, mut voters): (Vec<_>, Vec<_>) =
            undesired.partition(|&node| self.is_alive(node));
        voters.extend(alive);
        voters
    }

    fn is_desired_voter(&self, node: NodeId) -> bool {
        self.desired.voters.contains(&node)
    }

    fn can_lead(&self, node: NodeId) -> bool {
        let is_stopping =
            self.nodes.stopping.contains(&node) && !FailPoint::StoppingNodeLeads.is_active();
        node != self.me
            && self.status.voters.contains(&node)
            && self.is_alive(node)
            && is_caught_up(self.status, node)
            && !self.nodes.in_backoff.contains(&node)
            && !is_stopping
    }

    fn is_alive(&self, node: NodeId) -> bool {
        let is_responsive = || !self.status.unresponsive.contains(&node);
        node == self.me || self.nodes.reachable.contains(&node) && is_responsive()
    }
}

impl From<&[NodeId]> for DesiredReplicas {
    /// The replica list of a shard: all are voters, without further learners.
    fn from(replicas: &[NodeId]) -> DesiredReplicas {
        DesiredReplicas { voters: replicas.to_vec(), learners: BTreeSet::new() }
    }
}

#[cfg(test)]
#[path = "reconcile/reconcile_test.rs"]
mod reconcile_test;

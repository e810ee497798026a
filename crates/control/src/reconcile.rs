//! Brings one group from the replicas it has to the replicas it should have.
//!
//! The order is what makes it safe: a newcomer follows before it votes, votes only when it lives and
//! is level, and only then does somebody else leave; one change at a time; leadership moves last, or
//! before the leader itself has to leave, and only to a living voter that is level, because the
//! engine below would hand it to a dead one, that did not lose it a moment ago and is not being stopped.

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

/// The replicas a group should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredReplicas {
    /// Who should vote, the preferred leader first. Nothing is done while it is empty.
    pub voters: Vec<NodeId>,
    /// Who should at least follow; voters may be among them. They are added whether they are
    /// reachable or not: a node that joins has no links before it has the view, and it gets the view
    /// by following.
    pub learners: BTreeSet<NodeId>,
}

/// What the leader knows of the other nodes. `me` is reachable and trusted, whatever they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAvailability {
    /// Those it has a link to.
    pub reachable: BTreeSet<NodeId>,
    /// Those that lost the lead of this group a moment ago.
    pub in_backoff: BTreeSet<NodeId>,
    /// Those that are being stopped.
    pub stopping: BTreeSet<NodeId>,
}

/// One change of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconcileStep {
    /// A replica begins to follow. Its node must have started it, else it is tried until it has.
    AddLearner(NodeId),
    /// A level follower gets a vote.
    Promote {
        /// Who.
        node: NodeId,
        /// All who vote then.
        voters: BTreeSet<NodeId>,
    },
    /// A voter leaves the group. Nobody tells it: see [`plan`](crate::hosting).
    RemoveVoter {
        /// Who.
        node: NodeId,
        /// All who vote then.
        voters: BTreeSet<NodeId>,
    },
    /// A follower leaves the group.
    RemoveLearner(NodeId),
    /// Another voter leads.
    TransferLeadership(NodeId),
    /// Ends a change of voters that an earlier leader left half done.
    FinishJointChange {
        /// The voters of both its sides. They differ by one replica, so these are one of the sides.
        voters: BTreeSet<NodeId>,
    },
}

impl fmt::Display for ReconcileStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReconcileStep::AddLearner(node) => write!(f, "{node} begins to follow"),
            ReconcileStep::Promote { node, voters } => {
                write!(f, "{node} votes, of {}", voters.len())
            }
            ReconcileStep::RemoveVoter { node, voters } => {
                write!(f, "{node} leaves {} voters", voters.len())
            }
            ReconcileStep::RemoveLearner(node) => write!(f, "{node} follows no more"),
            ReconcileStep::TransferLeadership(node) => write!(f, "{node} is to lead"),
            ReconcileStep::FinishJointChange { voters } => {
                write!(f, "a half-done change ends, {} vote", voters.len())
            }
        }
    }
}

/// How many entries a replica may lack and still be level. A busy group always has some on their
/// way; these it gets while the change itself is being committed. Too few, and a replica of a busy
/// group would never be level.
const CAUGHT_UP_LAG_MAX: u64 = 64;

/// Whether a replica holds (almost) all of the leader's log, as the leader knows.
pub(crate) fn is_caught_up(status: &GroupStatus, node: NodeId) -> bool {
    let matched = status.matched.get(&node).copied().unwrap_or(0);
    matched > 0 && matched.saturating_add(CAUGHT_UP_LAG_MAX) >= status.last_log_index
}

/// The next step of `me` as the leader of the group; `NoFault` when it does not lead, when nothing is
/// left to do, or when what is left has to wait for a node to come up or to become level.
///
/// A voter that is not reachable keeps its vote while it is wanted.
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

/// The voter to hand the lead to when `me` leads and is about to stop: the first of the `preferred` that
/// is level, can be reached, answers and is not being stopped itself, else any other such voter. One that has
/// `failed` to take the lead is asked again when there is no other: its disk may be slow, or it may have
/// started a moment ago. `NoFault` while there is none.
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

/// A living replica that follows and is to vote. When no step is left, it is not level yet.
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
    /// A silent voter that nobody wants back only makes the quorum larger. It leaves before its
    /// successor is level, unless that would leave a single copy.
    fn remove_unreachable_voter(&self) -> Option<ReconcileStep> {
        let copies_min = self.desired.voters.len().min(2);
        let mut unreachable = self.undesired_voters().filter(|&node| !self.is_alive(node));
        unreachable.find_map(|node| self.remove_voter(node, copies_min))
    }

    /// As many leave as came too many, before another comes: so the group is one larger than it
    /// should be for a moment, and never smaller.
    fn remove_surplus_voter(&self) -> Option<ReconcileStep> {
        if self.status.voters.len() <= self.desired.voters.len() {
            return None;
        }
        self.undesired_voters().find_map(|node| self.remove_voter(node, 1))
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

    /// To the preferred leader when nobody is on the way in; to anybody wanted when all of them vote
    /// and the leader still has to leave. Comes last, when nothing else can be done.
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

    /// `NoFault` when the living could not decide alone any more, or would be fewer than `alive_min`.
    fn remove_voter(&self, node: NodeId, alive_min: usize) -> Option<ReconcileStep> {
        let mut voters = self.status.voters.clone();
        voters.remove(&node);
        let alive = voters.iter().filter(|&&voter| self.is_alive(voter)).count();
        let is_safe = alive > voters.len() / 2 && alive >= alive_min;
        is_safe.then_some(ReconcileStep::RemoveVoter { node, voters })
    }

    /// The voters that should go. The leader is not among them: it hands over, and its successor
    /// lets it go.
    fn undesired_voters(&self) -> impl Iterator<Item = NodeId> {
        let voters = self.status.voters.iter().copied();
        voters.filter(|&node| node != self.me && !self.is_desired_voter(node))
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
    /// The replica list of a shard: all vote, nobody else follows.
    fn from(replicas: &[NodeId]) -> DesiredReplicas {
        DesiredReplicas { voters: replicas.to_vec(), learners: BTreeSet::new() }
    }
}

#[cfg(test)]
#[path = "reconcile/reconcile_test.rs"]
mod reconcile_test;

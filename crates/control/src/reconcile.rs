//! Brings one group from the replicas it has to the replicas it should have.
//!
//! The order is what makes it safe: a newcomer follows before it votes, votes only when it lives and
//! is level, and only then does somebody else leave; one change at a time; leadership moves last, or
//! before the leader itself has to leave, and only to a living voter that is level, because the
//! engine below would hand it to a dead one, that did not lose it a moment ago and is not being stopped.

mod mover;
mod progress;
mod trust;

use std::collections::BTreeSet;
use std::fmt;

use pushonce_consensus::Status;
use pushonce_core::NodeId;

pub(crate) use mover::perform;
pub use mover::{Peers, run};
pub use progress::Progress;

/// The replicas a group should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Who should vote, the preferred leader first. Nothing is done while it is empty.
    pub voters: Vec<NodeId>,
    /// Who should at least follow; voters may be among them. They are added whether they are
    /// reachable or not: a node that joins has no links before it has the view, and it gets the view
    /// by following.
    pub learners: BTreeSet<NodeId>,
}

/// What the leader knows of the other nodes. `me` is reachable and trusted, whatever they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Those it has a link to.
    pub reachable: BTreeSet<NodeId>,
    /// Those that lost the lead of this group a moment ago.
    pub doubted: BTreeSet<NodeId>,
    /// Those that are being stopped.
    pub stopping: BTreeSet<NodeId>,
}

/// One change of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A replica begins to follow. Its node must have started it, else it is tried until it has.
    AddLearner(NodeId),
    /// A level follower gets a vote.
    Promote {
        /// Who.
        node: NodeId,
        /// All who vote then.
        voters: BTreeSet<NodeId>,
    },
    /// A voter leaves the group. Nobody tells it: see [`hosting`](crate::hosting).
    Retire {
        /// Who.
        node: NodeId,
        /// All who vote then.
        voters: BTreeSet<NodeId>,
    },
    /// A follower leaves the group.
    RemoveLearner(NodeId),
    /// Another voter leads.
    Transfer(NodeId),
    /// Ends a change of voters that an earlier leader left half done.
    Settle {
        /// The voters of both its sides. They differ by one replica, so these are one of the sides.
        voters: BTreeSet<NodeId>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AddLearner(node) => write!(f, "{node} begins to follow"),
            Step::Promote { node, voters } => write!(f, "{node} votes, of {}", voters.len()),
            Step::Retire { node, voters } => write!(f, "{node} leaves {} voters", voters.len()),
            Step::RemoveLearner(node) => write!(f, "{node} follows no more"),
            Step::Transfer(node) => write!(f, "{node} is to lead"),
            Step::Settle { voters } => write!(f, "a half-done change ends, {} vote", voters.len()),
        }
    }
}

/// How many entries a replica may lack and still be level. A busy group always has some on their
/// way; these it gets while the change itself is being committed. Too few, and a replica of a busy
/// group would never be level.
const LEVEL_ENTRIES: u64 = 64;

/// Whether a replica holds (almost) all of the leader's log, as the leader knows.
pub(crate) fn level(status: &Status, node: NodeId) -> bool {
    let matched = status.matched.get(&node).copied().unwrap_or(0);
    matched > 0 && matched.saturating_add(LEVEL_ENTRIES) >= status.last_log
}

/// The next step of `me` as the leader of the group; `None` when it does not lead, when nothing is
/// left to do, or when what is left has to wait for a node to come up or to become level.
///
/// A voter that is not reachable keeps its vote while it is wanted.
pub fn plan(status: &Status, me: NodeId, wanted: &Wanted, nodes: &Nodes) -> Option<Step> {
    if !status.leads || wanted.voters.is_empty() {
        return None;
    }
    if status.joint {
        return Some(Step::Settle { voters: status.voters.clone() });
    }
    let group = Shape { status, me, wanted, nodes };
    group
        .retire_lost()
        .or_else(|| group.retire_surplus())
        .or_else(|| group.promote())
        .or_else(|| group.remove_learner())
        .or_else(|| group.add_learner())
        .or_else(|| group.transfer())
}

/// The voter to hand the lead to when `me` leads and is about to stop: the first of the `preferred` that
/// is level, can be reached, answers and is not being stopped itself, else any other such voter. One that has
/// `failed` to take the lead is asked again when there is no other: its disk may be slow, or it may have
/// started a moment ago. `None` while there is none.
pub fn successor(
    status: &Status,
    me: NodeId,
    nodes: &Nodes,
    preferred: &[NodeId],
    failed: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let fits = |&node: &NodeId| {
        node != me
            && status.voters.contains(&node)
            && nodes.reachable.contains(&node)
            && !nodes.stopping.contains(&node)
            && !status.silent.contains(&node)
            && level(status, node)
    };
    if status.joint {
        return None;
    }
    let mut able = preferred.iter().chain(&status.voters).copied().filter(fits);
    able.clone().find(|node| !failed.contains(node)).or_else(|| able.next())
}

/// A living replica that follows and is to vote. When no step is left, it is not level yet.
pub(crate) fn catching_up(status: &Status, wanted: &Wanted, nodes: &Nodes) -> Option<NodeId> {
    let follows = |node: &NodeId| status.learners.contains(node) && nodes.reachable.contains(node);
    wanted.voters.iter().copied().find(follows)
}

struct Shape<'a> {
    status: &'a Status,
    me: NodeId,
    wanted: &'a Wanted,
    nodes: &'a Nodes,
}

impl Shape<'_> {
    /// A silent voter that nobody wants back only makes the quorum larger. It leaves before its
    /// successor is level, unless that would leave a single copy.
    fn retire_lost(&self) -> Option<Step> {
        let copies_min = self.wanted.voters.len().min(2);
        let mut lost = self.unwanted().filter(|&node| !self.lives(node));
        lost.find_map(|node| self.retire(node, copies_min))
    }

    /// As many leave as came too many, before another comes: so the group is one larger than it
    /// should be for a moment, and never smaller.
    fn retire_surplus(&self) -> Option<Step> {
        if self.status.voters.len() <= self.wanted.voters.len() {
            return None;
        }
        self.unwanted().find_map(|node| self.retire(node, 1))
    }

    fn promote(&self) -> Option<Step> {
        let ready = |node: &NodeId| {
            self.status.learners.contains(node) && self.lives(*node) && level(self.status, *node)
        };
        let node = self.wanted.voters.iter().copied().find(ready)?;
        let mut voters = self.status.voters.clone();
        voters.insert(node);
        Some(Step::Promote { node, voters })
    }

    fn remove_learner(&self) -> Option<Step> {
        let wanted = |node: &NodeId| self.votes_later(*node) || self.wanted.learners.contains(node);
        self.status.learners.iter().copied().find(|node| !wanted(node)).map(Step::RemoveLearner)
    }

    fn add_learner(&self) -> Option<Step> {
        let voters = self.wanted.voters.iter().filter(|&&node| self.lives(node));
        let mut missing = voters.chain(&self.wanted.learners).filter(|&node| {
            !self.status.voters.contains(node) && !self.status.learners.contains(node)
        });
        missing.next().copied().map(Step::AddLearner)
    }

    /// To the preferred leader when nobody is on the way in; to anybody wanted when all of them vote
    /// and the leader still has to leave. Comes last, when nothing else can be done.
    fn transfer(&self) -> Option<Step> {
        let preferred = self.wanted.voters.first().copied()?;
        if self.votes_later(self.me) {
            let settled = catching_up(self.status, self.wanted, self.nodes).is_none();
            return (settled && self.may_lead(preferred)).then_some(Step::Transfer(preferred));
        }
        let complete = self.wanted.voters.iter().all(|node| self.status.voters.contains(node));
        let next = self.wanted.voters.iter().copied().find(|&node| self.may_lead(node));
        next.filter(|_| complete).map(Step::Transfer)
    }

    /// `None` when the living could not decide alone any more, or would be fewer than `living_min`.
    fn retire(&self, node: NodeId, living_min: usize) -> Option<Step> {
        let mut voters = self.status.voters.clone();
        voters.remove(&node);
        let living = voters.iter().filter(|&&voter| self.lives(voter)).count();
        let safe = living > voters.len() / 2 && living >= living_min;
        safe.then_some(Step::Retire { node, voters })
    }

    /// The voters that should go. The leader is not among them: it hands over, and its successor
    /// lets it go.
    fn unwanted(&self) -> impl Iterator<Item = NodeId> {
        let voters = self.status.voters.iter().copied();
        voters.filter(|&node| node != self.me && !self.votes_later(node))
    }

    fn votes_later(&self, node: NodeId) -> bool {
        self.wanted.voters.contains(&node)
    }

    fn may_lead(&self, node: NodeId) -> bool {
        let stopping = self.nodes.stopping.contains(&node);
        #[cfg(feature = "planted-bugs")]
        let stopping = stopping && !crate::planted::trusts_stopping();
        node != self.me
            && self.status.voters.contains(&node)
            && self.lives(node)
            && level(self.status, node)
            && !self.nodes.doubted.contains(&node)
            && !stopping
    }

    fn lives(&self, node: NodeId) -> bool {
        let speaks = || !self.status.silent.contains(&node);
        node == self.me || self.nodes.reachable.contains(&node) && speaks()
    }
}

impl From<&[NodeId]> for Wanted {
    /// The replica list of a shard: all vote, nobody else follows.
    fn from(replicas: &[NodeId]) -> Wanted {
        Wanted { voters: replicas.to_vec(), learners: BTreeSet::new() }
    }
}

#[cfg(test)]
#[path = "reconcile/reconcile_test.rs"]
mod reconcile_test;

//! What a group does on its way to its wanted replicas, or waits for: for who looks on.

use std::fmt;

use pushonce_consensus::{SnapshotProgress, Status};
use pushonce_core::NodeId;

use super::{Nodes, Shape, Step, Wanted, catching_up, level, plan};

/// Where a group stands that is not what it should be, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This is being done, or waits for its turn behind other groups.
    Step(Step),
    /// A replica does not hold the log yet.
    CatchesUp {
        /// Whose.
        node: NodeId,
        /// The last entry that it is known to hold.
        has: u64,
        /// The last entry there is.
        of: u64,
        /// The snapshot that is being sent to it, if one is.
        snapshot: Option<SnapshotProgress>,
    },
    /// Nothing can be done before a node can be reached.
    Unreachable(NodeId),
    /// A node can be reached, and its replica answers nothing: it has halted, or its disk does not move.
    Silent(NodeId),
    /// A node should lead, and lost the lead a moment ago.
    Doubted(NodeId),
    /// A node should lead, and is being stopped.
    Stopping(NodeId),
}

/// What the leader of a group does next or waits for; `None` when the group is as it should be, or
/// led by another.
pub(crate) fn progress(
    status: &Status,
    me: NodeId,
    wanted: &Wanted,
    nodes: &Nodes,
) -> Option<Progress> {
    if !status.leads || wanted.voters.is_empty() {
        return None;
    }
    if let Some(step) = plan(status, me, wanted, nodes) {
        return Some(Progress::Step(step));
    }
    let group = Shape { status, me, wanted, nodes };
    let behind = |node| Progress::CatchesUp {
        node,
        has: status.matched.get(&node).copied().unwrap_or(0),
        of: status.last_log,
        snapshot: status.sending.get(&node).copied(),
    };
    if let Some(node) = catching_up(status, wanted, nodes) {
        return Some(behind(node));
    }
    let mut missing = wanted.voters.iter().copied().filter(|node| !status.voters.contains(node));
    let surplus = status.voters.iter().any(|&node| !group.votes_later(node));
    let mut silent = status.voters.iter().copied().filter(|&node| !group.lives(node));
    let waits = missing.next().or_else(|| silent.next().filter(|_| surplus));
    if let Some(node) = waits {
        return Some(Progress::Unreachable(node));
    }
    let is_silent = |node: &NodeId| nodes.reachable.contains(node) && status.silent.contains(node);
    #[cfg(feature = "planted-bugs")]
    let is_silent = |node: &NodeId| is_silent(node) && !crate::planted::hides_silent_replica();
    if let Some(node) = status.voters.iter().copied().find(is_silent) {
        return Some(Progress::Silent(node));
    }
    let Some(next) = wanted.voters.first().copied().filter(|&node| node != me) else {
        // All are where they should be, and still one may not hold what it should.
        let lags = |node: &NodeId| *node != me && group.lives(*node) && !level(status, *node);
        return status.voters.iter().copied().find(lags).map(behind);
    };
    Some(if !group.lives(next) {
        Progress::Unreachable(next)
    } else if !level(status, next) {
        behind(next)
    } else if nodes.stopping.contains(&next) {
        Progress::Stopping(next)
    } else {
        Progress::Doubted(next)
    })
}

impl Progress {
    /// The node that it is about, if it is about one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Progress::Step(step) => match step {
                Step::AddLearner(node)
                | Step::RemoveLearner(node)
                | Step::Transfer(node)
                | Step::Promote { node, .. }
                | Step::Retire { node, .. } => Some(*node),
                Step::Settle { .. } => None,
            },
            Progress::CatchesUp { node, .. }
            | Progress::Unreachable(node)
            | Progress::Silent(node)
            | Progress::Doubted(node)
            | Progress::Stopping(node) => Some(*node),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Step(step) => step.fmt(f),
            Progress::CatchesUp { node, snapshot: Some(snapshot), .. } => {
                let SnapshotProgress { sent, pieces } = snapshot;
                write!(f, "{node} gets a snapshot: {sent} of {pieces}")
            }
            Progress::CatchesUp { node, has, of, .. } => {
                write!(f, "{node} catches up: {has} of {of}")
            }
            Progress::Silent(node) => write!(f, "the replica on {node} answers nothing"),
            Progress::Unreachable(node) => write!(f, "waits for {node}, which cannot be reached"),
            Progress::Doubted(node) => write!(f, "{node} will lead; it lost the lead just now"),
            Progress::Stopping(node) => write!(f, "{node} will lead again; it is stopping"),
        }
    }
}

//! Problems of a cluster: shards without an owner or a majority, missing copies, unreachable members. Pure;
//! evaluated from what one node observes, as in [`leave`](crate::leave).
//!
//! `pushonce cluster status` prints the problems first and derives its exit status from them, and each node
//! counts them in its metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pushonce_core::{FailPoint, NodeId, ShardId};

use crate::leave::ClusterObservation;

/// The severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The cluster serves everything, but the next failure may end that.
    Degraded,
    /// Some topics reject publishes, or the cluster cannot be changed.
    Unavailable,
}

/// One problem. The text states what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterProblem {
    /// This node knows no leader of the control group.
    ControlWithoutLeader,
    /// Most voters of the control group are unreachable.
    ControlWithoutMajority {
        /// The unreachable voters.
        missing: BTreeSet<NodeId>,
    },
    /// Most replicas of some shards are unreachable.
    ShardsWithoutMajority {
        /// The shards.
        shards: Vec<ShardId>,
        /// The unreachable nodes of these replicas.
        missing: BTreeSet<NodeId>,
    },
    /// Some shards have no known owner, or their owner is unreachable.
    ShardsWithoutOwner {
        /// The shards.
        shards: Vec<ShardId>,
    },
    /// Some shards have fewer reachable replicas than configured.
    TooFewCopies {
        /// The shards.
        shards: Vec<ShardId>,
        /// The lowest number of reachable replicas of these shards.
        least: usize,
        /// The configured number of replicas.
        wanted: usize,
    },
    /// Some replicas on reachable nodes lack many entries of their owner, or do not respond.
    LaggingReplicas {
        /// The shards.
        shards: Vec<ShardId>,
        /// The nodes of these replicas.
        nodes: BTreeSet<NodeId>,
    },
    /// Some members are unreachable.
    UnreachableMembers {
        /// The members.
        nodes: Vec<NodeId>,
    },
}

/// The number of entries a replica must lack to count as lagging, because a failure of the owner would then
/// find one copy less. The replicas of a busy shard briefly lack some tens.
pub const LAG_ENTRIES: u64 = 1_024;

/// All problems, the most severe first; empty for a healthy cluster. `leader` is the leader of the control
/// group as far as the node knows. `lagging` has the replicas that lack [`LAG_ENTRIES`] or do not respond,
/// as reported by the owners of their shards.
pub fn find_problems(
    observed: &ClusterObservation<'_>,
    leader: Option<NodeId>,
    lagging: &BTreeMap<ShardId, NodeId>,
) -> Vec<ClusterProblem> {
    let control_problem = control_problem(observed, leader);
    let mut problems: Vec<ClusterProblem> =
        control_problem.into_iter().chain(shard_problems(observed)).collect();
    problems.extend(lag_problem(observed, lagging));
    let unreachable =
        observed.view.members.keys().copied().filter(|node| !observed.reachable.contains(node));
    let nodes: Vec<_> = unreachable.collect();
    if !nodes.is_empty() {
        problems.push(ClusterProblem::UnreachableMembers { nodes });
    }
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity()));
    problems
}

fn control_problem(
    observed: &ClusterObservation<'_>,
    leader: Option<NodeId>,
) -> Option<ClusterProblem> {
    let missing = unreachable_voters(observed, observed.control);
    if !observed.control.is_empty() && 2 * missing.len() >= observed.control.len() {
        return Some(ClusterProblem::ControlWithoutMajority { missing });
    }
    let has_leader = leader.is_some_and(|leader| observed.reachable.contains(&leader));
    (!has_leader).then_some(ClusterProblem::ControlWithoutLeader)
}

fn shard_problems(observed: &ClusterObservation<'_>) -> Vec<ClusterProblem> {
    let wanted = usize::from(observed.view.replicas);
    let (mut lost, mut lost_nodes) = (Vec::new(), BTreeSet::new());
    let (mut unowned, mut underreplicated, mut least) = (Vec::new(), Vec::new(), wanted);
    for shard in observed.view.shards.ids() {
        let voters = observed.voters(shard);
        let missing = unreachable_voters(observed, voters);
        let living = voters.len() - missing.len();
        if !voters.is_empty() && 2 * missing.len() >= voters.len() {
            lost.push(shard);
            lost_nodes.extend(missing);
        } else if !observed
            .owners
            .owner_of(shard)
            .is_some_and(|owner| observed.reachable.contains(&owner))
        {
            unowned.push(shard);
        }
        if living < wanted {
            underreplicated.push(shard);
            least = least.min(living);
        }
    }
    if FailPoint::LostMajorityHidden.is_active() {
        lost.clear();
    }
    let lost = (!lost.is_empty())
        .then_some(ClusterProblem::ShardsWithoutMajority { shards: lost, missing: lost_nodes });
    let unowned =
        (!unowned.is_empty()).then_some(ClusterProblem::ShardsWithoutOwner { shards: unowned });
    let underreplicated = (!underreplicated.is_empty()).then_some(ClusterProblem::TooFewCopies {
        shards: underreplicated,
        least,
        wanted,
    });
    [lost, unowned, underreplicated].into_iter().flatten().collect()
}

/// Only voters count: a new replica without a vote is part of a move, during which no copy is missing.
fn lag_problem(
    observed: &ClusterObservation<'_>,
    lagging: &BTreeMap<ShardId, NodeId>,
) -> Option<ClusterProblem> {
    let is_reachable_voter = |&(&shard, node): &(&ShardId, &NodeId)| {
        observed.voters(shard).contains(node) && observed.reachable.contains(node)
    };
    let (shards, nodes): (Vec<_>, BTreeSet<_>) =
        lagging.iter().filter(is_reachable_voter).map(|(&shard, &node)| (shard, node)).unzip();
    (!shards.is_empty()).then_some(ClusterProblem::LaggingReplicas { shards, nodes })
}

fn unreachable_voters(observed: &ClusterObservation<'_>, voters: &[NodeId]) -> BTreeSet<NodeId> {
    voters.iter().copied().filter(|voter| !observed.reachable.contains(voter)).collect()
}

impl ClusterProblem {
    /// The severity of the problem.
    pub fn severity(&self) -> Severity {
        match self {
            ClusterProblem::ControlWithoutLeader
            | ClusterProblem::ControlWithoutMajority { .. }
            | ClusterProblem::ShardsWithoutMajority { .. }
            | ClusterProblem::ShardsWithoutOwner { .. } => Severity::Unavailable,
            ClusterProblem::TooFewCopies { .. }
            | ClusterProblem::LaggingReplicas { .. }
            | ClusterProblem::UnreachableMembers { .. } => Severity::Degraded,
        }
    }

    /// A machine-readable identifier, the same in every version.
    pub fn kind(&self) -> &'static str {
        match self {
            ClusterProblem::ControlWithoutLeader => "control_without_leader",
            ClusterProblem::ControlWithoutMajority { .. } => "control_without_majority",
            ClusterProblem::ShardsWithoutMajority { .. } => "shards_without_majority",
            ClusterProblem::ShardsWithoutOwner { .. } => "shards_without_owner",
            ClusterProblem::TooFewCopies { .. } => "too_few_copies",
            ClusterProblem::LaggingReplicas { .. } => "replicas_lag",
            ClusterProblem::UnreachableMembers { .. } => "members_unreachable",
        }
    }

    /// The number of affected shards, members or groups.
    pub fn count(&self) -> usize {
        match self {
            ClusterProblem::ControlWithoutLeader
            | ClusterProblem::ControlWithoutMajority { .. } => 1,
            ClusterProblem::ShardsWithoutMajority { shards, .. }
            | ClusterProblem::ShardsWithoutOwner { shards }
            | ClusterProblem::TooFewCopies { shards, .. }
            | ClusterProblem::LaggingReplicas { shards, .. } => shards.len(),
            ClusterProblem::UnreachableMembers { nodes } => nodes.len(),
        }
    }

    /// Every [`ClusterProblem::kind`], for metrics.
    pub const KINDS: [&'static str; 7] = [
        "control_without_leader",
        "control_without_majority",
        "shards_without_majority",
        "shards_without_owner",
        "too_few_copies",
        "replicas_lag",
        "members_unreachable",
    ];
}

impl Severity {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Degraded => "degraded",
            Severity::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for ClusterProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterProblem::ControlWithoutLeader => f.write_str(
                "the control group has no leader: the cluster cannot change until it elects one",
            ),
            ClusterProblem::ControlWithoutMajority { missing } => write!(
                f,
                "the control group has no majority while {} cannot be reached: start these nodes",
                format_nodes(missing)
            ),
            ClusterProblem::ShardsWithoutMajority { shards, missing } => write!(
                f,
                "{} cannot be published to while {} cannot be reached: start these nodes",
                format_shards(shards),
                format_nodes(missing)
            ),
            ClusterProblem::ShardsWithoutOwner { shards } => {
                write!(f, "no reachable owner of {}: wait for the election", format_shards(shards))
            }
            ClusterProblem::TooFewCopies { shards, least, wanted } => write!(
                f,
                "{} fewer than {wanted} live copies (minimum {least}): start the nodes that are down, or add \
                 nodes",
                match shards.as_slice() {
                    [_] => format!("{} has", format_shards(shards)),
                    _ => format!("{} have", format_shards(shards)),
                }
            ),
            ClusterProblem::LaggingReplicas { shards, nodes } => write!(
                f,
                "the replicas of {} on {} lack messages of their owners, or do not respond: they should catch \
                 up without intervention; if they do not, check the logs, disks and network of these nodes",
                format_shards(shards),
                format_nodes(nodes)
            ),
            ClusterProblem::UnreachableMembers { nodes } => write!(
                f,
                "{} cannot be reached: start these nodes, or remove those that are permanently lost",
                format_nodes(nodes)
            ),
        }
    }
}

/// Maximum number of shards listed by id; more are counted.
const LISTED_MAX: usize = 8;

fn format_shards(shards: &[ShardId]) -> String {
    match shards.len() {
        0..=LISTED_MAX => shards.iter().map(ShardId::to_string).collect::<Vec<_>>().join(", "),
        count => {
            let first: Vec<_> = shards.iter().take(3).map(ShardId::to_string).collect();
            format!("{count} shards ({}, …)", first.join(", "))
        }
    }
}

fn format_nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    nodes.into_iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "health/health_test.rs"]
mod health_test;

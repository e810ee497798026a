//! What is wrong with a cluster: shards without an owner or a majority, copies that are missing, members
//! that cannot be reached. Pure; judged by what one node sees, as [`leave`](crate::leave) does.
//!
//! `pushonce cluster status` prints it first, its exit status is made of it, and each node counts it in
//! its metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pushonce_core::{NodeId, ShardId};

use crate::leave::Seen;

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Everything is served; the next failure may end that.
    Degraded,
    /// Some topics cannot be published to, or the cluster cannot be changed.
    Unavailable,
}

/// One thing that is wrong. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The control group has no leader that the node knows.
    ControlWithoutLeader,
    /// Most voters of the control group cannot be reached.
    ControlWithoutMajority {
        /// These.
        missing: BTreeSet<NodeId>,
    },
    /// Most replicas of some shards cannot be reached.
    ShardsWithoutMajority {
        /// Which shards.
        shards: Vec<ShardId>,
        /// The replicas' nodes that cannot be reached.
        missing: BTreeSet<NodeId>,
    },
    /// Nobody is known to own some shards, or the owner cannot be reached.
    ShardsWithoutOwner {
        /// Which.
        shards: Vec<ShardId>,
    },
    /// Some shards have fewer living replicas than configured.
    TooFewCopies {
        /// Which.
        shards: Vec<ShardId>,
        /// How many the worst of them has.
        least: usize,
        /// How many each should have.
        wanted: usize,
    },
    /// Some replicas on living nodes lack much of what their owner has, or answer nothing.
    ReplicasLag {
        /// Of which shards.
        shards: Vec<ShardId>,
        /// On which nodes.
        nodes: BTreeSet<NodeId>,
    },
    /// Some members cannot be reached.
    Unreachable {
        /// Which.
        nodes: Vec<NodeId>,
    },
}

/// A replica that lacks this many entries lags: a failure of its owner finds one copy less. The replicas of
/// a busy shard lack some tens for a moment.
pub const LAG_ENTRIES: u64 = 1_024;

/// Everything that is wrong, the worst first; empty for a healthy cluster. `leader` leads the control
/// group, as far as the node knows. `lagging` has the replicas that lack [`LAG_ENTRIES`] or answer nothing, as
/// the owners of their shards say.
pub fn problems(
    seen: &Seen<'_>,
    leader: Option<NodeId>,
    lagging: &BTreeMap<ShardId, NodeId>,
) -> Vec<Problem> {
    let control = control(seen, leader);
    let mut found: Vec<Problem> = control.into_iter().chain(shards(seen)).collect();
    found.extend(lag(seen, lagging));
    let away = seen.view.members.keys().copied().filter(|node| !seen.reachable.contains(node));
    let nodes: Vec<_> = away.collect();
    if !nodes.is_empty() {
        found.push(Problem::Unreachable { nodes });
    }
    found.sort_by_key(|problem| std::cmp::Reverse(problem.severity()));
    found
}

fn control(seen: &Seen<'_>, leader: Option<NodeId>) -> Option<Problem> {
    let missing = missing(seen, seen.control);
    if !seen.control.is_empty() && 2 * missing.len() >= seen.control.len() {
        return Some(Problem::ControlWithoutMajority { missing });
    }
    let leads = leader.is_some_and(|leader| seen.reachable.contains(&leader));
    (!leads).then_some(Problem::ControlWithoutLeader)
}

fn shards(seen: &Seen<'_>) -> Vec<Problem> {
    let wanted = usize::from(seen.view.replicas);
    let (mut lost, mut lost_nodes) = (Vec::new(), BTreeSet::new());
    let (mut unowned, mut few, mut least) = (Vec::new(), Vec::new(), wanted);
    for shard in seen.view.shards.ids() {
        let voters = seen.voters(shard);
        let missing = missing(seen, voters);
        let living = voters.len() - missing.len();
        if !voters.is_empty() && 2 * missing.len() >= voters.len() {
            lost.push(shard);
            lost_nodes.extend(missing);
        } else if !seen.owners.of(shard).is_some_and(|owner| seen.reachable.contains(&owner)) {
            unowned.push(shard);
        }
        if living < wanted {
            few.push(shard);
            least = least.min(living);
        }
    }
    #[cfg(feature = "planted-bugs")]
    if crate::planted::sees_no_lost_majority() {
        lost.clear();
    }
    let lost = (!lost.is_empty())
        .then_some(Problem::ShardsWithoutMajority { shards: lost, missing: lost_nodes });
    let unowned = (!unowned.is_empty()).then_some(Problem::ShardsWithoutOwner { shards: unowned });
    let few = (!few.is_empty()).then_some(Problem::TooFewCopies { shards: few, least, wanted });
    [lost, unowned, few].into_iter().flatten().collect()
}

/// A replica that is on its way in has no vote yet: it is a move, and no copy is missing meanwhile.
fn lag(seen: &Seen<'_>, lagging: &BTreeMap<ShardId, NodeId>) -> Option<Problem> {
    let votes = |&(&shard, node): &(&ShardId, &NodeId)| {
        seen.voters(shard).contains(node) && seen.reachable.contains(node)
    };
    let (shards, nodes): (Vec<_>, BTreeSet<_>) =
        lagging.iter().filter(votes).map(|(&shard, &node)| (shard, node)).unzip();
    (!shards.is_empty()).then_some(Problem::ReplicasLag { shards, nodes })
}

fn missing(seen: &Seen<'_>, voters: &[NodeId]) -> BTreeSet<NodeId> {
    voters.iter().copied().filter(|voter| !seen.reachable.contains(voter)).collect()
}

impl Problem {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Problem::ControlWithoutLeader
            | Problem::ControlWithoutMajority { .. }
            | Problem::ShardsWithoutMajority { .. }
            | Problem::ShardsWithoutOwner { .. } => Severity::Unavailable,
            Problem::TooFewCopies { .. }
            | Problem::ReplicasLag { .. }
            | Problem::Unreachable { .. } => Severity::Degraded,
        }
    }

    /// A word for machines, the same in every version.
    pub fn kind(&self) -> &'static str {
        match self {
            Problem::ControlWithoutLeader => "control_without_leader",
            Problem::ControlWithoutMajority { .. } => "control_without_majority",
            Problem::ShardsWithoutMajority { .. } => "shards_without_majority",
            Problem::ShardsWithoutOwner { .. } => "shards_without_owner",
            Problem::TooFewCopies { .. } => "too_few_copies",
            Problem::ReplicasLag { .. } => "replicas_lag",
            Problem::Unreachable { .. } => "members_unreachable",
        }
    }

    /// How many shards, members or groups it is about.
    pub fn count(&self) -> usize {
        match self {
            Problem::ControlWithoutLeader | Problem::ControlWithoutMajority { .. } => 1,
            Problem::ShardsWithoutMajority { shards, .. }
            | Problem::ShardsWithoutOwner { shards }
            | Problem::TooFewCopies { shards, .. }
            | Problem::ReplicasLag { shards, .. } => shards.len(),
            Problem::Unreachable { nodes } => nodes.len(),
        }
    }

    /// Every [`Problem::kind`], for who counts them.
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
    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Degraded => "degraded",
            Severity::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::ControlWithoutLeader => f.write_str(
                "the control group has no leader: no node can join, leave or move until it elects one",
            ),
            Problem::ControlWithoutMajority { missing } => write!(
                f,
                "the control group has no majority while {} cannot be reached: start them again",
                listed(missing)
            ),
            Problem::ShardsWithoutMajority { shards, missing } => write!(
                f,
                "{} cannot be published to while {} cannot be reached: start them again",
                named(shards),
                listed(missing)
            ),
            Problem::ShardsWithoutOwner { shards } => {
                write!(f, "no owner of {} can be reached: wait for the election", named(shards))
            }
            Problem::TooFewCopies { shards, least, wanted } => write!(
                f,
                "{} fewer than {wanted} living copies (the least has {least}): start the nodes that are \
                 down, or let others join",
                match shards.as_slice() {
                    [_] => format!("{} has", named(shards)),
                    _ => format!("{} have", named(shards)),
                }
            ),
            Problem::ReplicasLag { shards, nodes } => write!(
                f,
                "the replicas of {} on {} lack messages that their owners have, or answer nothing: what they \
                 lack is being sent; if this does not end, look at the logs, the disks and the network of \
                 these nodes",
                named(shards),
                listed(nodes)
            ),
            Problem::Unreachable { nodes } => write!(
                f,
                "{} cannot be reached: start them again, or remove what is lost for good",
                listed(nodes)
            ),
        }
    }
}

/// More than this many shards are counted, not listed.
const LISTED_MAX: usize = 8;

fn named(shards: &[ShardId]) -> String {
    match shards.len() {
        0..=LISTED_MAX => shards.iter().map(ShardId::to_string).collect::<Vec<_>>().join(", "),
        count => {
            let first: Vec<_> = shards.iter().take(3).map(ShardId::to_string).collect();
            format!("{count} shards ({}, …)", first.join(", "))
        }
    }
}

fn listed<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    nodes.into_iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "condition/condition_test.rs"]
mod condition_test;

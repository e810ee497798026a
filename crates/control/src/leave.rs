//! Whether a member may be removed or drained now.
//!
//! A removed node is ignored, and its replicas count against every majority until each group has removed
//! them. So the reachable members of every group in which it votes must be a majority without it. The
//! control group cannot see that; the node that receives the command checks it, from claims and links.

use std::collections::BTreeSet;
use std::fmt;

use pushonce_core::{
    ClusterView, CoverageMark, FailPoint, Member, MemberState, NodeId, ShardId, ShardOwners,
};

/// The cluster as the node that receives the command observes it.
#[derive(Clone, Copy, Debug)]
pub struct ClusterObservation<'a> {
    /// The members and the placement.
    pub view: &'a ClusterView,
    /// The groups of the shards.
    pub owners: &'a ShardOwners,
    /// The voters of the control group.
    pub control: &'a [NodeId],
    /// The nodes with a link to this one, and the node itself.
    pub reachable: &'a BTreeSet<NodeId>,
}

/// A set of groups: shards, and the control group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSet {
    /// The shards, by id.
    pub shards: Vec<ShardId>,
    /// Whether the control group is in the set.
    pub control: bool,
}

/// Why a member must not be removed or drained now. The text states what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaveRejection {
    /// No member has this id.
    #[error("{0} is not a member: `pushonce cluster status` lists them")]
    NotAMember(NodeId),
    /// The member is up and still holds replicas.
    #[error(
        "{node} is up and still in {groups}: drain it first (`pushonce cluster drain {node}`). \
         With --force it is removed at once, and each of these groups has one copy less until another \
         node has caught up"
    )]
    StillHoldsReplicas {
        /// The member.
        node: NodeId,
        /// The groups it is in.
        groups: GroupSet,
    },
    /// The other members could not hold as many copies as configured.
    #[error(
        "without {node} only {left} reachable nodes may hold shards, and each shard should have {wanted} \
         copies: join another node first. `pushonce cluster drain {node} --force` drains it anyway and \
         leaves each shard with {left} copies"
    )]
    TooFewCopies {
        /// The member.
        node: NodeId,
        /// The number of reachable nodes that could hold copies without it.
        left: usize,
        /// The number of copies that a shard should have.
        wanted: usize,
    },
    /// The member has the only copy of some groups.
    #[error(
        "{node} has the only copy of {groups}, which would be lost: start {node} and drain it \
         (`pushonce cluster drain {node}`)"
    )]
    OnlyCopy {
        /// The member.
        node: NodeId,
        /// The groups.
        groups: GroupSet,
    },
    /// The reachable members of some groups would not be a majority without it.
    #[error(
        "without {node} there is no majority of {groups} while {} cannot be reached: start these nodes \
         first. With --force {node} is removed permanently anyway, and these groups accept nothing until \
         the nodes are back, or never again if they are lost too",
        listed(missing)
    )]
    NoMajority {
        /// The member.
        node: NodeId,
        /// The groups.
        groups: GroupSet,
        /// The unreachable voters of these groups; the return of one of them may be enough.
        missing: BTreeSet<NodeId>,
    },
}

/// The groups in which a member is a voter or a learner, according to their owners. Every member is at
/// least a learner of the control group, which counts only if the member votes there.
fn groups_of_node(observed: &ClusterObservation<'_>, node: NodeId) -> GroupSet {
    let is_replica = |shard: &ShardId| {
        let claim = observed.owners.claim(*shard);
        claim.is_some_and(|claim| claim.voters.contains(&node) || claim.learners.contains(&node))
    };
    GroupSet {
        shards: observed.view.shards.ids().filter(is_replica).collect(),
        control: observed.control.contains(&node),
    }
}

/// Checks that a member may be drained: with `force`, or when the other reachable members can hold as many
/// copies of each shard as configured. A member that is draining or was removed always may.
///
/// # Errors
/// [`LeaveRejection::TooFewCopies`].
pub fn check_drain(
    observed: &ClusterObservation<'_>,
    node: NodeId,
    force: bool,
) -> Result<(), LeaveRejection> {
    let force = force || FailPoint::LeaveAlwaysForced.is_active();
    let Some(member) = observed.view.members.get(&node) else {
        // The control group decides whether there ever was such a member.
        return Ok(());
    };
    if force || member.state == MemberState::Draining || !member.roles.core {
        return Ok(());
    }
    let can_hold_shards = |other: &&Member| {
        other.id != node
            && other.roles.core
            && other.state == MemberState::Active
            && observed.reachable.contains(&other.id)
    };
    let left = observed.view.members.values().filter(can_hold_shards).count();
    let wanted = usize::from(observed.view.replicas);
    if left < wanted {
        CoverageMark::LeaveRejected.reach();
        return Err(LeaveRejection::TooFewCopies { node, left, wanted });
    }
    Ok(())
}

/// Checks that a member may be removed now. A removed one always may. With `force`, a member may be removed
/// unless data is certainly lost.
///
/// # Errors
/// [`LeaveRejection`] when the node is not a member, has the only copy of a group, or, without `force`,
/// still holds replicas or is needed for a majority.
pub fn check_remove(
    observed: &ClusterObservation<'_>,
    node: NodeId,
    force: bool,
) -> Result<(), LeaveRejection> {
    let force = force || FailPoint::LeaveAlwaysForced.is_active();
    if observed.view.was_removed(node) {
        return Ok(());
    }
    if observed.view.member(node).is_none() {
        return Err(LeaveRejection::NotAMember(node));
    }
    let groups = groups_of_node(observed, node);
    if observed.reachable.contains(&node) && !groups.is_empty() && !force {
        return Err(LeaveRejection::StillHoldsReplicas { node, groups });
    }
    let only_copies = observed.groups_where(node, |others, _| others.is_empty());
    if !only_copies.is_empty() {
        return Err(LeaveRejection::OnlyCopy { node, groups: only_copies });
    }
    let is_reachable = |other: &&NodeId| observed.reachable.contains(other);
    let without_majority = observed.groups_where(node, |others, voters| {
        others.iter().filter(is_reachable).count() <= voters.len() / 2
    });
    if without_majority.is_empty() || force {
        return Ok(());
    }
    let missing = observed.unreachable_voters(node, &without_majority);
    Err(LeaveRejection::NoMajority { node, groups: without_majority, missing })
}

impl ClusterObservation<'_> {
    /// The voters of a shard according to its owner; those of the placement before the first claim.
    pub fn voters(&self, shard: ShardId) -> &[NodeId] {
        let claim = self.owners.claim(shard);
        claim.map_or_else(|| self.view.placement.replicas_of(shard), |claim| &claim.voters)
    }

    /// The groups in which `node` votes and that satisfy `predicate`, called with the other voters and with
    /// all voters.
    fn groups_where(
        &self,
        node: NodeId,
        predicate: impl Fn(&[NodeId], &[NodeId]) -> bool,
    ) -> GroupSet {
        let holds_without_node = |voters: &[NodeId]| {
            let others: Vec<_> = voters.iter().copied().filter(|&other| other != node).collect();
            others.len() < voters.len() && predicate(&others, voters)
        };
        GroupSet {
            shards: self
                .view
                .shards
                .ids()
                .filter(|&shard| holds_without_node(self.voters(shard)))
                .collect(),
            control: holds_without_node(self.control),
        }
    }

    /// The unreachable voters of some groups, without `node`.
    fn unreachable_voters(&self, node: NodeId, groups: &GroupSet) -> BTreeSet<NodeId> {
        let control = if groups.control { self.control } else { &[] };
        let shards = groups.shards.iter().flat_map(|&shard| self.voters(shard));
        let voters = shards.chain(control).copied();
        voters.filter(|voter| *voter != node && !self.reachable.contains(voter)).collect()
    }
}

impl GroupSet {
    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty() && !self.control
    }
}

impl fmt::Display for GroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control = self.control.then(|| "the control group".to_owned());
        let groups = control.into_iter().chain(self.shards.iter().map(ShardId::to_string));
        f.write_str(&groups.collect::<Vec<_>>().join(", "))
    }
}

fn listed(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "leave/leave_test.rs"]
pub(crate) mod leave_test;

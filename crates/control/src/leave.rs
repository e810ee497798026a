//! Whether a member may be removed or drained now.
//!
//! What is removed is not listened to any more, and its replicas count against every majority until
//! each group has let go of it. So the living members of every group it votes in must be a majority
//! without it. The control group cannot see that: whoever is asked does, by claims and links.

use std::collections::BTreeSet;
use std::fmt;

use pushonce_core::{ClusterView, FailPoint, Member, MemberState, NodeId, ShardId, ShardOwners};

/// What the node that is asked sees.
#[derive(Clone, Copy, Debug)]
pub struct ClusterObservation<'a> {
    /// The members and the table.
    pub view: &'a ClusterView,
    /// The groups of the shards.
    pub owners: &'a ShardOwners,
    /// Who votes in the control group.
    pub control: &'a [NodeId],
    /// Who lives, as far as links tell; the node itself is among them.
    pub reachable: &'a BTreeSet<NodeId>,
}

/// Groups: those of shards, and the control group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSet {
    /// By id.
    pub shards: Vec<ShardId>,
    /// Whether the control group is among them.
    pub control: bool,
}

/// Why a member should not be removed now. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaveRejection {
    /// Nobody has that id.
    #[error("{0} is not a member: `pushonce cluster status` lists them")]
    NotAMember(NodeId),
    /// It lives, and has not given away what it holds.
    #[error(
        "{node} is up and still in {groups}: drain it first (`pushonce cluster drain {node}`). \
         With --force it ends at once, and each of these has one copy fewer until another node has \
         caught up"
    )]
    StillHoldsReplicas {
        /// Who.
        node: NodeId,
        /// What it is in.
        groups: GroupSet,
    },
    /// The others could not hold as many copies as configured.
    #[error(
        "without {node} only {left} reachable nodes may hold shards, and each shard should have {wanted} \
         copies: let another node join first. `pushonce cluster drain {node} --force` drains it all the \
         same, and each shard has {left} copies then"
    )]
    TooFewCopies {
        /// Who.
        node: NodeId,
        /// How many nodes could hold copies then.
        left: usize,
        /// How many copies a shard should have.
        wanted: usize,
    },
    /// Nobody else has what it holds.
    #[error(
        "{node} has the only copy of {groups}, which would be lost: start {node} again and drain it \
         (`pushonce cluster drain {node}`)"
    )]
    OnlyCopy {
        /// Who.
        node: NodeId,
        /// Of what.
        groups: GroupSet,
    },
    /// The living could not decide without it.
    #[error(
        "without {node} there is no majority of {groups} while {} cannot be reached: bring that back \
         first. With --force {node} is gone for ever all the same, and they accept nothing until then, \
         or never again if that is lost too",
        listed(missing)
    )]
    NoMajority {
        /// Who.
        node: NodeId,
        /// Of what.
        groups: GroupSet,
        /// Who would have to come back; one of them may be enough.
        missing: BTreeSet<NodeId>,
    },
}

/// What a member is in: the groups it votes or follows in, as their owners say. A follower of the
/// control group is every member, and counts as nothing.
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

/// Says whether a member may give its share away: with `force`, or when the reachable others can hold as
/// many copies of each shard as configured. One that drains or is gone already may.
pub fn check_drain(
    observed: &ClusterObservation<'_>,
    node: NodeId,
    force: bool,
) -> Result<(), LeaveRejection> {
    let force = force || FailPoint::LeaveAlwaysForced.is_active();
    let Some(member) = observed.view.members.get(&node) else {
        // The control group knows best whether there ever was such a member.
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
    if left < wanted { Err(LeaveRejection::TooFewCopies { node, left, wanted }) } else { Ok(()) }
}

/// Says whether a member may be removed now. One that is gone already may.
///
/// With `force` it may as long as nothing is lost for certain.
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
    /// As the owner says; where none is known, as the table has it.
    /// The voters of a shard, as its owner said last; those of the table before.
    pub fn voters(&self, shard: ShardId) -> &[NodeId] {
        let claim = self.owners.claim(shard);
        claim.map_or_else(|| self.view.placement.replicas_of(shard), |claim| &claim.voters)
    }

    /// The groups in which `node` votes and that are so without it: asked with the others, and all.
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

    /// The voters of some groups that cannot be reached, but for `node`.
    fn unreachable_voters(&self, node: NodeId, groups: &GroupSet) -> BTreeSet<NodeId> {
        let control = if groups.control { self.control } else { &[] };
        let shards = groups.shards.iter().flat_map(|&shard| self.voters(shard));
        let voters = shards.chain(control).copied();
        voters.filter(|voter| *voter != node && !self.reachable.contains(voter)).collect()
    }
}

impl GroupSet {
    /// Whether there is none.
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

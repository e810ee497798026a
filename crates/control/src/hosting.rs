//! Which replicas this node runs.
//!
//! A replica that was removed from its group is not notified: it would request elections indefinitely. So
//! its node learns of the removal from ownership claims, and drops the replica.

use std::collections::BTreeMap;

use pushonce_core::{ClusterView, NodeId, ShardId, ShardOwners};

/// The replicas to start and to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostingPlan {
    /// Replicas to start, from disk or empty, without initialising them. Only a bootstrap initialises.
    pub start: Vec<ShardId>,
    /// Replicas to stop and then delete.
    pub remove: Vec<ReplicaRemoval>,
}

/// A replica that its group has removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaRemoval {
    /// The shard.
    pub shard: ShardId,
    /// The log index of a membership without this node. If the group has added the replica again before it
    /// is stopped, a newer membership on its own disk shows that.
    pub removed_at: u64,
}

/// Plans which replicas `me` starts and removes.
///
/// `hosted` are the replicas that run here, with the index of the newest membership on their disk that
/// names this node, if any. At its start a node starts every replica that it has data of: it may still vote
/// in a group that the placement has already moved to others, and that group may need its vote to elect a
/// leader that can claim it.
///
/// A replica is started when the placement lists this node, when the owner's group still includes it, or
/// while `bootstrapping`: then this node is the only one, and every shard begins here (see
/// [`ControlHandle::bootstrap`](crate::ControlHandle::bootstrap) for when that ends).
///
/// A replica is removed when the placement does not list this node *and* the newest claim is another node's
/// and names this one neither voter nor learner, *and* that claim is newer than the membership in `hosted`.
/// Without a claim nothing is removed: a changed placement does not mean that the group has changed.
///
/// Claims name committed memberships only, so a node that a claim excludes is not asked to vote any more.
pub fn plan(
    me: NodeId,
    view: &ClusterView,
    owners: &ShardOwners,
    hosted: &BTreeMap<ShardId, Option<u64>>,
    bootstrapping: bool,
) -> HostingPlan {
    let mut plan = HostingPlan::default();
    for shard in view.shards.ids() {
        let is_placed = view.placement.replicas_of(shard).contains(&me);
        let membership = membership_of(me, owners, shard);
        let is_wanted = is_placed || membership == GroupMembership::Member;
        let starts_here = bootstrapping && membership == GroupMembership::Unknown;
        match hosted.get(&shard) {
            None if is_wanted || starts_here => plan.start.push(shard),
            Some(&local_membership) if !is_placed && membership == GroupMembership::NotMember => {
                plan.remove.extend(removal(owners, shard, local_membership));
            }
            _ => {}
        }
    }
    plan
}

/// The removal that the newest claim states, if it is newer than the membership with this node on its own
/// disk. An older claim, from a node that was cut off, does not show later changes.
fn removal(
    owners: &ShardOwners,
    shard: ShardId,
    local_membership: Option<u64>,
) -> Option<ReplicaRemoval> {
    let removed_at = owners.claim(shard)?.membership_index;
    local_membership
        .is_none_or(|local| removed_at > local)
        .then_some(ReplicaRemoval { shard, removed_at })
}

/// Whether the newest claim to a shard is another node's, and names `me` neither voter nor learner. A replica that still
/// runs here then receives nothing more, not even the commit of its removal.
pub fn is_excluded(me: NodeId, owners: &ShardOwners, shard: ShardId) -> bool {
    membership_of(me, owners, shard) == GroupMembership::NotMember
}

/// The membership of this node in a group, according to the group's owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GroupMembership {
    Unknown,
    Member,
    NotMember,
}

fn membership_of(me: NodeId, owners: &ShardOwners, shard: ShardId) -> GroupMembership {
    match owners.claim(shard) {
        None => GroupMembership::Unknown,
        Some(claim) => {
            let is_named = claim.voters.contains(&me) || claim.learners.contains(&me);
            if is_named || claim.owner == me {
                GroupMembership::Member
            } else {
                GroupMembership::NotMember
            }
        }
    }
}

#[cfg(test)]
#[path = "hosting/hosting_test.rs"]
mod hosting_test;

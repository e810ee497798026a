//! Which replicas this node runs.
//!
//! A replica that was removed from its group is never told: it would ask to be elected for ever. So
//! its node finds out from what the owners claim, and drops it.

use std::collections::BTreeMap;

use pushonce_core::{ClusterView, NodeId, ShardId, ShardOwners};

/// What to start and what to drop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostingPlan {
    /// Replicas to start: on disk or empty, in either case without initialising them (only a founder
    /// does that).
    pub start: Vec<ShardId>,
    /// Replicas to stop, and then to delete.
    pub remove: Vec<ReplicaRemoval>,
}

/// A replica that its group has removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaRemoval {
    /// Which replica.
    pub shard: ShardId,
    /// The log index of a membership that does not name this node. By the time the replica is stopped
    /// the group may have taken it back: a newer membership on its own disk says so.
    pub removed_at: u64,
}

/// What `me` has to start and to drop.
///
/// `hosted` are the replicas that run here. A node that starts first starts every replica it has
/// data of: it may still vote in a group that the table has already given to others, and that group
/// may need its vote before anybody can lead and claim it.
///
/// A replica is started when the table lists this node, when the owner's group still has it, or
/// when this node is `founding`: then it is the only one, and every shard begins here (see
/// [`ControlHandle::found`](crate::ControlHandle::bootstrap) for when that ends).
///
/// It is dropped when the table does not list this node *and* the newest claim is another node's and
/// names this one neither voter nor learner, *and* that claim is newer than what this node's own
/// replica knows: `hosted` gives the index of the newest membership there that names this node, if
/// it does. Without a claim nothing is dropped: that the table has
/// changed does not mean that the group has.
///
/// Claims name committed memberships only, so a node that is told to go will not be asked to vote.
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

/// The removal that the newest claim tells of, if it is newer than the membership on this node's own
/// disk that names it: an older one, from a node that was cut off, says nothing about what came after.
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

/// How this node stands to a group, as the group's owner says.
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

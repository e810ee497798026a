//! The current leader of each shard, as announced by the leaders.
//!
//! A node that holds no replica of a shard cannot observe its Raft group, so an owner announces its
//! ownership and its term on every link. Of two claims, the one with the higher term is newer. The table
//! itself is not agreed on by consensus; the terms are, in the group of each shard. Which announcements a node
//! believes is decided where they arrive.

use std::collections::BTreeMap;

use crate::{NodeId, ShardId, Term};

/// The announcement of an owner that it leads a shard, with the members of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnershipClaim {
    /// The shard.
    pub shard: ShardId,
    /// The node that leads the shard.
    pub owner: NodeId,
    /// The term in which it leads.
    pub term: Term,
    /// The log index of the group's membership below; higher is newer.
    pub membership_index: u64,
    /// The voting replicas.
    pub voters: Vec<NodeId>,
    /// The replicas that are catching up.
    pub learners: Vec<NodeId>,
}

/// The newest claim of each shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardOwners(BTreeMap<ShardId, OwnershipClaim>);

impl ShardOwners {
    /// Stores a claim unless a newer one is known. Returns whether the table changed.
    pub fn apply_claim(&mut self, claim: OwnershipClaim) -> bool {
        let is_newer = self.0.get(&claim.shard).is_none_or(|known| {
            (claim.term, claim.membership_index) > (known.term, known.membership_index)
        });
        if is_newer {
            self.0.insert(claim.shard, claim);
        }
        is_newer
    }

    /// Stores a claim in place of whatever is known.
    pub fn replace(&mut self, claim: OwnershipClaim) {
        self.0.insert(claim.shard, claim);
    }

    /// Removes the claim to a shard.
    pub fn remove(&mut self, shard: ShardId) {
        self.0.remove(&shard);
    }

    /// The owner of a shard as far as known.
    pub fn owner_of(&self, shard: ShardId) -> Option<NodeId> {
        self.0.get(&shard).map(|claim| claim.owner)
    }

    /// The newest claim to a shard, if any is known.
    pub fn claim(&self, shard: ShardId) -> Option<&OwnershipClaim> {
        self.0.get(&shard)
    }

    /// Every known claim, ordered by shard.
    pub fn claims(&self) -> impl Iterator<Item = &OwnershipClaim> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util;

    fn claim(owner: u64, term: u64, membership_index: u64) -> OwnershipClaim {
        OwnershipClaim { membership_index, ..test_util::claim(3, owner, term) }
    }

    #[test]
    fn claim_with_the_higher_term_wins_in_any_arrival_order() {
        let mut owners = ShardOwners::default();
        assert!(owners.apply_claim(claim(1, 5, 1)));
        assert!(!owners.apply_claim(claim(2, 4, 9)));
        assert_eq!(owners.owner_of(ShardId(3)), Some(NodeId(1)));
        assert!(owners.apply_claim(claim(2, 6, 1)));
        assert_eq!(owners.owner_of(ShardId(3)), Some(NodeId(2)));
    }

    #[test]
    fn newer_membership_wins_within_a_term_and_a_duplicate_changes_nothing() {
        let mut owners = ShardOwners::default();
        assert!(owners.apply_claim(claim(1, 5, 1)));
        assert!(owners.apply_claim(claim(1, 5, 2)));
        assert!(!owners.apply_claim(claim(1, 5, 2)));
    }
}

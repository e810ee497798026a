//! Who leads each shard now, as the leaders themselves say.
//!
//! A node that holds no replica of a shard cannot see its Raft group. So an owner tells every link
//! that it owns, and under which term; of two claims the higher term is the newer. Nothing of this
//! is consensus: the term is, and it came out of the shard's own group.

use std::collections::BTreeMap;

use crate::{NodeId, ShardId, Term};

/// An owner's word: I lead this shard, and this is its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The shard.
    pub shard: ShardId,
    /// Who says so.
    pub owner: NodeId,
    /// The term it leads under.
    pub term: Term,
    /// The log index of the group's membership below; the higher is the newer.
    pub membership: u64,
    /// The replicas that vote.
    pub voters: Vec<NodeId>,
    /// The replicas that are being brought up.
    pub learners: Vec<NodeId>,
}

/// The newest claim of each shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(BTreeMap<ShardId, Claim>);

impl Owners {
    /// Takes a claim unless a newer one is known. Says whether the table changed.
    pub fn hear(&mut self, claim: Claim) -> bool {
        let newer = self
            .0
            .get(&claim.shard)
            .is_none_or(|known| (claim.term, claim.membership) > (known.term, known.membership));
        if newer {
            self.0.insert(claim.shard, claim);
        }
        newer
    }

    /// The node that owns a shard, as far as is known.
    pub fn of(&self, shard: ShardId) -> Option<NodeId> {
        self.0.get(&shard).map(|claim| claim.owner)
    }

    /// The newest claim to a shard.
    pub fn claim(&self, shard: ShardId) -> Option<&Claim> {
        self.0.get(&shard)
    }

    /// Every known claim, by shard.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(owner: u64, term: u64, membership: u64) -> Claim {
        Claim {
            shard: ShardId(3),
            owner: NodeId(owner),
            term: Term(term),
            membership,
            voters: vec![NodeId(owner)],
            learners: vec![],
        }
    }

    #[test]
    fn the_higher_term_wins_in_whatever_order_claims_arrive() {
        let mut owners = Owners::default();
        assert!(owners.hear(claim(1, 5, 1)));
        assert!(!owners.hear(claim(2, 4, 9)));
        assert_eq!(owners.of(ShardId(3)), Some(NodeId(1)));
        assert!(owners.hear(claim(2, 6, 1)));
        assert_eq!(owners.of(ShardId(3)), Some(NodeId(2)));
    }

    #[test]
    fn within_a_term_the_newer_membership_wins_and_a_repeat_changes_nothing() {
        let mut owners = Owners::default();
        assert!(owners.hear(claim(1, 5, 1)));
        assert!(owners.hear(claim(1, 5, 2)));
        assert!(!owners.hear(claim(1, 5, 2)));
    }
}

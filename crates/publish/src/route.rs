//! Whom to hand a publish to: a function of what is known.

use pushonce_core::{NodeId, Owners, ShardId, Term};

/// A refusal for want of ownership, remembered until something newer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Who refused.
    pub by: NodeId,
    /// Whom it named instead.
    pub hint: Option<NodeId>,
    /// Whether `by` had itself been asked on a hint.
    pub on_hint: bool,
    /// The claim that was known when it was asked.
    pub claim: Option<(Term, NodeId)>,
}

/// What to do with a publish now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Hand it to this node.
    Ask(Asked),
    /// Nobody is worth asking: wait for a claim.
    Wait,
}

/// A node, and why it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub node: NodeId,
    pub on_hint: bool,
    pub claim: Option<(Term, NodeId)>,
}

/// The claimed owner, unless that claim has already led to a refusal; then the node that the
/// refusal named. A hint carries no term, so it is followed once: two nodes that each take the
/// other for the owner must not play ball with a message.
pub(crate) fn next(shard: ShardId, owners: &Owners, refused: Option<&Refused>) -> Next {
    let claim = owners.claim(shard).map(|claim| (claim.term, claim.owner));
    let news = refused.is_none_or(|refused| refused.claim != claim);
    let node = match refused {
        Some(refused) if !news => {
            refused.hint.filter(|&hint| !refused.on_hint && hint != refused.by)
        }
        _ => claim.map(|(_, owner)| owner),
    };
    node.map_or(Next::Wait, |node| Next::Ask(Asked { node, on_hint: !news, claim }))
}

impl Asked {
    /// What is remembered when the asked node refuses.
    pub(crate) fn refused(self, hint: Option<NodeId>) -> Refused {
        Refused { by: self.node, hint, on_hint: self.on_hint, claim: self.claim }
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::Claim;

    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn claimed(owner: u64, term: u64) -> Owners {
        let mut owners = Owners::default();
        owners.hear(Claim {
            shard: SHARD,
            owner: NodeId(owner),
            term: Term(term),
            membership: 1,
            voters: vec![],
            learners: vec![],
        });
        owners
    }

    fn asked(owners: &Owners, refused: Option<&Refused>) -> Option<NodeId> {
        match next(SHARD, owners, refused) {
            Next::Ask(asked) => Some(asked.node),
            Next::Wait => None,
        }
    }

    fn refused(owners: &Owners, before: Option<&Refused>, hint: Option<u64>) -> Refused {
        match next(SHARD, owners, before) {
            Next::Ask(asked) => asked.refused(hint.map(NodeId)),
            Next::Wait => panic!("nobody was asked"),
        }
    }

    #[test]
    fn the_claimed_owner_is_asked_and_without_a_claim_nobody() {
        assert_eq!(asked(&claimed(2, 1), None), Some(NodeId(2)));
        assert_eq!(asked(&Owners::default(), None), None);
    }

    #[test]
    fn a_hint_is_followed_once() {
        let owners = claimed(2, 1);
        let first = refused(&owners, None, Some(3));
        assert_eq!(asked(&owners, Some(&first)), Some(NodeId(3)));
        let second = refused(&owners, Some(&first), Some(2));
        assert_eq!(asked(&owners, Some(&second)), None);
    }

    #[test]
    fn a_refusal_without_a_name_waits_for_news() {
        let owners = claimed(2, 1);
        let first = refused(&owners, None, None);
        assert_eq!(asked(&owners, Some(&first)), None);
        assert_eq!(asked(&claimed(2, 2), Some(&first)), Some(NodeId(2)));
        assert_eq!(asked(&claimed(1, 2), Some(&first)), Some(NodeId(1)));
    }

    #[test]
    fn a_newer_claim_outweighs_a_hint() {
        let first = refused(&claimed(2, 1), None, Some(3));
        assert_eq!(asked(&claimed(4, 2), Some(&first)), Some(NodeId(4)));
    }
}

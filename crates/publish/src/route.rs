//! Selection of the node to send a publish to, as a pure function.

use pushonce_core::{NodeId, ShardId, ShardOwners, Term};

/// A rejection for lack of ownership, kept until newer information arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerRejection {
    /// The node that rejected.
    pub node: NodeId,
    /// The owner that it named.
    pub hint: Option<NodeId>,
    /// Whether `node` had itself been named by a hint.
    pub via_hint: bool,
    /// The known claim when the message was sent.
    pub claim: Option<(Term, NodeId)>,
}

/// What to do with a publish at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteDecision {
    /// Send it to this node.
    SendTo(RouteTarget),
    /// No node to send it to: wait for a claim.
    WaitForClaim,
}

/// A node, and why it was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteTarget {
    pub node: NodeId,
    pub via_hint: bool,
    pub claim: Option<(Term, NodeId)>,
}

/// Selects the claimed owner, unless that claim already led to a rejection; then the node that the
/// rejection named. A hint carries no term, so it is followed once: two nodes that each consider the other
/// the owner must not pass a message back and forth.
pub(crate) fn decide(
    shard: ShardId,
    owners: &ShardOwners,
    rejection: Option<&OwnerRejection>,
) -> RouteDecision {
    let claim = owners.claim(shard).map(|claim| (claim.term, claim.owner));
    let is_new_claim = rejection.is_none_or(|rejection| rejection.claim != claim);
    let target = match rejection {
        Some(rejection) if !is_new_claim => {
            rejection.hint.filter(|&hint| !rejection.via_hint && hint != rejection.node)
        }
        _ => claim.map(|(_, owner)| owner),
    };
    target.map_or(RouteDecision::WaitForClaim, |node| {
        RouteDecision::SendTo(RouteTarget { node, via_hint: !is_new_claim, claim })
    })
}

impl RouteTarget {
    /// The rejection to keep when the selected node rejects.
    pub(crate) fn to_rejection(self, hint: Option<NodeId>) -> OwnerRejection {
        OwnerRejection { node: self.node, hint, via_hint: self.via_hint, claim: self.claim }
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::{claim, owners};

    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn owners_with_claim(owner: u64, term: u64) -> ShardOwners {
        owners([claim(SHARD.0, owner, term)])
    }

    fn target_node(owners: &ShardOwners, rejection: Option<&OwnerRejection>) -> Option<NodeId> {
        match decide(SHARD, owners, rejection) {
            RouteDecision::SendTo(target) => Some(target.node),
            RouteDecision::WaitForClaim => None,
        }
    }

    fn rejection_of(
        owners: &ShardOwners,
        previous: Option<&OwnerRejection>,
        hint: Option<u64>,
    ) -> OwnerRejection {
        match decide(SHARD, owners, previous) {
            RouteDecision::SendTo(target) => target.to_rejection(hint.map(NodeId)),
            RouteDecision::WaitForClaim => panic!("no node was selected"),
        }
    }

    #[test]
    fn publish_is_routed_to_the_claimed_owner_and_waits_without_a_claim() {
        assert_eq!(target_node(&owners_with_claim(2, 1), None), Some(NodeId(2)));
        assert_eq!(target_node(&ShardOwners::default(), None), None);
    }

    #[test]
    fn owner_hint_is_followed_only_once() {
        let owners = owners_with_claim(2, 1);
        let first = rejection_of(&owners, None, Some(3));
        assert_eq!(target_node(&owners, Some(&first)), Some(NodeId(3)));
        let second = rejection_of(&owners, Some(&first), Some(2));
        assert_eq!(target_node(&owners, Some(&second)), None);
    }

    #[test]
    fn rejection_without_a_hint_waits_for_a_new_claim() {
        let owners = owners_with_claim(2, 1);
        let first = rejection_of(&owners, None, None);
        assert_eq!(target_node(&owners, Some(&first)), None);
        assert_eq!(target_node(&owners_with_claim(2, 2), Some(&first)), Some(NodeId(2)));
        assert_eq!(target_node(&owners_with_claim(1, 2), Some(&first)), Some(NodeId(1)));
    }

    #[test]
    fn newer_claim_takes_precedence_over_a_hint() {
        let first = rejection_of(&owners_with_claim(2, 1), None, Some(3));
        assert_eq!(target_node(&owners_with_claim(4, 2), Some(&first)), Some(NodeId(4)));
    }
}

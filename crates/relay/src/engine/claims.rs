//! Which ownership claims this node believes.
//!
//! A claim is announced by the owner itself, or vouched for by another voter of the shard's group, which knows
//! the leader from its replica. Nobody else is believed. A new owner is believed at once, before any voter has
//! vouched for it, because a failover must be fast. So a defective member could claim a shard that it does not
//! lead: then the leader, which still has its lease, refutes the claim, and every node returns to the claim
//! before. A claim that a voter has vouched for is not refuted.
//!
//! Owners repeat their claims. One that is no longer repeated keeps its place, and any other replaces it, also
//! one with a lower term.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pushonce_core::{FailPoint, NodeId, OwnershipClaim, ShardId, Term};

/// Interval at which an owner repeats its claims: 1,024 shards cost each link 100 small frames a second.
pub(super) const CLAIM_INTERVAL: Duration = Duration::from_secs(10);

/// Age from which a claim that was not repeated can be replaced by any other: three repetitions and a pause.
const CLAIM_AGE_MAX: Duration = Duration::from_secs(35);

/// How long a node whose claim was refuted is not believed, unless a voter vouches for it.
const REFUTED_FOR: Duration = Duration::from_secs(60);

/// Maximum term and index, far above any that a cluster can reach. Comparing and counting never overflows.
const NUMBER_MAX: u64 = 1 << 62;

/// Maximum increase of the term from one claim to the next. A recovery of a group raises it by 2^32.
const TERM_JUMP_MAX: u64 = 1 << 36;

/// Maximum nodes named in a claim: twice the members of a cluster.
const NODES_MAX: usize = 2_000;

/// The claims that this node believes, and the leaders that its own replicas know.
#[derive(Debug, Default)]
pub(crate) struct ClaimTable {
    believed: BTreeMap<ShardId, BelievedClaim>,
    /// Of each shard of which this node is a voter: the leader and its term.
    observed: BTreeMap<ShardId, (NodeId, Term)>,
    /// Nodes whose claim was refuted, and until when.
    refuted: BTreeMap<(ShardId, NodeId), Instant>,
}

#[derive(Clone, Debug)]
struct BelievedClaim {
    claim: OwnershipClaim,
    /// A voter other than the owner has announced it as well, or this node's own replica shows it.
    vouched: bool,
    /// When the claim was last repeated.
    heard_at: Instant,
    /// The claim of the previous owner.
    previous: Option<OwnershipClaim>,
}

/// What the engine knows about the sender of a claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimSender {
    pub(super) node: NodeId,
    /// The placement or the newest claim names the sender as a voter of the shard.
    pub(super) is_voter: bool,
    /// The owner may own shards according to the view.
    pub(super) owner_may_own: bool,
    /// This node leads the shard with a lease.
    pub(super) leads_here: bool,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimOutcome {
    /// It is believed, and was not known.
    New,
    /// It changed nothing.
    Known,
    /// The sender may not announce it, or it is malformed.
    Rejected,
    /// It contradicts the lease of this node: refute it.
    Refute,
}

impl ClaimTable {
    /// Handles a claim from a link, or from this node itself.
    pub(super) fn on_claim(
        &mut self,
        claim: &OwnershipClaim,
        sender: ClaimSender,
        now: Instant,
    ) -> ClaimOutcome {
        let is_owner = sender.node == claim.owner;
        let shard = claim.shard;
        if FailPoint::ClaimUnchecked.is_active() {
            return self.believe_if_newer(claim, false, now);
        }
        let may_announce = is_owner || sender.is_voter;
        // A replica that was removed vouches until its node learns of the removal.
        if !may_announce && self.believed.get(&shard).is_some_and(|known| known.claim == *claim) {
            return ClaimOutcome::Known;
        }
        if !is_well_formed(claim)
            || !may_announce
            || !sender.owner_may_own
            || self.is_implausible(claim)
        {
            return ClaimOutcome::Rejected;
        }
        self.refuted.retain(|_, until| *until > now);
        if is_owner && self.refuted.contains_key(&(shard, claim.owner)) {
            return ClaimOutcome::Rejected;
        }
        if sender.leads_here && self.is_newer_owner(claim) {
            return ClaimOutcome::Refute;
        }
        self.refuted.remove(&(shard, claim.owner));
        let vouched = !is_owner || self.is_observed(claim);
        self.believe_if_newer(claim, vouched, now)
    }

    /// Handles the refutation of a claim by a voter. Returns the claim to believe instead, or `None` in place of
    /// it when there is no other; the outer `None` means that nothing changed.
    pub(super) fn on_refutation(
        &mut self,
        shard: ShardId,
        owner: NodeId,
        term: Term,
        sender: ClaimSender,
        now: Instant,
    ) -> Option<Option<OwnershipClaim>> {
        let known = self.believed.get(&shard)?;
        let is_believed = known.claim.owner == owner && known.claim.term == term;
        if !is_believed || known.vouched || !sender.is_voter || sender.node == owner {
            return None;
        }
        self.refuted.insert((shard, owner), now + REFUTED_FOR);
        let previous = self.believed.remove(&shard)?.previous;
        if let Some(claim) = previous.clone() {
            let restored = BelievedClaim { claim, vouched: false, heard_at: now, previous: None };
            self.believed.insert(shard, restored);
        }
        Some(previous)
    }

    /// Records the leader that the replica of this node knows. Returns the claim that this node vouches for from
    /// now on.
    pub(super) fn on_leader_observed(
        &mut self,
        shard: ShardId,
        leader: Option<(NodeId, Term)>,
    ) -> Option<OwnershipClaim> {
        match leader {
            Some(leader) => self.observed.insert(shard, leader),
            None => self.observed.remove(&shard),
        };
        let observed = self.observed.get(&shard)?;
        let known = self.believed.get_mut(&shard)?;
        let is_same = (known.claim.owner, known.claim.term) == *observed;
        if is_same {
            known.vouched = true;
        }
        is_same.then(|| known.claim.clone())
    }

    /// The believed claim of another owner that is newer than `claim`.
    pub(super) fn newer_claim_of_another(&self, claim: &OwnershipClaim) -> Option<&OwnershipClaim> {
        let known = &self.believed.get(&claim.shard)?.claim;
        (known.owner != claim.owner && rank(known) > rank(claim)).then_some(known)
    }

    /// Believes a claim in place of whatever was believed: this node leads the shard.
    pub(super) fn replace(&mut self, claim: OwnershipClaim, now: Instant) {
        let shard = claim.shard;
        let believed = BelievedClaim { claim, vouched: true, heard_at: now, previous: None };
        self.believed.insert(shard, believed);
    }

    /// Whether this node's own replica shows the owner and its term.
    pub(super) fn is_observed(&self, claim: &OwnershipClaim) -> bool {
        self.observed.get(&claim.shard) == Some(&(claim.owner, claim.term))
    }

    /// The claims of `me`, and those that this node vouches for.
    pub(super) fn announced_by(&self, me: NodeId) -> impl Iterator<Item = &OwnershipClaim> {
        let claims = self.believed.values().map(|known| &known.claim);
        claims.filter(move |claim| claim.owner == me || self.is_observed(claim))
    }

    /// Whether the believed claim names `node` as a voter of the shard.
    pub(super) fn names_voter(&self, shard: ShardId, node: NodeId) -> bool {
        let names = |claim: &OwnershipClaim| claim.owner == node || claim.voters.contains(&node);
        self.believed.get(&shard).is_some_and(|known| {
            let previous = known.previous.as_ref().filter(|_| !known.vouched);
            // An owner that nobody has vouched for does not choose who vouches.
            match previous {
                Some(previous) => names(previous),
                None => names(&known.claim),
            }
        })
    }

    fn is_newer_owner(&self, claim: &OwnershipClaim) -> bool {
        self.believed.get(&claim.shard).is_some_and(|known| {
            claim.owner != known.claim.owner && rank(claim) > rank(&known.claim)
        })
    }

    fn is_implausible(&self, claim: &OwnershipClaim) -> bool {
        self.believed
            .get(&claim.shard)
            .is_some_and(|known| claim.term.0.saturating_sub(known.claim.term.0) > TERM_JUMP_MAX)
    }

    fn believe_if_newer(
        &mut self,
        claim: &OwnershipClaim,
        vouched: bool,
        now: Instant,
    ) -> ClaimOutcome {
        let mut previous = None;
        if let Some(known) = self.believed.get_mut(&claim.shard) {
            let is_same_leader = known.claim.owner == claim.owner && known.claim.term == claim.term;
            let has_expired = now.saturating_duration_since(known.heard_at) > CLAIM_AGE_MAX;
            if is_same_leader {
                known.heard_at = now;
                known.vouched |= vouched;
            }
            let is_newer = rank(claim) > rank(&known.claim) || has_expired && !is_same_leader;
            if !is_newer {
                return ClaimOutcome::Known;
            }
            if is_same_leader {
                known.claim = claim.clone();
                return ClaimOutcome::New;
            }
            // Two refutable claims in a row leave the last one that was not.
            previous = match known.previous.take().filter(|_| !known.vouched) {
                Some(previous) => Some(previous),
                None => Some(known.claim.clone()),
            };
        }
        let believed = BelievedClaim { claim: claim.clone(), vouched, heard_at: now, previous };
        self.believed.insert(claim.shard, believed);
        ClaimOutcome::New
    }
}

fn rank(claim: &OwnershipClaim) -> (Term, u64) {
    (claim.term, claim.membership_index)
}

fn is_well_formed(claim: &OwnershipClaim) -> bool {
    claim.term.0 <= NUMBER_MAX
        && claim.membership_index <= NUMBER_MAX
        && claim.voters.len() + claim.learners.len() <= NODES_MAX
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util;

    use super::*;

    const SHARD: ShardId = ShardId(3);
    const OWNER: u64 = 1;
    const FORGER: u64 = 2;
    const VOTER: u64 = 3;

    struct Node {
        table: ClaimTable,
        now: Instant,
        leads_here: bool,
    }

    impl Node {
        fn new() -> Node {
            let mut node =
                Node { table: ClaimTable::default(), now: Instant::now(), leads_here: false };
            assert_eq!(node.claim(OWNER, OWNER, 7), ClaimOutcome::New);
            node
        }

        fn sender(&self, node: u64) -> ClaimSender {
            let node = NodeId(node);
            let is_voter = node.0 <= VOTER;
            ClaimSender { node, is_voter, owner_may_own: true, leads_here: self.leads_here }
        }

        fn claim(&mut self, from: u64, owner: u64, term: u64) -> ClaimOutcome {
            let sender = self.sender(from);
            self.table.on_claim(&test_util::claim(SHARD.0, owner, term), sender, self.now)
        }

        fn refute(&mut self, from: u64, owner: u64, term: u64) -> Option<Option<NodeId>> {
            let (owner, term, sender) = (NodeId(owner), Term(term), self.sender(from));
            let reverted = self.table.on_refutation(SHARD, owner, term, sender, self.now);
            reverted.map(|claim| claim.map(|claim| claim.owner))
        }

        fn owner(&self) -> u64 {
            self.table.believed[&SHARD].claim.owner.0
        }
    }

    #[test]
    fn claim_is_believed_from_its_owner_or_from_a_voter() {
        let mut node = Node::new();
        assert_eq!(node.claim(9, FORGER, 8), ClaimOutcome::Rejected, "a node outside the group");
        assert_eq!(node.claim(9, OWNER, 7), ClaimOutcome::Known, "what is believed already");
        assert_eq!(node.claim(VOTER, FORGER, 8), ClaimOutcome::New);
        assert_eq!(node.claim(9, 9, 9), ClaimOutcome::New, "its own claim");
        assert_eq!(node.claim(OWNER, OWNER, 8), ClaimOutcome::Known, "an older one");
    }

    #[test]
    fn absurd_claim_is_rejected() {
        let mut node = Node::new();
        for term in [7 + TERM_JUMP_MAX + 1, NUMBER_MAX + 1, u64::MAX] {
            assert_eq!(node.claim(FORGER, FORGER, term), ClaimOutcome::Rejected, "{term}");
        }
        let sender = node.sender(FORGER);
        let valid = test_util::claim(SHARD.0, FORGER, 8);
        let crowded = OwnershipClaim { learners: vec![NodeId(4); NODES_MAX], ..valid.clone() };
        let far = OwnershipClaim { membership_index: u64::MAX, ..valid.clone() };
        for claim in [crowded, far] {
            assert_eq!(node.table.on_claim(&claim, sender, node.now), ClaimOutcome::Rejected);
        }
        let edge = ClaimSender { owner_may_own: false, ..sender };
        assert_eq!(node.table.on_claim(&valid, edge, node.now), ClaimOutcome::Rejected);
        assert_eq!(node.owner(), OWNER);
    }

    #[test]
    fn leader_with_a_lease_refutes_and_the_others_return_to_its_claim() {
        let mut leader = Node::new();
        leader.leads_here = true;
        assert_eq!(leader.claim(FORGER, FORGER, 8), ClaimOutcome::Refute);
        assert_eq!(leader.owner(), OWNER);

        let mut node = Node::new();
        assert_eq!(node.claim(FORGER, FORGER, 8), ClaimOutcome::New);
        assert_eq!(node.claim(FORGER, FORGER, 9), ClaimOutcome::New, "twice in a row");
        assert_eq!(node.refute(FORGER, FORGER, 9), None, "the owner itself");
        assert_eq!(node.refute(9, FORGER, 9), None, "a node outside the group");
        assert_eq!(node.refute(OWNER, FORGER, 8), None, "an earlier claim");
        assert_eq!(node.refute(OWNER, FORGER, 9), Some(Some(NodeId(OWNER))));
        assert_eq!((node.owner(), node.claim(FORGER, FORGER, 10)), (OWNER, ClaimOutcome::Rejected));
        assert_eq!(node.claim(VOTER, FORGER, 10), ClaimOutcome::New, "a voter has vouched for it");
        assert_eq!(node.refute(OWNER, FORGER, 10), None, "a claim that a voter vouched for");
    }

    #[test]
    fn refuted_node_is_believed_again_after_a_time() {
        let mut node = Node::new();
        node.claim(FORGER, FORGER, 8);
        node.refute(OWNER, FORGER, 8);
        node.now += REFUTED_FOR;
        assert_eq!(node.claim(FORGER, FORGER, 9), ClaimOutcome::New);
    }

    #[test]
    fn own_replica_vouches_for_a_claim() {
        let mut node = Node::new();
        let leader = Some((NodeId(FORGER), Term(8)));
        assert_eq!(node.table.on_leader_observed(SHARD, leader), None, "there is no such claim");
        assert_eq!(node.claim(FORGER, FORGER, 8), ClaimOutcome::New);
        assert_eq!(node.refute(OWNER, FORGER, 8), None, "the own replica follows it");
        assert_eq!(node.table.announced_by(NodeId(9)).count(), 1);
        let vouched = node.table.on_leader_observed(SHARD, leader);
        assert_eq!(vouched.map(|claim| claim.owner), Some(NodeId(FORGER)));
        assert_eq!(node.table.on_leader_observed(SHARD, None), None);
        assert_eq!(node.table.announced_by(NodeId(9)).count(), 0);
        assert_eq!(node.table.announced_by(NodeId(FORGER)).count(), 1);
    }

    #[test]
    fn claim_that_is_not_repeated_is_replaced_by_any_other() {
        let mut node = Node::new();
        node.claim(FORGER, FORGER, 500);
        node.now += CLAIM_AGE_MAX;
        assert_eq!(node.claim(OWNER, OWNER, 8), ClaimOutcome::Known);
        node.claim(FORGER, FORGER, 500);
        node.now += CLAIM_AGE_MAX;
        assert_eq!(node.claim(OWNER, OWNER, 8), ClaimOutcome::Known, "it was repeated");
        node.now += Duration::from_millis(1);
        assert_eq!(node.claim(OWNER, OWNER, 8), ClaimOutcome::New);
        assert_eq!(node.owner(), OWNER);
    }

    #[test]
    fn unconfirmed_owner_does_not_choose_who_vouches() {
        let mut node = Node::new();
        let forged = test_util::claim(SHARD.0, FORGER, 8);
        let forged = OwnershipClaim { voters: vec![NodeId(FORGER), NodeId(9)], ..forged };
        let sender = node.sender(FORGER);
        assert_eq!(node.table.on_claim(&forged, sender, node.now), ClaimOutcome::New);
        assert!(!node.table.names_voter(SHARD, NodeId(9)));
        assert!(node.table.names_voter(SHARD, NodeId(OWNER)));
        node.claim(VOTER, FORGER, 8);
        assert!(node.table.names_voter(SHARD, NodeId(9)));
    }
}

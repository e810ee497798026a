//! Announces and receives ownership claims. What is believed is decided by [`ClaimTable`](super::claims).
//!
//! An owner sends its claim on every link. A node without a link to the owner hears it from the voters of the
//! shard, which announce the owner that their own replica follows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pushonce_core::{CoverageMark, NodeId, OwnershipClaim, ShardId, Term};
use pushonce_proto::peer::PeerFrame;

use super::Engine;
use super::claims::{CLAIM_INTERVAL, ClaimOutcome, ClaimSender};
use super::effect::EngineEffect;

/// How long this node must keep its lease after another node has claimed its shard, before it refutes the claim.
/// A regular successor claims the shard some milliseconds before this node has noticed the end of its own lease.
const REFUTE_AFTER: Duration = Duration::from_secs(1);

/// Minimum time between two announcements of one claim that are made because of what a peer sent.
const REPLY_INTERVAL: Duration = Duration::from_secs(1);

/// The claims of other nodes to shards that this node leads, and the times of announcements.
#[derive(Debug)]
pub(crate) struct ClaimDisputes {
    /// The claims of this node, while it leads.
    local: BTreeMap<ShardId, OwnershipClaim>,
    open: BTreeMap<ShardId, Dispute>,
    repeat_due: Instant,
    /// When a claim was last announced because of a refutation.
    replied_at: BTreeMap<ShardId, Instant>,
}

#[derive(Debug)]
struct Dispute {
    claim: OwnershipClaim,
    from: NodeId,
    since: Instant,
}

impl ClaimDisputes {
    pub(super) fn new(now: Instant) -> ClaimDisputes {
        let (local, open, replied_at) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        ClaimDisputes { local, open, repeat_due: now, replied_at }
    }

    /// Whether an announcement because of a peer is due.
    fn may_reply(&mut self, shard: ShardId, now: Instant) -> bool {
        let is_due = self.replied_at.get(&shard).is_none_or(|at| *at + REPLY_INTERVAL <= now);
        if is_due {
            self.replied_at.insert(shard, now);
        }
        is_due
    }
}

impl Engine {
    /// Handles this node's claim of a shard. If the claim was known already, the leadership was in doubt and
    /// messages may have been committed that were not handed over.
    pub(super) fn on_local_claim(&mut self, claim: OwnershipClaim, now: Instant) {
        let (shard, me) = (claim.shard, self.config.me);
        self.disputes.local.insert(shard, claim.clone());
        if let Some(other) = self.claims.newer_claim_of_another(&claim).cloned() {
            // Another node claimed the shard before. Either that is false, or this claim is late.
            let from = other.owner;
            self.disputes.open.insert(shard, Dispute { claim: other, from, since: now });
        }
        self.on_claim(claim, me, now);
        self.freshness.set_leased(shard, true);
        self.refollow_local(Some(shard), now);
    }

    /// This node no longer leads the shard: a claim that was disputed may be true.
    pub(super) fn on_claim_revoked(&mut self, shard: ShardId, now: Instant) {
        self.freshness.set_leased(shard, false);
        self.disputes.local.remove(&shard);
        if let Some(Dispute { claim, from, .. }) = self.disputes.open.remove(&shard) {
            self.on_claim(claim, from, now);
        }
    }

    /// Handles a claim that `from` announces: its own, or that of the owner that its replica follows.
    pub(super) fn on_claim(&mut self, claim: OwnershipClaim, from: NodeId, now: Instant) {
        let (me, shard) = (self.config.me, claim.shard);
        if shard.0 >= self.routes.view().shards.get() {
            return;
        }
        let sender = self.claim_sender(from, shard, claim.owner);
        match self.claims.on_claim(&claim, sender, now) {
            ClaimOutcome::New => {}
            ClaimOutcome::Known => return,
            ClaimOutcome::Rejected => {
                CoverageMark::ClaimRejected.reach();
                return self.effects.push(EngineEffect::Rejected(from, "claim"));
            }
            ClaimOutcome::Refute => {
                CoverageMark::ClaimRefuted.reach();
                let dispute = || Dispute { claim, from, since: now };
                self.disputes.open.entry(shard).or_insert_with(dispute);
                return;
            }
        }
        let is_announced = claim.owner == me || self.claims.is_observed(&claim);
        if is_announced {
            self.announce(&claim, from);
        }
        self.set_believed(shard, Some(claim), now);
    }

    /// Handles the refutation of a claim by a node that leads the shard.
    pub(super) fn on_claim_refuted(
        &mut self,
        from: NodeId,
        shard: ShardId,
        owner: NodeId,
        term: Term,
        now: Instant,
    ) {
        let sender = self.claim_sender(from, shard, owner);
        if let Some(reverted) = self.claims.on_refutation(shard, owner, term, sender, now) {
            return self.set_believed(shard, reverted, now);
        }
        // A false refutation, if the own replica follows the owner: vouch for it again.
        let known = self.routes.owners().claim(shard);
        let known = known.filter(|known| (known.owner, known.term) == (owner, term)).cloned();
        if let Some(claim) = known.filter(|claim| self.claims.is_observed(claim))
            && self.disputes.may_reply(shard, now)
        {
            self.announce(&claim, from);
        }
    }

    /// Handles the leader that the replica of this node follows.
    pub(super) fn on_leader_observed(
        &mut self,
        shard: ShardId,
        leader: Option<(NodeId, Term)>,
        _now: Instant,
    ) {
        if let Some(claim) = self.claims.on_leader_observed(shard, leader)
            && claim.owner != self.config.me
        {
            self.announce(&claim, self.config.me);
        }
    }

    /// Refutes claims of other nodes to shards that this node still leads, and claims the shards again.
    pub(super) fn resolve_disputes(&mut self, now: Instant) {
        let is_due = |dispute: &Dispute| dispute.since + REFUTE_AFTER <= now;
        let due = self.disputes.open.iter().filter(|(_, dispute)| is_due(dispute));
        let due: Vec<_> = due.map(|(&shard, it)| (shard, it.claim.owner, it.claim.term)).collect();
        self.disputes.open.retain(|_, dispute| !is_due(dispute));
        for (shard, owner, term) in due {
            let frame = PeerFrame::ClaimRefuted { shard, owner, term };
            let nodes = self.links.nodes().filter(|&node| node != owner);
            self.effects.extend(nodes.map(|node| EngineEffect::Send(node, frame.clone())));
            self.effects.push(EngineEffect::Rejected(owner, "false_claim"));
            let Some(own) = self.disputes.local.get(&shard).cloned() else { continue };
            self.announce(&own, self.config.me);
            if self.routes.owners().owner_of(shard) != Some(self.config.me) {
                self.claims.replace(own.clone(), now);
                self.set_believed(shard, Some(own), now);
            }
        }
    }

    /// Repeats the claims of the shards that this node leads, so that they do not expire.
    pub(super) fn repeat_claims(&mut self, now: Instant) {
        if now < self.disputes.repeat_due {
            return;
        }
        self.disputes.repeat_due = now + CLAIM_INTERVAL;
        let claims: Vec<OwnershipClaim> = self.disputes.local.values().cloned().collect();
        for claim in claims {
            self.announce(&claim, self.config.me);
        }
    }

    fn claim_sender(&self, node: NodeId, shard: ShardId, owner: NodeId) -> ClaimSender {
        let view = self.routes.view();
        // An owner that the view does not know yet may have joined since, and a voter that gave up the core role
        // leads until its shards have moved.
        let owner_may_own = match view.member(owner) {
            Some(member) => member.roles.core || self.claims.names_voter(shard, owner),
            None => owner >= view.next_id,
        };
        let is_voter = view.placement.replicas_of(shard).contains(&node)
            || self.claims.names_voter(shard, node);
        let leads_here = node != self.config.me && self.freshness.is_leased(shard);
        ClaimSender { node, is_voter, owner_may_own, leads_here }
    }

    /// Sends a claim on every link but those to its owner and to `except`.
    fn announce(&mut self, claim: &OwnershipClaim, except: NodeId) {
        let others = self.links.nodes().filter(|&node| node != except && node != claim.owner);
        let sends = others.map(|node| EngineEffect::Send(node, PeerFrame::Claim(claim.clone())));
        self.effects.extend(sends);
    }

    fn set_believed(&mut self, shard: ShardId, claim: Option<OwnershipClaim>, now: Instant) {
        let previous_owner = self.routes.owners().owner_of(shard);
        let owner = claim.as_ref().map(|claim| claim.owner);
        self.routes.set_claim(shard, claim);
        if owner == Some(self.config.me) && previous_owner != owner {
            self.audience.start_settling(shard, now + self.config.count_settle_delay);
        }
        self.effects.push(EngineEffect::OwnersChanged(self.routes.owners().clone()));
        if let Some(owner) = owner {
            self.publishes_on_owner_changed(shard, owner, now);
        }
        self.reroute(Some(shard), now);
    }
}

#[cfg(test)]
#[path = "ownership_test.rs"]
mod tests;

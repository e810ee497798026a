//! Where each shard's topics come from, and whom this node may give them to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{
    ClusterView, NodeId, OwnershipClaim, RegionHeads, ShardId, ShardOwners, UpstreamRoute,
    select_upstream,
};

/// [`upstream`], asked again with each change of what it depends on.
#[derive(Debug)]
pub(crate) struct RoutingTable {
    me: NodeId,
    view: Arc<ClusterView>,
    owners: ShardOwners,
    /// By shard.
    upstreams: Vec<UpstreamRoute>,
    /// Of my region, as the view has them.
    heads: RegionHeads,
    /// By shard: the place of each node of my region in that order.
    ranks: Vec<HashMap<NodeId, u32>>,
    /// Nodes that have a link to me but said that they are not upstream, until when they are not
    /// asked again. Such a head has lost its own way to the owner; the next in the order may not.
    avoided: BTreeMap<(ShardId, NodeId), Instant>,
}

impl RoutingTable {
    pub(crate) fn new(me: NodeId, view: Arc<ClusterView>) -> RoutingTable {
        let mut routes = RoutingTable {
            me,
            view: view.clone(),
            owners: ShardOwners::default(),
            upstreams: Vec::new(),
            heads: RegionHeads::default(),
            ranks: Vec::new(),
            avoided: BTreeMap::new(),
        };
        routes.apply_view(view);
        routes
    }

    /// Takes a newer view. [`RoutingTable::recompute`] is due.
    pub(crate) fn apply_view(&mut self, view: Arc<ClusterView>) {
        self.heads = view.region_heads(view.region_of(self.me));
        let shard_ranks = |shard| self.heads.candidates(shard).iter().copied().zip(0..).collect();
        self.ranks = view.shards.ids().map(shard_ranks).collect();
        self.upstreams.resize(usize::from(view.shards.get()), UpstreamRoute::Unknown);
        self.view = view;
    }

    /// Takes a claim unless a newer one is known. Says whether anything changed; then
    /// [`RoutingTable::recompute`] is due.
    pub(crate) fn apply_claim(&mut self, claim: OwnershipClaim) -> bool {
        let is_valid_shard = claim.shard.0 < self.view.shards.get();
        let shard = claim.shard;
        let changed = is_valid_shard && self.owners.apply_claim(claim);
        if changed {
            self.avoided.retain(|&(avoided, _), _| avoided != shard);
        }
        changed
    }

    /// Does not ask `node` for `shard_of` until then. No use when it owns the shard: then there is
    /// nobody else to ask. Says whether [`RoutingTable::recompute`] is due.
    pub(crate) fn avoid(&mut self, shard: ShardId, node: NodeId, until: Instant) -> bool {
        let is_not_owner = self.owners.owner_of(shard) != Some(node);
        if is_not_owner {
            self.avoided.insert((shard, node), until);
        }
        is_not_owner
    }

    /// Asks those again whose time is over. Says whether [`RoutingTable::recompute`] is due.
    pub(crate) fn expire_avoided(&mut self, now: Instant) -> bool {
        let before = self.avoided.len();
        self.avoided.retain(|_, until| *until > now);
        self.avoided.len() != before
    }

    /// Decides one shard anew, or all of them.
    pub(crate) fn recompute(&mut self, only: Option<ShardId>, is_linked: impl Fn(NodeId) -> bool) {
        let RoutingTable { me, view, owners, heads, upstreams, avoided, .. } = self;
        let is_due = |&(shard, _): &(ShardId, _)| only.is_none_or(|only| only == shard);
        for (shard, slot) in view.shards.ids().zip(upstreams).filter(is_due) {
            let is_usable = |node| is_linked(node) && !avoided.contains_key(&(shard, node));
            *slot = select_upstream(shard, *me, view, owners, heads, is_usable);
        }
    }

    /// Where this node gets the topics of `shard_of` from.
    pub(crate) fn upstream_for(&self, shard: ShardId) -> UpstreamRoute {
        self.upstreams.get(usize::from(shard.0)).copied().unwrap_or(UpstreamRoute::Unknown)
    }

    /// Whether `asker` may get the topics of `shard_of` from this node: it owns them, or may head their
    /// common region for a node later in the order. The same order as in [`upstream`], so no two
    /// nodes ever wait for each other. While no owner is known, the asker may wait here.
    pub(crate) fn may_serve(&self, peer: NodeId, shard: ShardId) -> bool {
        match self.owners.owner_of(shard) {
            Some(owner) if owner == self.me => true,
            Some(owner) if owner == peer || self.region(owner) == self.region(self.me) => false,
            _ => self.region(peer) == self.region(self.me) && self.ranks_before(peer, shard),
        }
    }

    fn ranks_before(&self, peer: NodeId, shard: ShardId) -> bool {
        let Some(ranks) = self.ranks.get(usize::from(shard.0)) else { return false };
        let rank = |node| ranks.get(&node);
        rank(self.me)
            .is_some_and(|own_rank| rank(peer).is_none_or(|peer_rank| own_rank < peer_rank))
    }

    fn region(&self, node: NodeId) -> &str {
        self.view.region_of(node)
    }

    pub(crate) fn owners(&self) -> &ShardOwners {
        &self.owners
    }

    pub(crate) fn view(&self) -> &ClusterView {
        &self.view
    }
}

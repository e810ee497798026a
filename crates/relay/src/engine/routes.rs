//! The upstream of each shard, and the peers that this node may serve.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{
    ClusterView, NodeId, OwnershipClaim, RegionHeads, ShardId, ShardOwners, UpstreamRoute,
    select_upstream,
};

/// The result of [`select_upstream`] for each shard, recomputed when its inputs change.
#[derive(Debug)]
pub(crate) struct RoutingTable {
    me: NodeId,
    view: Arc<ClusterView>,
    owners: ShardOwners,
    /// The upstream of each shard.
    upstreams: Vec<UpstreamRoute>,
    /// The region heads of this node's region in the current view.
    heads: RegionHeads,
    /// By shard: the rank of each node of this node's region in the order of region heads.
    ranks: Vec<HashMap<NodeId, u32>>,
    /// Linked nodes that rejected this node as their downstream, and until when they are not asked again.
    /// Such a head has lost its own path to the owner; the next head in the order may still have one.
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

    /// Applies a newer view. The caller must call [`RoutingTable::recompute`].
    pub(crate) fn apply_view(&mut self, view: Arc<ClusterView>) {
        self.heads = view.region_heads(view.region_of(self.me));
        let shard_ranks = |shard| self.heads.candidates(shard).iter().copied().zip(0..).collect();
        self.ranks = view.shards.ids().map(shard_ranks).collect();
        self.upstreams.resize(usize::from(view.shards.get()), UpstreamRoute::Unknown);
        self.view = view;
    }

    /// Sets the believed claim of a shard; `None`: no owner is known. The caller must call
    /// [`RoutingTable::recompute`].
    pub(crate) fn set_claim(&mut self, shard: ShardId, claim: Option<OwnershipClaim>) {
        match claim {
            Some(claim) => self.owners.replace(claim),
            None => self.owners.remove(shard),
        }
        self.avoided.retain(|&(avoided, _), _| avoided != shard);
    }

    /// Does not ask `node` for `shard` until `until`. Without effect for the owner, because there is no other
    /// node to ask. Returns whether the caller must call [`RoutingTable::recompute`].
    pub(crate) fn avoid(&mut self, shard: ShardId, node: NodeId, until: Instant) -> bool {
        let is_not_owner = self.owners.owner_of(shard) != Some(node);
        if is_not_owner {
            self.avoided.insert((shard, node), until);
        }
        is_not_owner
    }

    /// Ends expired avoidance. Returns whether the caller must call [`RoutingTable::recompute`].
    pub(crate) fn expire_avoided(&mut self, now: Instant) -> bool {
        let before = self.avoided.len();
        self.avoided.retain(|_, until| *until > now);
        self.avoided.len() != before
    }

    /// Selects the upstream of one shard, or of all, again.
    pub(crate) fn recompute(&mut self, only: Option<ShardId>, is_linked: impl Fn(NodeId) -> bool) {
        let RoutingTable { me, view, owners, heads, upstreams, avoided, .. } = self;
        let is_due = |&(shard, _): &(ShardId, _)| only.is_none_or(|only| only == shard);
        for (shard, slot) in view.shards.ids().zip(upstreams).filter(is_due) {
            let is_usable = |node| is_linked(node) && !avoided.contains_key(&(shard, node));
            *slot = select_upstream(shard, *me, view, owners, heads, is_usable);
        }
    }

    /// The node from which this node gets the topics of `shard`.
    pub(crate) fn upstream_for(&self, shard: ShardId) -> UpstreamRoute {
        self.upstreams.get(usize::from(shard.0)).copied().unwrap_or(UpstreamRoute::Unknown)
    }

    /// Whether `peer` may get the topics of `shard` from this node: this node owns them, or it precedes
    /// `peer` in the order of heads of their common region. The order is the one of [`select_upstream`], so
    /// two nodes never wait for each other. While no owner is known, the peer may wait here.
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

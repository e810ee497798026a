//! Where each shard's topics come from, and whom this node may give them to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use pushonce_core::{Claim, ClusterView, Heads, NodeId, Owners, ShardId, Upstream, upstream};

/// [`upstream`], asked again with each change of what it depends on.
#[derive(Debug)]
pub(crate) struct Routes {
    me: NodeId,
    view: Arc<ClusterView>,
    owners: Owners,
    /// By shard.
    next: Vec<Upstream>,
    /// Of my region, as the view has them.
    heads: Heads,
    /// By shard: the place of each node of my region in that order.
    places: Vec<HashMap<NodeId, u32>>,
    /// Nodes that have a link to me but said that they are not upstream, until when they are not
    /// asked again. Such a head has lost its own way to the owner; the next in the order may not.
    avoided: BTreeMap<(ShardId, NodeId), Instant>,
}

impl Routes {
    pub(crate) fn new(me: NodeId, view: Arc<ClusterView>) -> Routes {
        let mut routes = Routes {
            me,
            view: view.clone(),
            owners: Owners::default(),
            next: Vec::new(),
            heads: Heads::default(),
            places: Vec::new(),
            avoided: BTreeMap::new(),
        };
        routes.see(view);
        routes
    }

    /// Takes a newer view. [`Routes::decide`] is due.
    pub(crate) fn see(&mut self, view: Arc<ClusterView>) {
        self.heads = view.heads(view.region(self.me));
        let places = |shard| self.heads.of(shard).iter().copied().zip(0..).collect();
        self.places = view.shards.ids().map(places).collect();
        self.next.resize(usize::from(view.shards.get()), Upstream::Unknown);
        self.view = view;
    }

    /// Takes a claim unless a newer one is known. Says whether anything changed; then
    /// [`Routes::decide`] is due.
    pub(crate) fn hear(&mut self, claim: Claim) -> bool {
        let known = claim.shard.0 < self.view.shards.get();
        let shard = claim.shard;
        let changed = known && self.owners.hear(claim);
        if changed {
            self.avoided.retain(|&(avoided, _), _| avoided != shard);
        }
        changed
    }

    /// Does not ask `node` for `shard` until then. No use when it owns the shard: then there is
    /// nobody else to ask. Says whether [`Routes::decide`] is due.
    pub(crate) fn avoid(&mut self, shard: ShardId, node: NodeId, until: Instant) -> bool {
        let other = self.owners.of(shard) != Some(node);
        if other {
            self.avoided.insert((shard, node), until);
        }
        other
    }

    /// Asks those again whose time is over. Says whether [`Routes::decide`] is due.
    pub(crate) fn forgive(&mut self, now: Instant) -> bool {
        let before = self.avoided.len();
        self.avoided.retain(|_, until| *until > now);
        self.avoided.len() != before
    }

    /// Decides one shard anew, or all of them.
    pub(crate) fn decide(&mut self, only: Option<ShardId>, linked: impl Fn(NodeId) -> bool) {
        let Routes { me, view, owners, heads, next, avoided, .. } = self;
        let due = |&(shard, _): &(ShardId, _)| only.is_none_or(|only| only == shard);
        for (shard, next) in view.shards.ids().zip(next).filter(due) {
            let open = |node| linked(node) && !avoided.contains_key(&(shard, node));
            *next = upstream(shard, *me, view, owners, heads, open);
        }
    }

    /// Where this node gets the topics of `shard` from.
    pub(crate) fn of(&self, shard: ShardId) -> Upstream {
        self.next.get(usize::from(shard.0)).copied().unwrap_or(Upstream::Unknown)
    }

    /// Whether `asker` may get the topics of `shard` from this node: it owns them, or may head their
    /// common region for a node later in the order. The same order as in [`upstream`], so no two
    /// nodes ever wait for each other. While no owner is known, the asker may wait here.
    pub(crate) fn serves(&self, asker: NodeId, shard: ShardId) -> bool {
        match self.owners.of(shard) {
            Some(owner) if owner == self.me => true,
            Some(owner) if owner == asker || self.region(owner) == self.region(self.me) => false,
            _ => self.region(asker) == self.region(self.me) && self.before(asker, shard),
        }
    }

    fn before(&self, asker: NodeId, shard: ShardId) -> bool {
        let Some(places) = self.places.get(usize::from(shard.0)) else { return false };
        let place = |node| places.get(&node);
        place(self.me).is_some_and(|mine| place(asker).is_none_or(|other| mine < other))
    }

    fn region(&self, node: NodeId) -> &str {
        self.view.region(node)
    }

    pub(crate) fn owners(&self) -> &Owners {
        &self.owners
    }

    pub(crate) fn view(&self) -> &ClusterView {
        &self.view
    }
}

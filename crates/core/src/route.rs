//! Selection of the node from which a node receives a topic. Failover, resume and region routing all call
//! this function again.

use crate::{ClusterView, NodeId, RegionHeads, ShardId, ShardOwners};

/// The next node towards the owner of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamRoute {
    /// This node owns the shard.
    Local,
    /// This node receives the shard's topics from another node.
    Node(NodeId),
    /// No owner is known; call again when a claim arrives.
    Unknown,
}

/// The node from which `local` receives the topics of `shard`: the owner if it is in the same region, else
/// the region's head for the shard. The head receives from the owner, so a message crosses into a region
/// once.
///
/// `heads` are those of the region of `local`, from the view. `is_reachable` returns whether `local` has a
/// link to a node. Nodes of a region may disagree about reachability for a while. No cycle can arise: a
/// node selects only nodes *before* it in the region's order, and the first node selects the owner.
pub fn select_upstream(
    shard: ShardId,
    local: NodeId,
    view: &ClusterView,
    owners: &ShardOwners,
    heads: &RegionHeads,
    is_reachable: impl Fn(NodeId) -> bool,
) -> UpstreamRoute {
    let Some(owner) = owners.owner_of(shard) else { return UpstreamRoute::Unknown };
    if owner == local {
        return UpstreamRoute::Local;
    }
    if view.region_of(owner) == view.region_of(local) {
        return UpstreamRoute::Node(owner);
    }
    let mut preceding = heads.candidates(shard).iter().copied().take_while(|&node| node != local);
    UpstreamRoute::Node(preceding.find(|&node| is_reachable(node)).unwrap_or(owner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{claim, owners, view_in_regions};

    const SHARD: ShardId = ShardId(7);

    fn owned_by(owner: u64) -> ShardOwners {
        owners([claim(SHARD.0, owner, 1)])
    }

    fn route_from(
        me: u64,
        view: &ClusterView,
        owners: &ShardOwners,
        dead: &[u64],
    ) -> UpstreamRoute {
        {
            let heads = view.region_heads(view.region_of(NodeId(me)));
            select_upstream(SHARD, NodeId(me), view, owners, &heads, |node| !dead.contains(&node.0))
        }
    }

    #[test]
    fn upstream_is_unknown_without_a_claim() {
        assert_eq!(
            route_from(1, &view_in_regions(&["eu"]), &ShardOwners::default(), &[]),
            UpstreamRoute::Unknown
        );
    }

    #[test]
    fn nodes_in_the_owners_region_use_the_owner_as_upstream() {
        let view = view_in_regions(&["eu", "eu", "eu"]);
        assert_eq!(route_from(1, &view, &owned_by(1), &[]), UpstreamRoute::Local);
        assert_eq!(route_from(2, &view, &owned_by(1), &[]), UpstreamRoute::Node(NodeId(1)));
        assert_eq!(route_from(3, &view, &owned_by(1), &[]), UpstreamRoute::Node(NodeId(1)));
    }

    #[test]
    fn in_another_region_the_head_uses_the_owner_and_the_others_use_the_head() {
        let view = view_in_regions(&["eu", "us", "us", "us"]);
        let owners = owned_by(1);
        let head = view.region_heads("us").candidates(SHARD)[0];
        for me in [2, 3, 4].map(NodeId) {
            let expected = if me == head { NodeId(1) } else { head };
            assert_eq!(route_from(me.0, &view, &owners, &[]), UpstreamRoute::Node(expected));
        }
    }

    #[test]
    fn next_candidate_becomes_head_when_the_head_is_unreachable() {
        let view = view_in_regions(&["eu", "us", "us", "us"]);
        let owners = owned_by(1);
        let order = view.region_heads("us").candidates(SHARD).to_vec();
        let dead = [order[0].0];
        assert_eq!(route_from(order[1].0, &view, &owners, &dead), UpstreamRoute::Node(NodeId(1)));
        assert_eq!(route_from(order[2].0, &view, &owners, &dead), UpstreamRoute::Node(order[1]));
    }

    #[test]
    fn nodes_that_disagree_about_reachability_never_route_in_a_cycle() {
        let view = view_in_regions(&["eu", "us", "us", "us"]);
        let owners = owned_by(1);
        let rank =
            |id: NodeId| view.region_heads("us").candidates(SHARD).iter().position(|&n| n == id);
        for dead in 0..8u64 {
            let dead: Vec<u64> =
                (0..3).filter(|bit| dead & (1 << bit) != 0).map(|b| b + 2).collect();
            for me in 2..=4 {
                if let UpstreamRoute::Node(upstream_node) = route_from(me, &view, &owners, &dead) {
                    assert!(upstream_node == NodeId(1) || rank(upstream_node) < rank(NodeId(me)));
                }
            }
        }
    }
}

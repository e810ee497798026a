//! Where a node gets a topic from: the whole of failover, resume and region routing is to ask this
//! function again.

use crate::{ClusterView, Heads, NodeId, Owners, ShardId};

/// The next node towards the owner of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// This node owns it.
    Local,
    /// This node gets it from there.
    Node(NodeId),
    /// No owner is known; ask again when a claim arrives.
    Unknown,
}

/// Where `me` gets the topics of `shard` from: the owner if it is in my region, else my region's
/// head for the shard; for the head, the owner. So a message crosses into a region once.
///
/// `heads` are those of my region, as the view has them. `reachable` says whether `me` has a link to a
/// node. Nodes of a region may disagree about that for a while; still no circle can arise, because a node only ever turns to one that stands
/// *before* it in the region's order, and the first of them turns to the owner.
pub fn upstream(
    shard: ShardId,
    me: NodeId,
    view: &ClusterView,
    owners: &Owners,
    heads: &Heads,
    reachable: impl Fn(NodeId) -> bool,
) -> Upstream {
    let Some(owner) = owners.of(shard) else { return Upstream::Unknown };
    if owner == me {
        return Upstream::Local;
    }
    if view.region(owner) == view.region(me) {
        return Upstream::Node(owner);
    }
    let mut before_me = heads.of(shard).iter().copied().take_while(|&node| node != me);
    Upstream::Node(before_me.find(|&node| reachable(node)).unwrap_or(owner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Addresses, Build, Claim, ClusterId, ClusterVersion, Member, MemberState, Namespaces,
        Placement, Roles, ShardCount, Spread, Term,
    };

    const SHARD: ShardId = ShardId(7);

    fn view(regions: &[&str]) -> ClusterView {
        let member = |(index, region): (usize, &&str)| {
            let id = NodeId(index as u64 + 1);
            let member = Member {
                id,
                name: id.to_string(),
                addresses: Addresses::default(),
                region: (*region).to_owned(),
                zone: String::new(),
                roles: Roles::default(),
                weight: 1,
                state: MemberState::Active,
                build: Build::default(),
            };
            (id, member)
        };
        ClusterView {
            cluster: ClusterId(1),
            version: 1,
            shards: ShardCount::DEFAULT,
            replicas: 3,
            spread: Spread::Zones,
            members: regions.iter().enumerate().map(member).collect(),
            next_id: NodeId(regions.len() as u64 + 1),
            placement: Placement::default(),
            namespaces: Namespaces::default(),
            times: Default::default(),
            cluster_version: ClusterVersion::FIRST,
        }
    }

    fn owned_by(owner: u64) -> Owners {
        let mut owners = Owners::default();
        owners.hear(Claim {
            shard: SHARD,
            owner: NodeId(owner),
            term: Term(1),
            membership: 1,
            voters: vec![],
            learners: vec![],
        });
        owners
    }

    fn next(me: u64, view: &ClusterView, owners: &Owners, dead: &[u64]) -> Upstream {
        {
            let heads = view.heads(view.region(NodeId(me)));
            upstream(SHARD, NodeId(me), view, owners, &heads, |node| !dead.contains(&node.0))
        }
    }

    #[test]
    fn without_a_claim_nobody_knows() {
        assert_eq!(next(1, &view(&["eu"]), &Owners::default(), &[]), Upstream::Unknown);
    }

    #[test]
    fn in_the_owners_region_everyone_asks_the_owner() {
        let view = view(&["eu", "eu", "eu"]);
        assert_eq!(next(1, &view, &owned_by(1), &[]), Upstream::Local);
        assert_eq!(next(2, &view, &owned_by(1), &[]), Upstream::Node(NodeId(1)));
        assert_eq!(next(3, &view, &owned_by(1), &[]), Upstream::Node(NodeId(1)));
    }

    #[test]
    fn in_another_region_one_node_asks_the_owner_and_the_others_ask_that_node() {
        let view = view(&["eu", "us", "us", "us"]);
        let owners = owned_by(1);
        let head = view.heads("us").of(SHARD)[0];
        for me in [2, 3, 4].map(NodeId) {
            let wanted = if me == head { NodeId(1) } else { head };
            assert_eq!(next(me.0, &view, &owners, &[]), Upstream::Node(wanted));
        }
    }

    #[test]
    fn when_the_head_dies_the_next_of_the_order_takes_its_place() {
        let view = view(&["eu", "us", "us", "us"]);
        let owners = owned_by(1);
        let order = view.heads("us").of(SHARD).to_vec();
        let dead = [order[0].0];
        assert_eq!(next(order[1].0, &view, &owners, &dead), Upstream::Node(NodeId(1)));
        assert_eq!(next(order[2].0, &view, &owners, &dead), Upstream::Node(order[1]));
    }

    #[test]
    fn nodes_that_disagree_about_who_lives_never_ask_in_a_circle() {
        let view = view(&["eu", "us", "us", "us"]);
        let owners = owned_by(1);
        let rank = |id: NodeId| view.heads("us").of(SHARD).iter().position(|&n| n == id);
        for dead in 0..8u64 {
            let dead: Vec<u64> =
                (0..3).filter(|bit| dead & (1 << bit) != 0).map(|b| b + 2).collect();
            for me in 2..=4 {
                if let Upstream::Node(up) = next(me, &view, &owners, &dead) {
                    assert!(up == NodeId(1) || rank(up) < rank(NodeId(me)));
                }
            }
        }
    }
}

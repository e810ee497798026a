//! The table of shards: proposed by the ring, committed by the control group.

use serde::{Deserialize, Serialize};

use crate::{ClusterView, Member, NodeId, Ring, ShardId};

/// The committed replica lists. The first of a list is the preferred owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Rises with every change of the table.
    pub version: u64,
    /// By shard: distinct nodes, at most the cluster's number of replicas.
    pub replicas: Vec<Vec<NodeId>>,
}

/// Which failure the replicas of a shard should survive together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// The loss of a zone: replicas in distinct zones where there are enough. A commit may stay
    /// within a region.
    #[default]
    Zones,
    /// The loss of a region: replicas in distinct regions first, then in distinct zones. Every
    /// commit then waits for the wide area network.
    Regions,
}

impl Placement {
    /// The replica list of a shard; empty when the table does not have it.
    pub fn of(&self, shard: ShardId) -> &[NodeId] {
        self.replicas.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }

    /// The node that should own a shard.
    pub fn preferred(&self, shard: ShardId) -> Option<NodeId> {
        self.of(shard).first().copied()
    }

    /// What the ring wants for the members of `view`: the lists of its active core nodes.
    ///
    /// The owner of each shard is the ring's own choice, so a join moves about 1/N of the owners
    /// and a leave moves only the leaver's; without labels they move to their first replica.
    pub fn propose(view: &ClusterView) -> Vec<Vec<NodeId>> {
        let candidates = view.shard_holders();
        let ring = Ring::new(&candidates.iter().map(|(&id, m)| (id, m.weight)).collect());
        let wanted = usize::from(view.replicas);
        let member = |id: NodeId| candidates.get(&id).copied();
        view.shards
            .ids()
            .map(|shard| spread(&ring.walk(shard), wanted, view.spread, &member))
            .collect()
    }
}

/// The first `wanted` nodes of the walk that differ as much as the walk allows: each pass takes, in
/// the order of the walk, the nodes that its rule accepts beside those already taken.
fn spread<'m>(
    walk: &[NodeId],
    wanted: usize,
    spread: Spread,
    member: &impl Fn(NodeId) -> Option<&'m Member>,
) -> Vec<NodeId> {
    type Rule = fn(&Member, &Member) -> bool;
    let other_region: Rule = |a, b| a.region != b.region;
    let other_zone: Rule = |a, b| (&a.region, &a.zone) != (&b.region, &b.zone);
    let anything: Rule = |_, _| true;
    let rules: &[Rule] = match spread {
        Spread::Zones => &[other_zone, anything],
        Spread::Regions => &[other_region, other_zone, anything],
    };
    let mut taken: Vec<NodeId> = Vec::with_capacity(wanted);
    for rule in rules {
        for &node in walk {
            if taken.len() == wanted {
                return taken;
            }
            let Some(candidate) = member(node) else { continue };
            let fits = taken.iter().filter_map(|&t| member(t)).all(|t| rule(candidate, t));
            if fits && !taken.contains(&node) {
                taken.push(node);
            }
        }
    }
    taken
}

#[cfg(test)]
#[path = "placement/placement_test.rs"]
mod placement_test;

//! The shard table: proposed by the ring, committed by the control group.

use serde::{Deserialize, Serialize};

use crate::{ClusterView, HashRing, Member, NodeId, ShardId};

/// The committed replica lists. The first node of a list is the preferred owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Increases with every change of the table.
    pub version: u64,
    /// Replicas by shard: distinct nodes, at most the cluster's number of replicas.
    pub replicas: Vec<Vec<NodeId>>,
}

/// The largest failure that the replicas of a shard are spread to survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Loss of a zone: replicas are in distinct zones where there are enough. A commit may stay within a
    /// region.
    #[default]
    Zones,
    /// Loss of a region: replicas are in distinct regions first, then in distinct zones. Every commit waits
    /// for the wide area network.
    Regions,
}

impl Placement {
    /// The replica list of a shard; empty when the table does not have the shard.
    pub fn replicas_of(&self, shard: ShardId) -> &[NodeId] {
        self.replicas.get(usize::from(shard.0)).map_or(&[], Vec::as_slice)
    }

    /// The preferred owner of a shard, if the table has the shard.
    pub fn preferred_owner(&self, shard: ShardId) -> Option<NodeId> {
        self.replicas_of(shard).first().copied()
    }

    /// The replica lists that the ring proposes for the active core nodes of `view`.
    ///
    /// The ring determines the owner of each shard, so a join moves about 1/N of the owners and a leave
    /// moves only those of the leaving node; without zone and region labels these move to their first
    /// replica.
    pub fn compute(view: &ClusterView) -> Vec<Vec<NodeId>> {
        let candidates = view.placement_candidates();
        let ring = HashRing::new(&candidates.iter().map(|(&id, m)| (id, m.weight)).collect());
        let replica_count = usize::from(view.replicas);
        let member = |id: NodeId| candidates.get(&id).copied();
        view.shards
            .ids()
            .map(|shard| {
                select_replicas(&ring.preference_list(shard), replica_count, view.spread, &member)
            })
            .collect()
    }
}

/// The first `replica_count` nodes of the preference list that differ as much as the list allows. Each pass
/// adds, in the order of the list, the nodes that its rule accepts beside those already selected.
fn select_replicas<'m>(
    preference_list: &[NodeId],
    replica_count: usize,
    spread: Spread,
    member: &impl Fn(NodeId) -> Option<&'m Member>,
) -> Vec<NodeId> {
    type DistinctRule = fn(&Member, &Member) -> bool;
    let other_region: DistinctRule = |a, b| a.region != b.region;
    let other_zone: DistinctRule = |a, b| (&a.region, &a.zone) != (&b.region, &b.zone);
    let any_node: DistinctRule = |_, _| true;
    let rules: &[DistinctRule] = match spread {
        Spread::Zones => &[other_zone, any_node],
        Spread::Regions => &[other_region, other_zone, any_node],
    };
    let mut selected: Vec<NodeId> = Vec::with_capacity(replica_count);
    for rule in rules {
        for &node in preference_list {
            if selected.len() == replica_count {
                return selected;
            }
            let Some(candidate) = member(node) else { continue };
            let is_distinct =
                selected.iter().filter_map(|&t| member(t)).all(|t| rule(candidate, t));
            if is_distinct && !selected.contains(&node) {
                selected.push(node);
            }
        }
    }
    selected
}

#[cfg(test)]
#[path = "placement/placement_test.rs"]
mod placement_test;

//! The consistent-hash ring that orders the nodes for each shard.
//!
//! Consistent hashing after Karger et al. (1997), with [`HashRing::POINTS_PER_WEIGHT`] points per node and
//! unit of weight. A shard belongs to the node of the first point at or behind the shard's own place on the
//! circle.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};

use xxhash_rust::xxh3::xxh3_64;

use crate::{NodeId, ShardId};

/// Nodes on a circle. The same members give the same ring on every node and in every version: hashes are of
/// fixed bytes, and a test pins them.
pub struct HashRing {
    nodes: Vec<NodeId>,
    /// Every point in the order of the circle, with the index of its node in `nodes`.
    circle: Vec<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RingPoint {
    node: NodeId,
    index: u32,
}

struct ShardKey(ShardId);

impl HashRing {
    /// Points per node and unit of weight. With 3 nodes the busiest owns a few per cent more than the
    /// idlest; half as many points double the difference, twice as many double the cost of building a ring.
    pub const POINTS_PER_WEIGHT: u32 = 128;

    /// A ring of nodes with their weights. A node of weight zero owns nothing.
    pub fn new(weights: &BTreeMap<NodeId, u32>) -> HashRing {
        let weighted: Vec<_> = weights.iter().filter(|(_, weight)| **weight > 0).collect();
        let mut circle = Vec::new();
        for (node_index, &(&node, &weight)) in (0..).zip(&weighted) {
            let points = (0..weight.saturating_mul(Self::POINTS_PER_WEIGHT))
                .map(|index| RingPoint { node, index });
            circle.extend(points.map(|point| (Xxh3BuildHasher.hash_one(point), node_index)));
        }
        // Of two points at the same place, the one of the lower node comes first: `weighted` is in
        // ascending order.
        circle.sort_unstable();
        HashRing { nodes: weighted.into_iter().map(|(&node, _)| node).collect(), circle }
    }

    /// The node that owns a shard; `None` on an empty ring.
    pub fn owner(&self, shard: ShardId) -> Option<NodeId> {
        let key = Xxh3BuildHasher.hash_one(ShardKey(shard));
        let start = self.circle.partition_point(|(hash, _)| *hash < key);
        let (_, node_index) = self.circle.get(start).or_else(|| self.circle.first())?;
        Some(self.nodes[*node_index as usize])
    }

    /// Every node of the ring once, in the order in which the shard reaches them on the circle: the owner
    /// first. When a node leaves, the order of the others stays.
    pub fn preference_list(&self, shard: ShardId) -> Vec<NodeId> {
        let key = Xxh3BuildHasher.hash_one(ShardKey(shard));
        let start = self.circle.partition_point(|(hash, _)| *hash < key);
        let (before, after) = self.circle.split_at(start);
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let mut seen = vec![false; self.nodes.len()];
        // All nodes are found long before the end of the circle: of 1,000 nodes after some 8,000 of 128,000
        // points.
        for &(_, node_index) in after.iter().chain(before) {
            if nodes.len() == self.nodes.len() {
                break;
            }
            if !std::mem::replace(&mut seen[node_index as usize], true) {
                nodes.push(self.nodes[node_index as usize]);
            }
        }
        nodes
    }
}

/// xxh3 with seed 0 over bytes written in one call: the same on every machine.
#[derive(Clone, Copy, Default)]
struct Xxh3BuildHasher;

#[derive(Default)]
struct SingleWriteHasher(u64);

impl BuildHasher for Xxh3BuildHasher {
    type Hasher = SingleWriteHasher;

    fn build_hasher(&self) -> SingleWriteHasher {
        SingleWriteHasher::default()
    }
}

impl Hasher for SingleWriteHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hash for RingPoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 13];
        bytes[0] = b'n';
        bytes[1..9].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[9..].copy_from_slice(&self.index.to_le_bytes());
        state.write(&bytes);
    }
}

impl Hash for ShardKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 5];
        bytes[0] = b's';
        bytes[1..].copy_from_slice(&u32::from(self.0.0).to_le_bytes());
        state.write(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(nodes: &[u64]) -> HashRing {
        HashRing::new(&nodes.iter().map(|&n| (NodeId(n), 1)).collect())
    }

    #[test]
    fn ring_hashes_are_stable() {
        // Other values would move shards at an upgrade, or make two versions disagree.
        assert_eq!(Xxh3BuildHasher.hash_one(ShardKey(ShardId(0))), 0x9e27_dad7_cf6d_b2e4);
        assert_eq!(Xxh3BuildHasher.hash_one(ShardKey(ShardId(1))), 0xd8c9_d9f3_dd2b_0117);
        let point = RingPoint { node: NodeId(1), index: 0 };
        assert_eq!(Xxh3BuildHasher.hash_one(point), 0x52e5_e397_fdd2_2d65);
    }

    #[test]
    fn preference_lists_of_a_small_ring_are_stable() {
        let lists: Vec<_> = (0..8).map(|s| ring(&[1, 2, 3]).preference_list(ShardId(s))).collect();
        let golden: [[u64; 3]; 8] = GOLDEN_PREFERENCE_LISTS;
        assert_eq!(lists, golden.map(|list| list.map(NodeId).to_vec()));
    }

    const GOLDEN_PREFERENCE_LISTS: [[u64; 3]; 8] =
        [[1, 3, 2], [1, 2, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1], [1, 2, 3], [2, 1, 3], [1, 2, 3]];

    #[test]
    fn preference_list_starts_with_the_owner_and_has_every_node_once() {
        let ring = ring(&[1, 2, 3, 4, 5]);
        for shard in (0..256).map(ShardId) {
            let mut list = ring.preference_list(shard);
            assert_eq!(list.first().copied(), ring.owner(shard));
            list.sort_unstable();
            assert_eq!(list, (1..=5).map(NodeId).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_empty_ring_has_no_owner() {
        assert_eq!(ring(&[]).owner(ShardId(0)), None);
        assert!(ring(&[]).preference_list(ShardId(0)).is_empty());
    }

    #[test]
    fn a_node_of_weight_two_owns_about_twice_as_much() {
        let ring = HashRing::new(&BTreeMap::from([(NodeId(1), 1), (NodeId(2), 2)]));
        let heavy = (0..4096).filter(|&s| ring.owner(ShardId(s)) == Some(NodeId(2))).count();
        assert!((2400..3100).contains(&heavy), "{heavy} of 4096");
    }
}

//! The consistent-hash ring: which nodes, in which order, a shard would like to live on.
//!
//! Consistent hashing after Karger et al. (1997), with [`Ring::POINTS`] points a node and unit of
//! weight. A shard falls to the node of the first point at or behind its own place on the circle.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};

use xxhash_rust::xxh3::xxh3_64;

use crate::{NodeId, ShardId};

/// Nodes on a circle. The same members give the same ring on every node and in every version:
/// hashes are of fixed bytes, and frozen in a test.
pub struct Ring {
    nodes: Vec<NodeId>,
    /// Every point in the order of the circle, with the place of its node in `nodes`.
    circle: Vec<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    node: NodeId,
    index: u32,
}

struct ShardKey(ShardId);

impl Ring {
    /// Points a node has on the circle per unit of weight: with 3 nodes the busiest has a few per
    /// cent more than the idlest; half of them doubles that, twice of them doubles the cost of building.
    pub const POINTS: u32 = 128;

    /// A ring of nodes with their weights. A weight of zero takes nothing.
    pub fn new(weights: &BTreeMap<NodeId, u32>) -> Ring {
        let weighted: Vec<_> = weights.iter().filter(|(_, weight)| **weight > 0).collect();
        let mut circle = Vec::new();
        for (at, &(&node, &weight)) in (0..).zip(&weighted) {
            let points =
                (0..weight.saturating_mul(Self::POINTS)).map(|index| Point { node, index });
            circle.extend(points.map(|point| (FixedXxh3.hash_one(point), at)));
        }
        // Of two points at one place the lower node's comes first: nodes rise.
        circle.sort_unstable();
        Ring { nodes: weighted.into_iter().map(|(&node, _)| node).collect(), circle }
    }

    /// The node a shard falls to; `None` on an empty ring.
    pub fn owner(&self, shard: ShardId) -> Option<NodeId> {
        let key = FixedXxh3.hash_one(ShardKey(shard));
        let start = self.circle.partition_point(|(hash, _)| *hash < key);
        let (_, at) = self.circle.get(start).or_else(|| self.circle.first())?;
        Some(self.nodes[*at as usize])
    }

    /// Every node of the ring, each once, in the order in which the shard meets them: the owner
    /// first, and when a node leaves, the order of the others stays.
    pub fn walk(&self, shard: ShardId) -> Vec<NodeId> {
        let key = FixedXxh3.hash_one(ShardKey(shard));
        let start = self.circle.partition_point(|(hash, _)| *hash < key);
        let (before, after) = self.circle.split_at(start);
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let mut met = vec![false; self.nodes.len()];
        // All are met long before the circle is round: of 1,000 nodes after some 8,000 of 128,000
        // points.
        for &(_, at) in after.iter().chain(before) {
            if nodes.len() == self.nodes.len() {
                break;
            }
            if !std::mem::replace(&mut met[at as usize], true) {
                nodes.push(self.nodes[at as usize]);
            }
        }
        nodes
    }
}

/// xxh3 with seed 0 over bytes written in one piece: the same on every machine.
#[derive(Clone, Copy, Default)]
struct FixedXxh3;

#[derive(Default)]
struct OneWrite(u64);

impl BuildHasher for FixedXxh3 {
    type Hasher = OneWrite;

    fn build_hasher(&self) -> OneWrite {
        OneWrite::default()
    }
}

impl Hasher for OneWrite {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Hash for Point {
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

    fn ring(nodes: &[u64]) -> Ring {
        Ring::new(&nodes.iter().map(|&n| (NodeId(n), 1)).collect())
    }

    #[test]
    fn the_hashes_are_frozen() {
        // Another value would move shards at an upgrade, or make two versions disagree.
        assert_eq!(FixedXxh3.hash_one(ShardKey(ShardId(0))), 0x9e27_dad7_cf6d_b2e4);
        assert_eq!(FixedXxh3.hash_one(ShardKey(ShardId(1))), 0xd8c9_d9f3_dd2b_0117);
        let point = Point { node: NodeId(1), index: 0 };
        assert_eq!(FixedXxh3.hash_one(point), 0x52e5_e397_fdd2_2d65);
    }

    #[test]
    fn the_walk_of_a_small_ring_is_frozen() {
        let walks: Vec<_> = (0..8).map(|s| ring(&[1, 2, 3]).walk(ShardId(s))).collect();
        let golden: [[u64; 3]; 8] = GOLDEN_WALKS;
        assert_eq!(walks, golden.map(|walk| walk.map(NodeId).to_vec()));
    }

    const GOLDEN_WALKS: [[u64; 3]; 8] =
        [[1, 3, 2], [1, 2, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1], [1, 2, 3], [2, 1, 3], [1, 2, 3]];

    #[test]
    fn the_walk_begins_with_the_owner_and_names_every_node_once() {
        let ring = ring(&[1, 2, 3, 4, 5]);
        for shard in (0..256).map(ShardId) {
            let mut walk = ring.walk(shard);
            assert_eq!(walk.first().copied(), ring.owner(shard));
            walk.sort_unstable();
            assert_eq!(walk, (1..=5).map(NodeId).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_empty_ring_has_no_owner() {
        assert_eq!(ring(&[]).owner(ShardId(0)), None);
        assert!(ring(&[]).walk(ShardId(0)).is_empty());
    }

    #[test]
    fn a_node_of_weight_two_owns_about_twice_as_much() {
        let ring = Ring::new(&BTreeMap::from([(NodeId(1), 1), (NodeId(2), 2)]));
        let heavy = (0..4096).filter(|&s| ring.owner(ShardId(s)) == Some(NodeId(2))).count();
        assert!((2400..3100).contains(&heavy), "{heavy} of 4096");
    }
}

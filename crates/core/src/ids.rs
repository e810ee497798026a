//! Identifiers. Numbers that must not be mixed are types, printed short: `n3`, `s12`.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node, for ever: ids are counted up by the control group and never used twice, so that a node
/// whose disk was wiped can never vote under the name it had before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// One of the fixed number of shards that topics hash onto.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

/// How many shards a cluster has: chosen when it is made, never changed. Not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardCount(NonZeroU16);

/// The Raft term under which a node leads a shard. Of two claims the higher term is the newer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term(pub u64);

/// A cluster, so that a node never joins, and a link never reaches, the wrong one. Drawn at random
/// when the cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl ShardCount {
    /// The default up to five nodes: 64 shards cost 1.8 times the CPU at medium load.
    pub const DEFAULT: ShardCount = ShardCount(NonZeroU16::new(16).expect("16 is not zero"));
    /// More groups than this tick more than they carry.
    pub const MAX: u16 = 4096;

    /// `NoFault` for zero and for more than [`ShardCount::MAX`].
    pub fn new(count: u16) -> Option<ShardCount> {
        NonZeroU16::new(count).filter(|n| n.get() <= Self::MAX).map(ShardCount)
    }

    /// The number of shards.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// Every shard, in order.
    pub fn ids(self) -> impl Iterator<Item = ShardId> {
        (0..self.get()).map(ShardId)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    /// Reads `n3`, and `3` for those who type.
    fn from_str(text: &str) -> Result<NodeId, Self::Err> {
        text.strip_prefix('n').unwrap_or(text).parse().map(NodeId)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<ClusterId, Self::Err> {
        u128::from_str_radix(text, 16).map(ClusterId)
    }
}

//! Identifiers as distinct types, with short printed forms: `n3`, `s12`.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node of the cluster. The control group assigns ids in ascending order and never reuses one, so a node
/// whose disk was wiped cannot vote under its earlier id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// One of the fixed number of shards that topics are hashed onto.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u16);

/// Number of shards of a cluster, 1 to [`ShardCount::MAX`]. Chosen when the cluster is created and never
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardCount(NonZeroU16);

/// The Raft term in which a node leads a shard. Of two claims, the one with the higher term is newer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term(pub u64);

/// A cluster. Drawn at random when the cluster is created, so that no node joins and no link reaches a
/// different cluster by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl ShardCount {
    /// The default for up to five nodes: 64 shards cost 1.8 times the CPU at medium load.
    pub const DEFAULT: ShardCount = ShardCount(NonZeroU16::new(16).expect("16 is not zero"));
    /// The maximum. With more groups, heartbeats cost more than messages.
    pub const MAX: u16 = 4096;

    /// A shard count, or `None` for zero and for more than [`ShardCount::MAX`].
    pub fn new(count: u16) -> Option<ShardCount> {
        NonZeroU16::new(count).filter(|n| n.get() <= Self::MAX).map(ShardCount)
    }

    /// The number of shards.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// Every shard in ascending order.
    pub fn ids(self) -> impl Iterator<Item = ShardId> {
        (0..self.get()).map(ShardId)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl NodeId {
    /// The id that a name would be mistaken for: `n3` and `N3` look like ids.
    pub fn resembled_by(name: &str) -> Option<NodeId> {
        let digits = name.strip_prefix(['n', 'N'])?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A number beyond every id is mistaken for none that exists; it still looks like one.
        is_number.then(|| NodeId(digits.parse().unwrap_or(u64::MAX)))
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    /// Parses `n3` and `3`.
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

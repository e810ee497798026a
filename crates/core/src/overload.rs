//! The limits because of which publishes are rejected.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::Topic;

/// Which limit a publish met. The same publish may succeed later.
///
/// Between nodes a reason travels as its text: see [`OverloadReason::Reported`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverloadReason {
    /// Too many publishes wait for the next entry of the shard's log.
    #[error("the shard's queue holds its maximum of {max} publishes")]
    QueueCount {
        /// The maximum number of publishes.
        max: usize,
    },
    /// The publishes that wait for the next entry of the shard's log are too large together.
    #[error("the shard's queue is at its limit of {max} bytes")]
    QueueBytes {
        /// The maximum number of bytes.
        max: usize,
    },
    /// Too many publishes of this node wait for their owners.
    #[error("too many publishes to other nodes are pending")]
    PublishesToPeers,
    /// Too many publishes of other nodes wait for the shards of this node.
    #[error("too many publishes of other nodes are pending")]
    PublishesFromPeers,
    /// The owner's disk has no room.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// The owner's memory has no room.
    #[error(
        "the owner of the topic uses {}.{} % of its memory and accepts no {}; retry later, raise its \
         --memory-max, or add nodes",
        .permille / 10, .permille % 10, if *.refuses_all { "publishes" } else { "new topics" }
    )]
    Memory {
        /// The used share of the limit, in thousandths.
        permille: u32,
        /// Whether publishes to existing topics are refused as well.
        refuses_all: bool,
    },
    /// The topic or its namespace has its share of the producers that the shard remembers.
    #[error(
        "the topic's shard tracks its maximum number of producers of this topic and accepts new ones after others have \
         been idle for five minutes; use fewer streams, or publish with a key or a nonce"
    )]
    Producers,
    /// The caller publishes to the namespace more often than it may.
    #[error(transparent)]
    NamespaceRate(#[from] NamespaceRateExceeded),
    /// The caller created topics more often than it may.
    #[error(transparent)]
    NewTopicRate(#[from] NewTopicRateExceeded),
    /// The text of another node.
    #[error("{0}")]
    Reported(String),
}

/// A caller created topics more often than its node allows, and waits before it publishes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "you create topics too often; retry in {retry_after:?}, and publish to fewer new topics, or raise \
     --new-topic-rate-max of the node"
)]
pub struct NewTopicRateExceeded {
    /// How long the caller has to wait.
    pub retry_after: Duration,
}

/// A caller subscribes more often than its node allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "you subscribe too often; retry in {retry_after:?}, and subscribe less often, or raise --subscribe-rate-max of \
     the node"
)]
pub struct SubscribeRateExceeded {
    /// How long the caller has to wait.
    pub retry_after: Duration,
}

/// A caller publishes to a namespace more often than its
/// [`NamespaceAccess::publish_rate_max`](crate::NamespaceAccess::publish_rate_max) allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "you publish too often to the namespace {namespace:?}; retry in {retry_after:?}, and send at most {max} messages \
     a second, or raise the --publish-rate of the namespace"
)]
pub struct NamespaceRateExceeded {
    /// The namespace.
    pub namespace: String,
    /// The maximum number of messages a second.
    pub max: NonZeroU32,
    /// How long the caller has to wait.
    pub retry_after: Duration,
}

/// There is too little disk space to publish on a node. The message names the directory and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of {} has {} MiB left, and {} MiB are reserved for elections and snapshots: \
     free some space there, or lower --disk-reserve; publishing resumes by itself",
    .dir.display(), .free >> 20, .reserve >> 20
)]
pub struct DiskFull {
    /// The data directory.
    pub dir: PathBuf,
    /// Free bytes.
    pub free: u64,
    /// Reserved bytes.
    pub reserve: u64,
}

/// The limit that a new topic would exceed. The same publish succeeds after an operator raised the limit, or
/// after other topics expired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicLimit {
    /// The limit of the topic's namespace.
    #[error(
        "the namespace {:?} may have {max}, and {topic} would exceed that; raise the limit \
         (`pushonce namespace set {} --topics-max N`) or publish to fewer topics",
        .topic.namespace(), .topic.namespace()
    )]
    Namespace {
        /// The new topic.
        topic: Topic,
        /// The maximum number of topics of the namespace.
        max: u32,
    },
    /// The limit of the node that owns the topic.
    #[error(
        "the owner of {topic} holds {count}, its maximum; add nodes to the cluster, or raise its \
         --topics-max"
    )]
    Node {
        /// The new topic.
        topic: Topic,
        /// The number of topics that the node holds.
        count: u64,
    },
    /// The share of the topic's namespace in the topics of its owner.
    #[error(
        "the namespace {:?} has its share of the topics that the owner of {topic} can hold, and other namespaces \
         need the rest; publish to fewer topics, raise the owner's --topics-max, or add nodes",
        .topic.namespace()
    )]
    NodeShare {
        /// The new topic.
        topic: Topic,
    },
    /// The text of another node.
    #[error("{0}")]
    Reported(String),
}

//! Why a shard cannot answer a request at present.

use std::time::Duration;

use crate::{ClusterId, NodeId, ShardId, Topic};

/// Why a shard cannot answer a publish or a history request at present. The same request may succeed later.
///
/// Between nodes a reason travels as its text, so that a node of another version can pass on a reason that it
/// does not know: see [`UnavailableReason::Reported`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnavailableReason {
    /// This node does not know the shards and members yet.
    #[error("this node has no current view of its cluster yet")]
    NoView,
    /// This node is being stopped.
    #[error("the node is stopping")]
    Stopping,
    /// The address of this node belongs to a node of another cluster.
    #[error(
        "members of cluster {other} dial this node's address as one of theirs, and this node belongs to \
         cluster {own}: it accepts no publishes. If {other} is the right cluster, stop this node and \
         start it with its old data directory, or with an empty one and --join; otherwise remove the \
         stale member there"
    )]
    AddressConflict {
        /// The cluster of this node.
        own: ClusterId,
        /// The cluster whose members call it.
        other: ClusterId,
    },
    /// This node holds no replica of the shard.
    #[error("this node has no replica of {0}")]
    NoReplica(ShardId),
    /// No node claims the shard.
    #[error("the owner of {0} is not known yet")]
    OwnerUnknown(ShardId),
    /// This node does not own the topic's shard.
    #[error("{}", match .owner {
        Some(owner) => format!("{owner} owns the topic's shard"),
        None => "the topic's shard has no elected owner".to_owned(),
    })]
    NotOwner {
        /// The owner as far as this node knows.
        owner: Option<NodeId>,
    },
    /// This node leads the shard, and its lease has expired.
    #[error("the owner of the shard cannot reach a majority of the replicas")]
    NoMajority,
    /// This node leads the shard, and is not ready to serve or no longer does.
    #[error("the owner of the shard is catching up or stopping")]
    OwnerNotReady,
    /// A message cannot get a time.
    #[error("the owner does not know the clocks of a majority of the shard's voters yet")]
    ClocksUnknown,
    /// Owners were asked until the deadline of the message.
    #[error("no owner of {shard} accepted the message in time; {node} replied: {reason}")]
    NotAccepted {
        /// The shard.
        shard: ShardId,
        /// The node that replied last.
        node: NodeId,
        /// Its reply.
        reason: Box<UnavailableReason>,
    },
    /// A retry would change the order of a stream.
    #[error(
        "the topic's owner changed, and a later message of this stream to the topic was stored first"
    )]
    Overtaken,
    /// This node has no link to the node.
    #[error("there is no link to {0} now")]
    NoLink(NodeId),
    /// The link broke before the reply came.
    #[error("the link to {0} broke")]
    LinkLost(NodeId),
    /// The link has no room for a page of history.
    #[error("the link from {from} to {to} is congested")]
    LinkCongested {
        /// The node that would send the page.
        from: NodeId,
        /// The node that requested it.
        to: NodeId,
    },
    /// The node that was asked does not serve the requester, because their views differ.
    #[error("{node} is not the upstream of {requester} for {shard}")]
    NotUpstream {
        /// The node that was asked.
        node: NodeId,
        /// The node that asked.
        requester: NodeId,
        /// The topic's shard.
        shard: ShardId,
    },
    /// No reply came in time.
    #[error("{} did not reply within {within:?}", match .node {
        Some(node) => node.to_string(),
        None => "the topic's upstream".to_owned(),
    })]
    NoReply {
        /// The node that was asked; `None` if it is not known which one was.
        node: Option<NodeId>,
        /// The deadline of the request.
        within: Duration,
    },
    /// A request to another node failed.
    #[error("the request to {node} failed: {error}")]
    RequestFailed {
        /// The node that was asked.
        node: NodeId,
        /// What the connection or the node reported.
        error: String,
    },
    /// This node has its maximum number of pending history requests.
    #[error("too many history requests are pending")]
    TooManyFetches,
    /// New messages or a new epoch arrived during each attempt to read the history.
    #[error("the history of `{0}` kept changing while it was read")]
    HistoryChanged(Topic),
    /// The owner does not have the subscriber counts of all nodes yet.
    #[error("the topic's new owner is still counting its subscribers")]
    CountIncomplete,
    /// The text of another node.
    #[error("{0}")]
    Reported(String),
}

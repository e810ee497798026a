//! [`Handle`]: the interface of the node to its relay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    Acknowledgement, FetchError, HistoryPage, HistoryRange, Message, NodeId, OverloadReason,
    OwnershipClaim, Position, Publish, PublishError, ShardId, ShardOwners, Term, Topic,
    UnavailableReason, VersionConflict,
};
use tokio::sync::{oneshot, watch};

use crate::inbox::{Inbox, RelayRequest};

/// The interface of the node to its relay. Cheap to clone; no call blocks.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) owners: watch::Receiver<Arc<ShardOwners>>,
    pub(crate) reachable: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) stopping: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) stale_shards: watch::Receiver<BTreeSet<ShardId>>,
    pub(crate) round_trips: watch::Receiver<BTreeMap<NodeId, Duration>>,
    pub(crate) conflicts: watch::Receiver<BTreeMap<NodeId, VersionConflict>>,
}

impl Handle {
    /// The nodes with which this node exchanges no frames because their versions are incompatible, and
    /// which of the two sides must change.
    pub fn version_conflicts(&self) -> watch::Receiver<BTreeMap<NodeId, VersionConflict>> {
        self.conflicts.clone()
    }

    /// Hands over messages that shards led by this node committed, for delivery to all interested nodes.
    /// The messages of one topic must be handed over in the order of their offsets.
    pub fn push_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        self.inbox.push_committed(messages);
    }

    /// Hands over topics that were purged or deleted in shards led by this node, after the messages that were committed
    /// before. Every subscriber of them gets a gap.
    pub fn push_removed(&self, topics: Vec<Topic>) {
        self.inbox.push_removed(topics);
    }

    /// Like [`Handle::push_committed`], but the messages wait for [`Handle::flush_committed`]. For callers
    /// that hold the lock which orders the messages.
    pub fn stage_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        self.inbox.stage_committed(messages);
    }

    /// Delivers the staged messages: on the caller's thread if the relay is idle, in which case the ports
    /// are called from here. The caller must not hold a lock that a port acquires.
    pub fn flush_committed(&self) {
        self.inbox.flush_committed();
    }

    /// Announces that this node leads a shard. Call it at each change, and again after the leadership was
    /// in doubt: then the topics of the shard are compared with their history.
    pub fn announce_claim(&self, claim: OwnershipClaim) {
        self.inbox.set_claim(claim.shard, Some(claim));
    }

    /// Announces that this node does not lead a shard any more, or that its leadership is in doubt. Its
    /// topics become stale unless [`Handle::announce_claim`] follows.
    pub fn revoke_claim(&self, shard: ShardId) {
        self.inbox.set_claim(shard, None);
    }

    /// Announces the leader and term that the replica of this node follows as a voter of the shard; `None` when it
    /// follows none, or is no voter. This node then vouches for the claim of that leader.
    pub fn observe_leader(&self, shard: ShardId, leader: Option<(NodeId, Term)>) {
        self.inbox.set_leader(shard, leader);
    }

    /// The shards of which this node could not confirm for [`Config::stale_after`](crate::Config::stale_after)
    /// that it has every message.
    pub fn stale_shards(&self) -> watch::Receiver<BTreeSet<ShardId>> {
        self.stale_shards.clone()
    }

    /// Publishes through the owner `owner`. The call itself takes the place in the link's queue, not the
    /// first poll, so that publishes keep the order of the calls.
    ///
    /// # Errors
    /// `Rejected` when nothing was published: there is no link to `owner`, too many publishes are pending,
    /// or `owner` rejected it. `Unknown` when it may have been published: the link broke, the shard's owner
    /// changed, or no answer came within the deadline.
    pub fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let (reply, response) = oneshot::channel();
        if !self.inbox.try_request(RelayRequest::Publish { owner, publish, reply }) {
            return async { Err(OverloadReason::PublishesToPeers.into()) }.boxed();
        }
        let relay_stopped = || Err(PublishError::unknown("the relay of this node has stopped"));
        async move { response.await.unwrap_or_else(|_| relay_stopped()) }.boxed()
    }

    /// Starts delivery of a topic to the sink. The answer is
    /// [`TopicSink::on_live`](crate::TopicSink::on_live).
    ///
    /// With `after`, a position that the cluster assigned, everything after it is delivered, or a gap;
    /// without it, only new messages. A call for a watched topic restarts it from `after`.
    pub fn watch(&self, topic: &Topic, after: Option<Position>) {
        self.inbox.set_watch(topic, Some(after));
    }

    /// Ends delivery of a topic to the sink, except for messages already on their way to it. The upstream
    /// subscription is kept some seconds longer, for watchers that return.
    pub fn unwatch(&self, topic: &Topic) {
        self.inbox.set_watch(topic, None);
    }

    /// Reads the history of a topic, from this node's own shards or from its upstream. While no upstream is
    /// known the request waits for one, up to the deadline.
    ///
    /// # Errors
    /// `FuturePosition` for a position that was never assigned; `Unavailable` when no answer came within
    /// the deadline, or too many requests are pending.
    pub fn fetch(
        &self,
        topic: Topic,
        range: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        let (reply, response) = oneshot::channel();
        if !self.inbox.try_request(RelayRequest::Fetch { topic, range, reply }) {
            return async { Err(UnavailableReason::TooManyFetches.into()) }.boxed();
        }
        let relay_stopped = || Err(UnavailableReason::Stopping.into());
        async move { response.await.unwrap_or_else(|_| relay_stopped()) }.boxed()
    }

    /// The number of sessions in the whole cluster that watch each topic. `None` for a topic that this node
    /// does not own, or has owned for so short a time that some counts may be missing. All are `None` when
    /// too many requests are pending.
    ///
    /// While all links hold, a count is at most two seconds old in a single region and four across regions.
    /// The count of a node is included until its link ends.
    pub async fn audience(&self, topics: Vec<Topic>) -> Vec<Option<u64>> {
        let unknown = vec![None; topics.len()];
        let (reply, response) = oneshot::channel();
        if !self.inbox.try_request(RelayRequest::Audience { topics, reply }) {
            return unknown;
        }
        response.await.unwrap_or(unknown)
    }

    /// The number of ticks of the relay task. Increases several times a second while the task makes progress.
    pub fn tick_count(&self) -> u64 {
        self.inbox.tick_count()
    }

    /// The owner of each shard, as far as this node knows.
    pub fn owners(&self) -> watch::Receiver<Arc<ShardOwners>> {
        self.owners.clone()
    }

    /// Announces to every peer, including those whose link comes up later, that this node is being stopped.
    /// The peers then transfer no shard to it.
    pub fn announce_stop(&self) {
        self.inbox.announce_stop();
    }

    /// The nodes that announced that they are being stopped, until their link ends.
    pub fn stopping(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.stopping.clone()
    }

    /// The newest round trip of each link that is up, once it was measured: two heartbeats after it came up.
    pub fn round_trips(&self) -> watch::Receiver<BTreeMap<NodeId, Duration>> {
        self.round_trips.clone()
    }

    /// The nodes to which a link is up, and this node.
    pub fn reachable(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.reachable.clone()
    }
}

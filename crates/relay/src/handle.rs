//! What the rest of the node says to its relay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    Acknowledgement, FetchError, HistoryPage, HistoryRange, Message, NodeId, OwnershipClaim,
    Position, Publish, PublishError, PublishRejection, ShardId, ShardOwners, Topic,
    VersionConflict,
};
use tokio::sync::{oneshot, watch};

use crate::inbox::{Inbox, RelayRequest};

/// Cheap to clone; no call blocks.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) owners: watch::Receiver<Arc<ShardOwners>>,
    pub(crate) reachable: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) stopping: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) conflicts: watch::Receiver<BTreeMap<NodeId, VersionConflict>>,
}

impl Handle {
    /// The nodes with which this node exchanges no frames because their versions do not fit, and which
    /// of the two has to change.
    pub fn version_conflicts(&self) -> watch::Receiver<BTreeMap<NodeId, VersionConflict>> {
        self.conflicts.clone()
    }

    /// These were committed, in this order, by shards that this node leads: they go to everyone who
    /// is interested. Messages of one topic must be handed over in the order of their offsets.
    pub fn push_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        self.inbox.push_committed(messages);
    }

    /// The same of messages that wait for [`Handle::flush_committed`]: for whoever holds a lock that keeps their
    /// order.
    pub fn stage_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        self.inbox.stage_committed(messages);
    }

    /// Passes on what was placed: here and now if the relay is at rest, so the ports are called from
    /// here. No lock may be held that one of them takes.
    pub fn flush_committed(&self) {
        self.inbox.flush_committed();
    }

    /// This node leads a shard. To be said at each change, and again when the lead was in doubt for
    /// a while: then the topics of the shard are compared with their history.
    pub fn announce_claim(&self, claim: OwnershipClaim) {
        self.inbox.set_claim(claim.shard, Some(claim));
    }

    /// This node does not lead a shard any more, or cannot be sure that it does: its topics are not
    /// vouched for until the next [`Handle::announce_claim`].
    pub fn revoke_claim(&self, shard: ShardId) {
        self.inbox.set_claim(shard, None);
    }

    /// Publishes at the owner `to`. The place in the link's queue is taken by the call, not by the
    /// first poll, so that publishes keep the order of the calls.
    ///
    /// # Errors
    /// `Backoff` when nothing happened: no link to `to`, too much under way, or what `to` says.
    /// `Unknown` when it may have: the link broke, the shard's owner changed, or no answer came
    /// within the deadline.
    pub fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let (reply, response) = oneshot::channel();
        if !self.inbox.try_request(RelayRequest::Publish { owner, publish, reply }) {
            let overloaded =
                PublishRejection::Overloaded("too many publishes wait for links".to_owned());
            return async move { Err(overloaded.into()) }.boxed();
        }
        let relay_stopped = || Err(PublishError::unknown("the relay of this node has ended"));
        async move { response.await.unwrap_or_else(|_| relay_stopped()) }.boxed()
    }

    /// The sink wants this topic from now on: the answer is [`TopicSink::live`](crate::TopicSink::on_live).
    ///
    /// With `after`, a position that the cluster gave out, everything after it follows, or a gap;
    /// without, whatever comes next. Said again for a watched topic, it begins anew from `after`.
    pub fn watch(&self, topic: &Topic, after: Option<Position>) {
        self.inbox.set_watch(topic, Some(after));
    }

    /// The sink wants this topic no more: nothing of it is delivered afterwards, save what is on its
    /// way to the sink already. Upstream it is followed some seconds longer, for those who return.
    pub fn unwatch(&self, topic: &Topic) {
        self.inbox.set_watch(topic, None);
    }

    /// Reads the past of a topic, from this node's own shards or over its upstream. While no
    /// upstream is known the question waits for one, up to the deadline.
    ///
    /// # Errors
    /// `FuturePosition` for a position that was never given out; `Unavailable` when nobody answered within
    /// the deadline, or too many questions are under way.
    pub fn fetch(
        &self,
        topic: Topic,
        range: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        let (reply, response) = oneshot::channel();
        if !self.inbox.try_request(RelayRequest::Fetch { topic, range, reply }) {
            let overloaded = FetchError::Unavailable("too many questions are under way".to_owned());
            return async move { Err(overloaded) }.boxed();
        }
        let relay_stopped =
            || Err(FetchError::Unavailable("the relay of this node has ended".to_owned()));
        async move { response.await.unwrap_or_else(|_| relay_stopped()) }.boxed()
    }

    /// How many sessions of the whole cluster watch each of the topics. None for one that this node does
    /// not own, or has owned for so short a time that others may not have said their counts yet; none of
    /// all of them when too many questions are under way.
    ///
    /// A count is some seconds old at most while all links hold: two where everything is one region,
    /// four across regions. What a node said counts until its link ends.
    pub async fn audience(&self, topics: Vec<Topic>) -> Vec<Option<u64>> {
        let unknown = vec![None; topics.len()];
        let (reply, response) = oneshot::channel();
        if !self.inbox.try_request(RelayRequest::Audience { topics, reply }) {
            return unknown;
        }
        response.await.unwrap_or(unknown)
    }

    /// Rises several times a second as long as the relay goes round and takes what it is told.
    pub fn tick_count(&self) -> u64 {
        self.inbox.tick_count()
    }

    /// Who leads each shard, as far as this node has heard.
    pub fn owners(&self) -> watch::Receiver<Arc<ShardOwners>> {
        self.owners.clone()
    }

    /// Tells every peer that this node is being stopped, also those whose link comes up later: they hand
    /// it no shard any more.
    pub fn announce_stop(&self) {
        self.inbox.announce_stop();
    }

    /// The nodes that have announced that they are being stopped, until their link ends.
    pub fn stopping(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.stopping.clone()
    }

    /// The nodes to which a link is up, and this node.
    pub fn reachable(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.reachable.clone()
    }
}

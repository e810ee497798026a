//! What the relay needs of the node around it: where its topics come from, and where they go.

use std::sync::Arc;

use futures::future::BoxFuture;
use pushonce_core::{
    Acknowledgement, FetchError, Gap, HistoryPage, HistoryRange, Message, NodeId, Position,
    Publish, PublishError, ShardId, SubscriberCount, Timestamp, Topic,
};

/// The shards that this node owns.
pub trait ShardSource: Send + Sync + 'static {
    /// Takes a publish that came over a link. Its place in the shard's queue is taken by the call,
    /// not by the first poll, so that publishes of one link keep their order. Refuses with
    /// `NotOwner` what is not owned here.
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;

    /// Reads the past of a topic from memory; does not block. Everything that was handed to
    /// [`Handle::committed`](crate::Handle::push_committed) or [`Handle::placed`](crate::Handle::stage_committed) is
    /// in the page already.
    ///
    /// # Errors
    /// `Unavailable` when this node does not lead the topic's shard; `FuturePosition` for a position that
    /// was never given out.
    fn read_history(&self, topic: &Topic, range: HistoryRange) -> Result<HistoryPage, FetchError>;

    /// The time of the newest entry of every shard that this node owns. Asked several times a second.
    fn log_times(&self) -> Vec<(ShardId, Timestamp)>;
}

/// The clocks of the nodes. Must not block.
pub trait Clocks: Send + Sync + 'static {
    /// What this node's clock shows now.
    fn local_time(&self) -> Timestamp;

    /// The clock of a peer shows this now, as far as the link brings it at once.
    fn on_peer_time(&self, node: NodeId, time: Timestamp);
}

/// The edge of this node. Calls come one at a time, in order; they must not block.
///
/// After `live(head)` the messages of a topic come in order, each exactly the next, or a `lost`
/// stands between.
pub trait TopicSink: Send + Sync + 'static {
    /// The topic is followed from here on: the first message to come is the one after `head`.
    /// Answers each [`Handle::watch`](crate::Handle::watch).
    fn on_live(&self, topic: &Topic, head: Position);

    /// The next messages of the topic; never empty.
    fn deliver(&self, topic: &Topic, messages: Vec<Arc<Message>>);

    /// The next messages of the topic are no more; what comes next follows `gap.to`.
    fn on_gap(&self, topic: &Topic, gap: Gap);

    /// For some seconds this node could not have heard of everything new in a topic that went live:
    /// its owner is out of reach, or in doubt. What is here already stands.
    fn on_stale(&self, topic: &Topic);

    /// That is over. What was missed meanwhile came already, or comes next. Of a topic that went live
    /// again nothing is said: it is fresh.
    fn on_fresh(&self, topic: &Topic);

    /// So many sessions of the whole cluster watch a topic of which one here asked that. Said once a
    /// second at most, and only when it changed.
    fn on_audience(&self, topic: &Topic, sessions: u64);

    /// The log of a shard has come to this time: the age of its messages is measured from their times
    /// to this one. Never less than before.
    fn on_log_time(&self, shard: ShardId, time: Timestamp);

    /// How many sessions there are here, of at most `topics_max` of the topics where that changed since it
    /// was said last; none when the last has gone. Asked several times a second: the answer must cost
    /// nothing for what did not change.
    fn take_changed_counts(&self, topics_max: usize) -> Vec<(Topic, SubscriberCount)>;
}

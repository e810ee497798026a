//! The ports through which the relay uses its node: the shards, the edge and the clocks.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use pushonce_core::{
    Acknowledgement, CommitAge, FetchError, Gap, HistoryPage, HistoryRange, Message, NodeId,
    Position, Publish, PublishError, ShardId, SubscriberCount, Timestamp, Topic,
};

/// The shards that this node owns.
pub trait ShardSource: Send + Sync + 'static {
    /// Submits a publish that arrived over a link. The call itself takes the place in the shard's queue,
    /// not the first poll, so that the publishes of one link keep their order. Fails with `NotOwner` when
    /// this node does not own the shard.
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;

    /// Reads the history of a topic from memory; does not block. The page includes everything that was
    /// passed to [`Handle::push_committed`](crate::Handle::push_committed) or
    /// [`Handle::stage_committed`](crate::Handle::stage_committed).
    ///
    /// # Errors
    /// `Unavailable` when this node does not lead the topic's shard; `FuturePosition` for a position that
    /// was never assigned.
    fn read_history(&self, topic: &Topic, range: HistoryRange) -> Result<HistoryPage, FetchError>;

    /// The log time of the newest entry of every shard that this node owns. Called several times a second.
    fn log_times(&self) -> Vec<(ShardId, Timestamp)>;
}

/// The clocks of the cluster's nodes. Implementations must not block.
pub trait Clocks: Send + Sync + 'static {
    /// The current time of this node's clock.
    fn local_time(&self) -> Timestamp;

    /// The time since an arbitrary start, including the time for which the machine was suspended.
    fn elapsed(&self) -> Duration;

    /// Reports the time of a peer's clock, as received over the link without correction for its latency.
    fn on_peer_time(&self, node: NodeId, time: Timestamp);
}

/// The edge of this node. Calls are made one at a time and in order, and must not block.
///
/// After [`TopicSink::on_live`] the messages of a topic arrive in order. Each message directly follows the
/// previous one, or a [`TopicSink::on_gap`] is called in between.
pub trait TopicSink: Send + Sync + 'static {
    /// The topic is followed from here on: the first message is the one after `head`. Answers each
    /// [`Handle::watch`](crate::Handle::watch).
    fn on_live(&self, topic: &Topic, head: Position);

    /// Delivers the next messages of the topic; never an empty batch. `age` is `None` for messages that were
    /// read from history, and while the way to the owner was not measured.
    fn deliver(&self, topic: &Topic, messages: Vec<Arc<Message>>, age: Option<CommitAge>);

    /// The next messages of the topic are no longer available; the next delivery follows `gap.to`.
    fn on_gap(&self, topic: &Topic, gap: Gap);

    /// Marks a live topic stale: for some seconds this node may have missed new messages, because the
    /// owner is unreachable or its ownership is in doubt. The messages delivered so far remain valid.
    fn on_stale(&self, topic: &Topic);

    /// Ends the stale state. Messages that were missed have been delivered or are delivered next. A topic
    /// that goes live again is fresh without this call.
    fn on_fresh(&self, topic: &Topic);

    /// Reports the number of sessions in the whole cluster that watch a topic. Called only for topics for
    /// which a session of this node requested it, at most once a second and only after a change.
    fn on_audience(&self, topic: &Topic, sessions: u64);

    /// Reports the log time of a shard, against which the age of its messages is measured. It never goes
    /// back.
    fn on_log_time(&self, shard: ShardId, time: Timestamp);

    /// Returns the session counts of at most `topics_max` topics whose count changed since the last call;
    /// the default count when the last session left. Called several times a second: topics without a
    /// change must cost nothing.
    fn take_changed_counts(&self, topics_max: usize) -> Vec<(Topic, SubscriberCount)>;
}

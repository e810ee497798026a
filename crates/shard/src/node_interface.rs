//! The traits that a node implements for its shards.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Message, NodeId, ShardId, Timestamp, Topic};

/// Receives committed messages.
pub trait CommitListener: Send + Sync + 'static {
    /// Receives the messages of one entry, in log order, entry after entry. Called only while this node
    /// leads the shard, or did a moment ago. While it leads, every message that is applied after a page was
    /// read here is passed to this method.
    ///
    /// Runs in the path of every publish of the shard: it must not block, and must not call the shard.
    fn on_committed(&self, shard: ShardId, messages: Vec<(Topic, Arc<Message>)>);

    /// Receives a message that the owner keeps in memory, under the lock that orders its topic.
    /// [`CommitListener::flush_placed`] follows, possibly once for several messages.
    fn on_placed_in_memory(&self, shard: ShardId, topic: Topic, message: Arc<Message>);

    /// Receives the topics that an entry purged or deleted, after the messages before that entry and before those after
    /// it. Called and bound as [`CommitListener::on_committed`].
    fn on_removed(&self, shard: ShardId, topics: Vec<Topic>);

    /// Delivers the messages placed in memory. Called without a lock: unlike the other methods, this one
    /// may call the shard.
    fn flush_placed(&self);
}

/// The clocks of the nodes, as far as this node knows them.
pub trait ClusterClock: Send + Sync + 'static {
    /// The wall-clock time of `node` now. `None` when `node` has reported no time for some seconds.
    fn reading(&self, node: NodeId) -> Option<Timestamp>;

    /// The time since an arbitrary moment before this process started, of a monotonic clock that cannot be
    /// set and includes the time for which the machine was suspended.
    fn elapsed(&self) -> Duration;
}

/// One clock for all nodes.
impl<F: Fn() -> Timestamp + Send + Sync + 'static> ClusterClock for F {
    fn reading(&self, _: NodeId) -> Option<Timestamp> {
        Some(self())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self().0)
    }
}

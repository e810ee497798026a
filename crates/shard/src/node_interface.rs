//! What a shard needs of the node around it.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Message, NodeId, ShardId, Timestamp, Topic};

/// Who is told of what was committed.
pub trait CommitListener: Send + Sync + 'static {
    /// Takes the messages of one entry, in log order, entry after entry. Called only while this node
    /// leads the shard, or did a moment ago; nothing that is applied after a page was read here is
    /// left out while it leads.
    ///
    /// Runs in the path of every publish of the shard: it must not block, and must not call the
    /// shard.
    fn on_committed(&self, shard: ShardId, messages: Vec<(Topic, Arc<Message>)>);

    /// Takes a message that the owner keeps in memory, under the lock that gives its topic an order.
    /// [`CommitListener::flush_placed`] follows, maybe one for several.
    fn on_placed_in_memory(&self, shard: ShardId, topic: Topic, message: Arc<Message>);

    /// Passes on what was placed. No lock is held: unlike the others this one may ask the shard.
    fn flush_placed(&self);
}

/// The clocks of the nodes, as far as this node knows them.
pub trait ClusterClock: Send + Sync + 'static {
    /// What the wall clock of `node` shows now. `NoFault` when nothing was heard of it for some seconds.
    fn reading(&self, node: NodeId) -> Option<Timestamp>;

    /// The time since some moment before this process started. Nobody can set it, and it counts the time
    /// for which the machine was suspended.
    fn elapsed(&self) -> Duration;
}

/// One clock that all nodes share.
impl<F: Fn() -> Timestamp + Send + Sync + 'static> ClusterClock for F {
    fn reading(&self, _: NodeId) -> Option<Timestamp> {
        Some(self())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self().0)
    }
}

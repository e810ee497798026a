//! What a shard needs of the node around it.

use std::sync::Arc;

use pushonce_core::{Message, ShardId, Timestamp, Topic};

/// Who is told of what was committed.
pub trait Committed: Send + Sync + 'static {
    /// Takes the messages of one entry, in log order, entry after entry. Called only while this node
    /// leads the shard, or did a moment ago; nothing that is applied after a page was read here is
    /// left out while it leads.
    ///
    /// Runs in the path of every publish of the shard: it must not block, and must not call the
    /// shard.
    fn committed(&self, shard: ShardId, messages: Vec<(Topic, Arc<Message>)>);

    /// Takes a message that the owner keeps in memory, under the lock that gives its topic an order.
    /// [`Committed::pass_on`] follows, maybe one for several.
    fn placed(&self, shard: ShardId, topic: Topic, message: Arc<Message>);

    /// Passes on what was placed. No lock is held: unlike the others this one may ask the shard.
    fn pass_on(&self);
}

/// Where the time of a message comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time now. It may jump; only the age bound of history notices.
    fn now(&self) -> Timestamp;
}

impl<F: Fn() -> Timestamp + Send + Sync + 'static> Clock for F {
    fn now(&self) -> Timestamp {
        self()
    }
}

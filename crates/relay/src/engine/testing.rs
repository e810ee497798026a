//! Fixtures shared by the tests of the engine.

use std::sync::Arc;

use pushonce_core::{ClusterView, Message, Placement, ShardCount, Timestamp, test_util};

/// The message at a position. Its payload is a function of the position, as in a real topic.
pub(crate) fn message(epoch: u64, offset: u64) -> Arc<Message> {
    let payload = format!("payload {epoch:06}:{offset:06}").into();
    Arc::new(Message { time: Timestamp(offset), payload, ..test_util::message(epoch, offset) })
}

/// A view of nodes 1, 2, 3, … in the given regions.
pub(crate) fn view(regions: &[&str]) -> ClusterView {
    let shards = ShardCount::new(SHARDS).expect("valid");
    let view = test_util::view_in_regions(regions);
    // Every node is a voter of every shard.
    let replicas = vec![view.members.keys().copied().collect(); SHARDS.into()];
    let placement = Placement { version: 1, replicas };
    ClusterView { shards, placement, ..view }
}

/// Two shards, so that the topics of a test share shards and each shard's ring is cheap to build.
const SHARDS: u16 = 2;

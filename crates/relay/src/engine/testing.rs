//! Values that the tests of the engine share.

use std::sync::Arc;

use pushonce_core::{ClusterView, Message, ShardCount, Timestamp, test_util};

/// The message at a position: its payload is a function of the position, as in a real topic.
pub(crate) fn message(epoch: u64, offset: u64) -> Arc<Message> {
    let payload = format!("payload {epoch:06}:{offset:06}").into();
    Arc::new(Message { time: Timestamp(offset), payload, ..test_util::message(epoch, offset) })
}

/// A view of the nodes 1, 2, 3 … in these regions.
pub(crate) fn view(regions: &[&str]) -> ClusterView {
    let shards = ShardCount::new(SHARDS).expect("valid");
    ClusterView { shards, ..test_util::view_in_regions(regions) }
}

/// Few, so that the topics of a test share shards and each shard's ring is cheap to make.
const SHARDS: u16 = 2;

//! What a relay is told at start.

use std::time::Duration;

use pushonce_core::{AgreedVersion, ClusterId, History, NodeId};
use pushonce_proto::peer::MESSAGE_OVERHEAD_BYTES;

use crate::send_queue::HEAVY_LOAD_DIVISOR;

/// Who this node is, and the bounds it keeps.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// Its cluster; a link to or from another is refused.
    pub cluster: ClusterId,
    /// The version in which it writes; a peer that cannot read it is refused.
    pub agreed_version: AgreedVersion,
    /// Bytes that may wait for one link. Over it the link is reset: the peer asks again from its
    /// position and gets the rest out of history, which is bounded already.
    pub link_bytes_max: usize,
    /// Bytes that may wait between the shards and the relay. Over it the waiting messages are
    /// dropped and the topics read again out of history.
    pub committed_bytes_max: usize,
    /// Publishes (and, apart from them, fetches) that may be under way from this node; the next is
    /// refused.
    pub pending_max: usize,
    /// Payload bytes of publishes that may be under way from this node. Well under
    /// `link_bytes_max`, so that publishes alone never reset a link.
    pub pending_bytes_max: usize,
    /// Topics that one peer may be interested in; a further interest is answered "not upstream".
    pub interests_max: usize,
    /// The newest messages kept of a topic while somebody watches it, to answer those who come
    /// back or come late.
    pub ring_count_max: usize,
    /// Their payload bytes; whichever bound is met first forgets the oldest.
    pub ring_bytes_max: usize,
    /// How often each link says where its topics stand.
    pub heartbeat_interval: Duration,
    /// A link without a word for so long is given up. Three heartbeats: one that comes late because
    /// a machine is busy is no reason.
    pub silence_timeout: Duration,
    /// The sink is told of topics of which this node could not have heard everything for so long.
    /// Longer than a dead owner is replaced in (2 s): a failover is nothing that clients need turn
    /// away for. Shorter than the 5 s within which they must know.
    pub stale_after: Duration,
    /// How long a topic is followed after its last watcher has gone.
    pub withdraw_after: Duration,
    /// How often what changed in how many watch a topic is said, at most.
    pub count_interval: Duration,
    /// How long a new owner waits for the counts of the others before it says a sum. More than two
    /// rounds: a count takes one to the head of a region, and one from there.
    pub count_settle_delay: Duration,
    /// How long to wait before asking again a node that could not answer.
    pub retry_after: Duration,
    /// After this a publish without answer is unknown.
    pub publish_timeout: Duration,
    /// How long an owner that handed a shard over may take to answer the publishes it has: a commit that
    /// was under way takes some milliseconds more. Then they are unknown.
    pub moved_publish_timeout: Duration,
    /// After this a fetch without answer is unavailable.
    pub fetch_timeout: Duration,
    /// How long a connection and its greeting may take.
    pub connect_timeout: Duration,
}

/// A page of the longest history fits, behind as much as may wait before pages are refused.
const LINK_BYTES_MAX: usize = 64 << 20;
const _: () = {
    let page = History::BYTES_CAP as usize + History::COUNT_CAP as usize * MESSAGE_OVERHEAD_BYTES;
    assert!(page <= LINK_BYTES_MAX - LINK_BYTES_MAX / HEAVY_LOAD_DIVISOR);
};

impl Config {
    /// The bounds of a node in a data centre.
    pub fn new(me: NodeId, cluster: ClusterId) -> Config {
        Config {
            me,
            cluster,
            agreed_version: AgreedVersion::default(),
            link_bytes_max: LINK_BYTES_MAX,
            committed_bytes_max: 64 << 20,
            pending_max: 65_536,
            pending_bytes_max: 16 << 20,
            interests_max: 1_000_000,
            ring_count_max: 128,
            ring_bytes_max: 256 << 10,
            heartbeat_interval: Duration::from_secs(1),
            silence_timeout: Duration::from_secs(3),
            stale_after: Duration::from_secs(3),
            withdraw_after: Duration::from_secs(5),
            count_interval: Duration::from_secs(1),
            count_settle_delay: Duration::from_secs(3),
            retry_after: Duration::from_millis(200),
            publish_timeout: Duration::from_secs(3),
            moved_publish_timeout: Duration::from_millis(300),
            fetch_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(2),
        }
    }
}

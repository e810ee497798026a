//! The configuration of a relay.

use std::time::Duration;

use pushonce_core::{History, NodeId};
use pushonce_proto::peer::MESSAGE_OVERHEAD_BYTES;

use crate::send_queue::HEAVY_LOAD_DIVISOR;

/// The identity of this node and the limits and intervals of its relay.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id of this node.
    pub me: NodeId,
    /// Maximum bytes queued for one link. Over it the link is reset: the peer asks again from its position
    /// and receives the remainder from history, which is bounded.
    pub link_bytes_max: usize,
    /// Maximum bytes queued between the shards and the relay. Over it the queued messages are dropped and
    /// the topics are read again from history.
    pub committed_bytes_max: usize,
    /// Maximum publishes of this node without an answer, and separately maximum fetches. Further ones are
    /// rejected.
    pub pending_max: usize,
    /// Maximum payload bytes of publishes of this node without an answer. Well below `link_bytes_max`, so
    /// that publishes alone never reset a link.
    pub pending_bytes_max: usize,
    /// Maximum topics that one peer may follow here. A further interest is answered "not upstream".
    pub interests_max: usize,
    /// Maximum recent messages kept in memory of each followed topic, to answer downstreams that resume or
    /// start late.
    pub ring_count_max: usize,
    /// Maximum payload bytes of these messages. The oldest are evicted when either limit is exceeded.
    pub ring_bytes_max: usize,
    /// Interval at which each link sends the heads of its topics.
    pub heartbeat_interval: Duration,
    /// A link that receives nothing for this long is closed. Three heartbeats, so that one heartbeat
    /// delayed by a busy machine does not close it.
    pub silence_timeout: Duration,
    /// Age after which a topic is reported stale to the sink. Longer than the 2 s within which a dead owner
    /// is replaced, so that a failover does not disturb clients; shorter than the 5 s within which clients
    /// must be notified.
    pub stale_after: Duration,
    /// How long a topic is still followed after its last watcher left.
    pub withdraw_after: Duration,
    /// Minimum interval between two reports of changed session counts.
    pub count_interval: Duration,
    /// How long a new owner waits for the counts of the other nodes before it reports a sum. More than two
    /// count intervals: a count needs one to the region head and one from there to the owner.
    pub count_settle_delay: Duration,
    /// Delay before a peer that could not answer is asked again.
    pub retry_after: Duration,
    /// A publish without an answer ends as unknown after this time.
    pub publish_timeout: Duration,
    /// How long a former owner may take to answer the publishes that it received. A commit in progress needs
    /// some milliseconds more. After that they end as unknown.
    pub moved_publish_timeout: Duration,
    /// A fetch without an answer ends as unavailable after this time.
    pub fetch_timeout: Duration,
}

/// A page of the longest history fits in addition to the load at which pages are deferred.
const LINK_BYTES_MAX: usize = 64 << 20;
const _: () = {
    let page = History::BYTES_CAP as usize + History::COUNT_CAP as usize * MESSAGE_OVERHEAD_BYTES;
    assert!(page <= LINK_BYTES_MAX - LINK_BYTES_MAX / HEAVY_LOAD_DIVISOR);
};

impl Config {
    /// The defaults for a node in a data centre.
    pub fn new(me: NodeId) -> Config {
        Config {
            me,
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
        }
    }
}

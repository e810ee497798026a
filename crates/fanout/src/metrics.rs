//! The metrics of the fan-out. No label names a topic: there may be a million.

use metrics::{Counter, Gauge, counter, gauge};
use pushonce_core::GapReason;

/// The metrics of one hub, as handles, so that the hot path performs no lookups.
pub(crate) struct FanoutMetrics {
    /// Frames accepted by sinks and messages read by readers.
    pub(crate) deliveries: Counter,
    /// Entries added to the queues of lanes.
    pub(crate) wakes: Counter,
    /// History requests to upstream.
    pub(crate) fetches: Counter,
    /// Topics with subscribers on this node.
    pub(crate) topics: Gauge,
    /// Open sessions of all lanes.
    pub(crate) sessions: Gauge,
    /// Subscriptions of all sessions.
    pub(crate) subscriptions: Gauge,
    expired: Counter,
    epoch: Counter,
    slow: Counter,
    conflated: Counter,
}

impl FanoutMetrics {
    pub(crate) fn new() -> FanoutMetrics {
        let gap_counter =
            |reason: GapReason| counter!("pushonce_fanout_gaps_total", "reason" => reason.as_str());
        FanoutMetrics {
            deliveries: counter!("pushonce_fanout_deliveries_total"),
            wakes: counter!("pushonce_fanout_wakes_total"),
            fetches: counter!("pushonce_fanout_fetches_total"),
            topics: gauge!("pushonce_fanout_topics"),
            sessions: gauge!("pushonce_fanout_sessions"),
            subscriptions: gauge!("pushonce_fanout_subscriptions"),
            expired: gap_counter(GapReason::Expired),
            epoch: gap_counter(GapReason::Epoch),
            slow: gap_counter(GapReason::Slow),
            conflated: gap_counter(GapReason::Conflated),
        }
    }

    /// Counts a gap that was delivered to a subscriber.
    pub(crate) fn record_gap(&self, reason: GapReason) {
        match reason {
            GapReason::Expired => self.expired.increment(1),
            GapReason::Epoch => self.epoch.increment(1),
            GapReason::Slow => self.slow.increment(1),
            GapReason::Conflated => self.conflated.increment(1),
        }
    }
}

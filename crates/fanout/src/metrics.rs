//! What the fan-out counts. No label names a topic: there may be a million.

use metrics::{Counter, Gauge, counter, gauge};
use pushonce_core::GapReason;

/// The meters of one hub. Handles, taken once: the hot path looks nothing up.
pub(crate) struct FanoutMetrics {
    /// Frames taken by outlets and messages taken by readers.
    pub(crate) deliveries: Counter,
    /// Entries put into lanes' queues.
    pub(crate) wakes: Counter,
    /// Questions about the past that climbed.
    pub(crate) fetches: Counter,
    /// Topics with local interest.
    pub(crate) topics: Gauge,
    /// Open sessions of all lanes.
    pub(crate) sessions: Gauge,
    /// Their subscriptions.
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

    /// A gap was told to a subscriber.
    pub(crate) fn record_gap(&self, reason: GapReason) {
        match reason {
            GapReason::Expired => self.expired.increment(1),
            GapReason::Epoch => self.epoch.increment(1),
            GapReason::Slow => self.slow.increment(1),
            GapReason::Conflated => self.conflated.increment(1),
        }
    }
}

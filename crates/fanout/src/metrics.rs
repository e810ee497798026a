//! Metrics of the fan-out. No label names a topic: there may be a million.

use pushonce_core::GapReason;
use pushonce_telemetry::{Counter, Gauge, Metric};

/// Every metric of this crate.
pub const METRICS: &[Metric] =
    &[DELIVERIES, WAKEUPS, FETCHES, TOPICS, SESSIONS, SUBSCRIPTIONS, GAPS];

const DELIVERIES: Metric = Metric::counter(
    "pushonce_fanout_deliveries_total",
    "Frames handed to sessions, and messages handed to gRPC subscribers.",
);

const WAKEUPS: Metric = Metric::counter(
    "pushonce_fanout_wakeups_total",
    "Topics queued for a lane because a message arrived.",
);

const FETCHES: Metric = Metric::counter(
    "pushonce_fanout_fetches_total",
    "History requests that the fan-out could not answer from its buffers.",
);

const TOPICS: Metric =
    Metric::gauge("pushonce_fanout_topics", "Topics with at least one subscription on this node.");

const SESSIONS: Metric = Metric::gauge("pushonce_fanout_sessions", "Open sessions of all lanes.");

const SUBSCRIPTIONS: Metric =
    Metric::gauge("pushonce_fanout_subscriptions", "Subscriptions of the open sessions.");

const GAPS: Metric = Metric::counter(
    "pushonce_fanout_gaps_total",
    "Gaps reported to subscribers, by reason: expired, epoch, slow or conflated.",
)
.with_labels(&["reason"]);

/// The handles of one hub, taken once: the hot path looks nothing up.
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
        let gap_counter = |reason: GapReason| GAPS.register_counter(&[reason.as_str()]);
        FanoutMetrics {
            deliveries: DELIVERIES.register_counter(&[]),
            wakes: WAKEUPS.register_counter(&[]),
            fetches: FETCHES.register_counter(&[]),
            topics: TOPICS.register_gauge(&[]),
            sessions: SESSIONS.register_gauge(&[]),
            subscriptions: SUBSCRIPTIONS.register_gauge(&[]),
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

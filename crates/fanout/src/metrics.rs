//! The metrics of the fan-out. No label names a topic: there may be a million.

use pushonce_core::GapReason;
use pushonce_telemetry::{Counter, Gauge, Histogram, Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] =
    &[DELIVERIES, WAKEUPS, FETCHES, TOPICS, SESSIONS, SUBSCRIPTIONS, GAPS, DELIVERY, TURN];

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

/// A walk over one subscriber takes some 5 µs, over the 100,000 of a full lane half a second.
const DELIVERY_BUCKETS: &[f64] =
    &[0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];

const DELIVERY: Metric = Metric::histogram(
    "pushonce_fanout_delivery_seconds",
    DELIVERY_BUCKETS,
    "Time from the wake-up of a lane for a new message until the message has been offered to the sockets \
     of all subscribers of its topic on that lane that keep up. One observation per topic and lane, not per \
     subscriber; messages that arrive together share one.",
)
.with_unit(Unit::Seconds);

/// A turn is bounded to about a millisecond; above 10 ms sockets wait noticeably to be read.
const TURN_BUCKETS: &[f64] =
    &[0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25];

const TURN: Metric = Metric::histogram(
    "pushonce_fanout_turn_seconds",
    TURN_BUCKETS,
    "Time of one turn of a lane's delivery loop, in which nothing else runs on the lane.",
)
.with_unit(Unit::Seconds);

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
    /// From a wake-up to the end of the walk over the topic's subscribers.
    pub(crate) delivery_seconds: Histogram,
    pub(crate) turn_seconds: Histogram,
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
            delivery_seconds: DELIVERY.register_histogram(&[]),
            turn_seconds: TURN.register_histogram(&[]),
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

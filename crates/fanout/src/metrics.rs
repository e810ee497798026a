//! The metrics of the fan-out. No label names a topic: there may be a million.

use std::time::Duration;

use pushonce_core::GapReason;
use pushonce_telemetry::{Counter, Gauge, Histogram, Metric, Unit};
use tokio::time::Instant;

use crate::topic_buffer::{ArrivalAge, MessageArrival};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[
    DELIVERIES,
    WAKEUPS,
    FETCHES,
    TOPICS,
    SESSIONS,
    SUBSCRIPTIONS,
    GAPS,
    DELIVERY,
    DELIVERY_LAG,
    TURN,
];

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

const SUBSCRIPTIONS: Metric = Metric::gauge(
    "pushonce_fanout_subscriptions",
    "Open subscriptions, by transport: websocket, webtransport, quic, sse or grpc.",
)
.with_labels(&["transport"]);

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
    "Time from the arrival of a message at the fan-out of this node until it was offered to the sockets of \
     all subscribers of its topic on a lane that keep up. One observation per topic and lane, not per \
     subscriber; messages that are delivered together share one, that of the oldest.",
)
.with_unit(Unit::Seconds);

/// Within a node a message takes 0.1 ms, to another continent 200 ms; a node without contact to the owner for
/// 3 s reports the topic as stale.
const DELIVERY_LAG_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0,
    10.0,
];

const DELIVERY_LAG: Metric = Metric::histogram(
    "pushonce_fanout_delivery_lag_seconds",
    DELIVERY_LAG_BUCKETS,
    "Time from the commit of a message at its owner until it was offered to the sockets, observed as \
     pushonce_fanout_delivery_seconds, by owner: local (this node, measured by one clock) or remote (another \
     node: the time on each node is measured, the time on a link is estimated as half of its newest round \
     trip). Messages read from history are not observed.",
)
.with_labels(&["owner"])
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

/// The gauge of the subscriptions of one transport.
pub(crate) fn subscription_gauge(transport: &str) -> Gauge {
    SUBSCRIPTIONS.register_gauge(&[transport])
}

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
    /// Open readers.
    pub(crate) readers: Gauge,
    delivery_seconds: Histogram,
    local_lag_seconds: Histogram,
    remote_lag_seconds: Histogram,
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
            readers: subscription_gauge("grpc"),
            delivery_seconds: DELIVERY.register_histogram(&[]),
            local_lag_seconds: DELIVERY_LAG.register_histogram(&["local"]),
            remote_lag_seconds: DELIVERY_LAG.register_histogram(&["remote"]),
            turn_seconds: TURN.register_histogram(&[]),
            expired: gap_counter(GapReason::Expired),
            epoch: gap_counter(GapReason::Epoch),
            slow: gap_counter(GapReason::Slow),
            conflated: gap_counter(GapReason::Conflated),
        }
    }

    /// Records that messages were offered to the subscribers of their topic on one lane.
    pub(crate) fn record_delivery(&self, arrival: MessageArrival, now: Instant) {
        let since_arrival = now - arrival.at;
        self.delivery_seconds.record(since_arrival);
        let (lag_seconds, micros) = match arrival.age {
            ArrivalAge::Unknown => return,
            ArrivalAge::Local(micros) => (&self.local_lag_seconds, micros),
            ArrivalAge::Remote(micros) => (&self.remote_lag_seconds, micros),
        };
        lag_seconds.record(Duration::from_micros(micros.into()) + since_arrival);
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

//! Metrics of publishes, by outcome.

use std::time::Duration;

use pushonce_core::{Acknowledgement, PublishError, PublishRejection};
use pushonce_telemetry::{Counter, Histogram, Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[PUBLISHES, LATENCY, IDLE_CLOSED];

const PUBLISHES: Metric = Metric::counter(
    "pushonce_publishes_total",
    "Publishes received from clients of this node, by outcome: acknowledged, invalid, not_allowed, \
     out_of_sequence, overloaded, too_many_topics, unavailable or unknown.",
)
.with_labels(&["outcome"]);

/// A publish into memory takes some 0.1 ms, through the log of three nodes some ms, over an election some s.
const LATENCY_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

const LATENCY: Metric = Metric::histogram(
    "pushonce_publish_grpc_seconds",
    LATENCY_BUCKETS,
    "Time from the receipt of a gRPC publish to its acknowledgement or rejection, by call: unary or stream. \
     The replies of a stream are in order, so the time includes the wait for the replies before.",
)
.with_labels(&["call"])
.with_unit(Unit::Seconds);

pub(crate) const IDLE_CLOSED: Metric = Metric::counter(
    "pushonce_publish_idle_connections_closed_total",
    "gRPC connections that were closed because they had no call for five to ten minutes.",
);

/// One counter handle for each outcome: a lookup costs as much as the rest of the routing.
pub(crate) struct PublishMetrics {
    acknowledged: Counter,
    invalid: Counter,
    not_allowed: Counter,
    out_of_sequence: Counter,
    overloaded: Counter,
    too_many_topics: Counter,
    unavailable: Counter,
    unknown: Counter,
    unary_seconds: Histogram,
    stream_seconds: Histogram,
}

impl PublishMetrics {
    pub(crate) fn new() -> PublishMetrics {
        let outcome_counter = |outcome| PUBLISHES.register_counter(&[outcome]);
        PublishMetrics {
            acknowledged: outcome_counter("acknowledged"),
            invalid: outcome_counter("invalid"),
            not_allowed: outcome_counter("not_allowed"),
            out_of_sequence: outcome_counter("out_of_sequence"),
            overloaded: outcome_counter("overloaded"),
            too_many_topics: outcome_counter("too_many_topics"),
            unavailable: outcome_counter("unavailable"),
            unknown: outcome_counter("unknown"),
            unary_seconds: LATENCY.register_histogram(&["unary"]),
            stream_seconds: LATENCY.register_histogram(&["stream"]),
        }
    }

    /// A unary gRPC publish took this long.
    pub(crate) fn record_unary(&self, elapsed: Duration) {
        self.unary_seconds.record(elapsed);
    }

    /// The histogram of the publishes on gRPC streams.
    pub(crate) fn stream_latency(&self) -> Histogram {
        self.stream_seconds.clone()
    }

    pub(crate) fn record(&self, result: &Result<Acknowledgement, PublishError>) {
        let counter = match result {
            Ok(_) => &self.acknowledged,
            Err(PublishError::Unknown { .. }) => &self.unknown,
            Err(PublishError::Rejected(rejection)) => match rejection {
                PublishRejection::Invalid(_) => &self.invalid,
                PublishRejection::NotAllowed(_) => &self.not_allowed,
                PublishRejection::OutOfSequence { .. } => &self.out_of_sequence,
                PublishRejection::Overloaded(_) => &self.overloaded,
                PublishRejection::TooManyTopics(_) => &self.too_many_topics,
                PublishRejection::NotOwner { .. } | PublishRejection::Unavailable(_) => {
                    &self.unavailable
                }
            },
        };
        counter.increment(1);
    }
}

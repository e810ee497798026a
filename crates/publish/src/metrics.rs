//! Metrics of publishes, by outcome.

use pushonce_core::{Acknowledgement, PublishError, PublishRejection};
use pushonce_telemetry::{Counter, Metric};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[PUBLISHES];

const PUBLISHES: Metric = Metric::counter(
    "pushonce_publishes_total",
    "Publishes received from clients of this node, by outcome: acknowledged, invalid, out_of_sequence, \
     overloaded, too_many_topics, unavailable or unknown.",
)
.with_labels(&["outcome"]);

/// One counter handle for each outcome: a lookup costs as much as the rest of the routing.
pub(crate) struct PublishMetrics {
    acknowledged: Counter,
    invalid: Counter,
    out_of_sequence: Counter,
    overloaded: Counter,
    too_many_topics: Counter,
    unavailable: Counter,
    unknown: Counter,
}

impl PublishMetrics {
    pub(crate) fn new() -> PublishMetrics {
        let outcome_counter = |outcome| PUBLISHES.register_counter(&[outcome]);
        PublishMetrics {
            acknowledged: outcome_counter("acknowledged"),
            invalid: outcome_counter("invalid"),
            out_of_sequence: outcome_counter("out_of_sequence"),
            overloaded: outcome_counter("overloaded"),
            too_many_topics: outcome_counter("too_many_topics"),
            unavailable: outcome_counter("unavailable"),
            unknown: outcome_counter("unknown"),
        }
    }

    pub(crate) fn record(&self, result: &Result<Acknowledgement, PublishError>) {
        let counter = match result {
            Ok(_) => &self.acknowledged,
            Err(PublishError::Unknown { .. }) => &self.unknown,
            Err(PublishError::Rejected(rejection)) => match rejection {
                PublishRejection::Invalid(_) => &self.invalid,
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

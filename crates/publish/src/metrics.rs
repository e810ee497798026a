//! How publishes end, counted by outcome: `pushonce_publish_total`.

use metrics::{Counter, counter, describe_counter};
use pushonce_core::{Placed, PublishError, Refusal};

/// One counter for each outcome, looked up once: a look-up costs as much as the rest of the
/// routing.
pub(crate) struct Outcomes {
    acknowledged: Counter,
    invalid: Counter,
    out_of_sequence: Counter,
    overloaded: Counter,
    too_many_topics: Counter,
    unavailable: Counter,
    unknown: Counter,
}

impl Outcomes {
    pub(crate) fn new() -> Outcomes {
        describe_counter!("pushonce_publish_total", "Publishes taken in by this node, by outcome.");
        let of = |outcome: &'static str| counter!("pushonce_publish_total", "outcome" => outcome);
        Outcomes {
            acknowledged: of("acknowledged"),
            invalid: of("invalid"),
            out_of_sequence: of("out_of_sequence"),
            overloaded: of("overloaded"),
            too_many_topics: of("too_many_topics"),
            unavailable: of("unavailable"),
            unknown: of("unknown"),
        }
    }

    pub(crate) fn count(&self, result: &Result<Placed, PublishError>) {
        let counter = match result {
            Ok(_) => &self.acknowledged,
            Err(PublishError::Unknown { .. }) => &self.unknown,
            Err(PublishError::Refused(refusal)) => match refusal {
                Refusal::Invalid(_) => &self.invalid,
                Refusal::OutOfSequence { .. } => &self.out_of_sequence,
                Refusal::Overloaded(_) => &self.overloaded,
                Refusal::TooManyTopics(_) => &self.too_many_topics,
                Refusal::NotOwner { .. } | Refusal::Unavailable(_) => &self.unavailable,
            },
        };
        counter.increment(1);
    }
}

//! Metrics of publishes in a shard's queue and log.

use pushonce_core::{Acknowledgement, PublishError};
use pushonce_telemetry::{Counter, Histogram, Metric};

/// Every metric of this crate.
pub const METRICS: &[Metric] =
    &[PROPOSAL_MESSAGES, ENTRIES, PUBLISHES, QUEUE_REJECTIONS, MEMORY_REJECTIONS];

/// Up to the bound of an entry, 4,096 messages.
const PROPOSAL_BUCKETS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

const PROPOSAL_MESSAGES: Metric = Metric::histogram(
    "pushonce_shard_proposal_messages",
    PROPOSAL_BUCKETS,
    "Messages in one proposal, that is, publishes that share one log entry.",
);

const ENTRIES: Metric =
    Metric::counter("pushonce_shard_entries_total", "Log entries that this node proposed.");

const PUBLISHES: Metric = Metric::counter(
    "pushonce_shard_publishes_total",
    "Publishes that this node proposed as owner, by outcome: acknowledged, rejected or unknown.",
)
.with_labels(&["outcome"]);

const QUEUE_REJECTIONS: Metric = Metric::counter(
    "pushonce_shard_queue_rejections_total",
    "Publishes rejected because the queue of a shard was full, by the bound that was reached: count or bytes.",
)
.with_labels(&["bound"]);

pub(crate) const MEMORY_REJECTIONS: Metric = Metric::counter(
    "pushonce_shard_memory_rejections_total",
    "Publishes rejected because the owner is near its memory limit, by what it refuses: new_topic or publish.",
)
.with_labels(&["refused"]);

/// The handles of one shard, taken once.
pub(crate) struct ShardMetrics {
    proposal_messages: Histogram,
    entries: Counter,
    acknowledged: Counter,
    rejected: Counter,
    unknown: Counter,
}

impl ShardMetrics {
    pub(crate) fn new() -> ShardMetrics {
        let outcome_counter = |outcome| PUBLISHES.register_counter(&[outcome]);
        ShardMetrics {
            proposal_messages: PROPOSAL_MESSAGES.register_histogram(&[]),
            entries: ENTRIES.register_counter(&[]),
            acknowledged: outcome_counter("acknowledged"),
            rejected: outcome_counter("rejected"),
            unknown: outcome_counter("unknown"),
        }
    }

    /// One entry was proposed and its publishes ended like this.
    pub(crate) fn record_entry(&self, outcomes: &[Result<Acknowledgement, PublishError>]) {
        self.entries.increment(1);
        self.proposal_messages.record(outcomes.len() as f64);
        let (mut acknowledged, mut rejected, mut unknown) = (0, 0, 0);
        for outcome in outcomes {
            match outcome {
                Ok(_) => acknowledged += 1,
                Err(PublishError::Rejected(_)) => rejected += 1,
                Err(PublishError::Unknown { .. }) => unknown += 1,
            }
        }
        self.acknowledged.increment(acknowledged);
        self.rejected.increment(rejected);
        self.unknown.increment(unknown);
    }
}

/// A publish was rejected because the queue had reached this bound.
pub(crate) fn count_queue_rejection(bound: &str) {
    QUEUE_REJECTIONS.register_counter(&[bound]).increment(1);
}

//! The constants that take part in applying an entry. They belong to the cluster version: two replicas
//! that applied one entry with different constants would have different states.
//!
//! A build that changes one of them adds a set of rules for its newest version, and keeps the sets of all
//! versions before: entries of any may still lie in a log.

use pushonce_core::{ClusterVersion, VersionRange};

use crate::{dedupe_keys, dropped_topics, log_clock, producers, state};

/// One set of constants. Each is explained where it is defined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShardRules {
    /// How many topics an entry with messages looks at beside its own.
    pub(crate) sweep_topics_per_entry: usize,
    /// How many topics an entry without messages looks at.
    pub(crate) sweep_topics_per_empty_entry: usize,
    /// How many names of messages a shard remembers.
    pub(crate) keys_max: usize,
    /// How many bytes they may take.
    pub(crate) key_bytes_max: usize,
    /// What a name takes of them beside its letters.
    pub(crate) key_overhead_bytes: usize,
    /// How many places are remembered of one producer.
    pub(crate) records_per_producer_max: usize,
    /// And of all producers of a shard.
    pub(crate) records_max: usize,
    /// What the topics of producers that are followed may take, in bytes.
    pub(crate) tracked_bytes_max: usize,
    /// What a topic of a producer takes of them beside its name.
    pub(crate) tracked_topic_overhead_bytes: usize,
    /// How many producers that may have rested long enough an entry looks at.
    pub(crate) idle_checks_per_entry: usize,
    /// How many dropped topics are remembered one by one.
    pub(crate) dropped_topics_max: usize,
    /// How long what makes retries safe is kept, in milliseconds.
    pub(crate) dedupe_window_ms: u64,
    /// The most that one step between two entries counts for, in milliseconds.
    pub(crate) clock_step_max_ms: u64,
}

const FIRST: ShardRules = ShardRules {
    sweep_topics_per_entry: state::SWEEP_TOPICS_PER_ENTRY,
    sweep_topics_per_empty_entry: state::SWEEP_TOPICS_PER_EMPTY_ENTRY,
    keys_max: dedupe_keys::KEYS_MAX,
    key_bytes_max: dedupe_keys::KEY_BYTES_MAX,
    key_overhead_bytes: dedupe_keys::KEY_OVERHEAD_BYTES,
    records_per_producer_max: producers::RECORDS_PER_PRODUCER_MAX,
    records_max: producers::RECORDS_MAX,
    tracked_bytes_max: producers::TRACKED_BYTES_MAX,
    tracked_topic_overhead_bytes: producers::TRACKED_TOPIC_OVERHEAD_BYTES,
    idle_checks_per_entry: producers::IDLE_CHECKS_PER_ENTRY,
    dropped_topics_max: dropped_topics::DROPPED_TOPICS_MAX,
    dedupe_window_ms: log_clock::DEDUPE_WINDOW_MS,
    clock_step_max_ms: log_clock::CLOCK_STEP_MAX_MS,
};

/// Of the version that tests of upgrades add: a replica that applied its entries with the rules before
/// would sweep other topics, and have another digest.
const NEXT: ShardRules =
    ShardRules { sweep_topics_per_entry: 17, keys_max: FIRST.keys_max / 2, ..FIRST };

impl ShardRules {
    /// The rules of a version.
    pub(crate) fn for_version(version: ClusterVersion) -> &'static ShardRules {
        match VersionRange::HAS_TEST_VERSIONS && version > ClusterVersion::FIRST {
            true => &NEXT,
            // The only set of released versions.
            false => &FIRST,
        }
    }
}

/// The rules of a state without entries.
impl Default for &'static ShardRules {
    fn default() -> &'static ShardRules {
        ShardRules::for_version(ClusterVersion::FIRST)
    }
}

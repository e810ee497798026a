//! The constants that determine how an entry is applied. They belong to the cluster version: two replicas
//! that applied one entry with different constants would have different states.
//!
//! A build that changes one of them adds a set of rules for its newest version and keeps the sets of all
//! versions before: a log may still hold entries of any version.

use pushonce_core::{ClusterVersion, VersionRange};

use crate::{dedupe_keys, dropped_topics, log_clock, producers, state};

/// One set of constants. Each is explained where it is defined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShardRules {
    /// Number of topics swept by an entry with messages.
    pub(crate) sweep_topics_per_entry: usize,
    /// Number of topics swept by an entry without messages.
    pub(crate) sweep_topics_per_empty_entry: usize,
    /// Maximum number of keys a shard remembers.
    pub(crate) keys_max: usize,
    /// Maximum memory of the keys, in bytes.
    pub(crate) key_bytes_max: usize,
    /// Bytes a key takes beside its text.
    pub(crate) key_overhead_bytes: usize,
    /// Bytes that the first key of a topic needs besides.
    pub(crate) keyed_topic_overhead_bytes: usize,
    /// Maximum number of records of one producer.
    pub(crate) records_per_producer_max: usize,
    /// Maximum number of records of all producers of a shard.
    pub(crate) records_max: usize,
    /// Maximum memory of the topics of tracked producers, in bytes.
    pub(crate) tracked_bytes_max: usize,
    /// Bytes a topic of a producer takes beside its name.
    pub(crate) tracked_topic_overhead_bytes: usize,
    /// Maximum number of idle producers checked by one entry.
    pub(crate) idle_checks_per_entry: usize,
    /// Maximum number of dropped topics remembered by name.
    pub(crate) dropped_topics_max: usize,
    /// Deduplication window, in milliseconds.
    pub(crate) dedupe_window_ms: u64,
    /// Maximum advance of the deduplication clock between two entries, in milliseconds.
    pub(crate) clock_step_max_ms: u64,
}

const FIRST: ShardRules = ShardRules {
    sweep_topics_per_entry: state::SWEEP_TOPICS_PER_ENTRY,
    sweep_topics_per_empty_entry: state::SWEEP_TOPICS_PER_EMPTY_ENTRY,
    keys_max: dedupe_keys::KEYS_MAX,
    key_bytes_max: dedupe_keys::KEY_BYTES_MAX,
    key_overhead_bytes: dedupe_keys::KEY_OVERHEAD_BYTES,
    keyed_topic_overhead_bytes: dedupe_keys::KEYED_TOPIC_OVERHEAD_BYTES,
    records_per_producer_max: producers::RECORDS_PER_PRODUCER_MAX,
    records_max: producers::RECORDS_MAX,
    tracked_bytes_max: producers::TRACKED_BYTES_MAX,
    tracked_topic_overhead_bytes: producers::TRACKED_TOPIC_OVERHEAD_BYTES,
    idle_checks_per_entry: producers::IDLE_CHECKS_PER_ENTRY,
    dropped_topics_max: dropped_topics::DROPPED_TOPICS_MAX,
    dedupe_window_ms: log_clock::DEDUPE_WINDOW_MS,
    clock_step_max_ms: log_clock::CLOCK_STEP_MAX_MS,
};

/// The rules of the version that upgrade tests add. A replica that applied its entries with the earlier
/// rules would sweep other topics and have another digest.
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

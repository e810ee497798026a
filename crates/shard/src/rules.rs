//! The constants that take part in applying an entry. They belong to the cluster version: two replicas
//! that applied one entry with different constants would have different states.
//!
//! A build that changes one of them adds a set of rules for its newest version, and keeps the sets of all
//! versions before: entries of any may still lie in a log.

use pushonce_core::ClusterVersion;

use crate::{ended, keys, passing, producers, state};

/// One set of constants. Each is explained where it is defined.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How many topics an entry with messages looks at beside its own.
    pub(crate) swept_per_entry: usize,
    /// How many topics an entry without messages looks at.
    pub(crate) swept_per_empty_entry: usize,
    /// How many names of messages a shard remembers.
    pub(crate) names_max: usize,
    /// How many bytes they may take.
    pub(crate) name_bytes_max: usize,
    /// What a name takes of them beside its letters.
    pub(crate) name_overhead_bytes: usize,
    /// How many places are remembered of one producer.
    pub(crate) places_per_producer_max: usize,
    /// And of all producers of a shard.
    pub(crate) places_max: usize,
    /// What the topics of producers that are followed may take, in bytes.
    pub(crate) followed_bytes_max: usize,
    /// What a topic of a producer takes of them beside its name.
    pub(crate) followed_topic_bytes: usize,
    /// How many producers that may have rested long enough an entry looks at.
    pub(crate) rested_per_entry: usize,
    /// How many dropped topics are remembered one by one.
    pub(crate) ended_topics_max: usize,
    /// How long what makes retries safe is kept, in milliseconds.
    pub(crate) window_ms: u64,
    /// The most that one step between two entries counts for, in milliseconds.
    pub(crate) step_max_ms: u64,
}

const FIRST: Rules = Rules {
    swept_per_entry: state::SWEPT_PER_ENTRY,
    swept_per_empty_entry: state::SWEPT_PER_EMPTY_ENTRY,
    names_max: keys::COUNT_MAX,
    name_bytes_max: keys::BYTES_MAX,
    name_overhead_bytes: keys::OVERHEAD_BYTES,
    places_per_producer_max: producers::PLACES_OF_ONE,
    places_max: producers::PLACES_MAX,
    followed_bytes_max: producers::FOLLOWED_BYTES_MAX,
    followed_topic_bytes: producers::FOLLOWED_BYTES,
    rested_per_entry: producers::LOOKED_AT_PER_ENTRY,
    ended_topics_max: ended::KNOWN_MAX,
    window_ms: passing::WINDOW_MS,
    step_max_ms: passing::STEP_MAX_MS,
};

/// Of the version that tests of upgrades add: a replica that applied its entries with the rules before
/// would sweep other topics, and have another digest.
#[cfg(feature = "next-version")]
const NEXT: Rules = Rules { swept_per_entry: 17, names_max: FIRST.names_max / 2, ..FIRST };

impl Rules {
    /// The rules of a version.
    pub(crate) fn of(version: ClusterVersion) -> &'static Rules {
        #[cfg(feature = "next-version")]
        if version > ClusterVersion::FIRST {
            return &NEXT;
        }
        // The one set so far.
        let _every_version = version;
        &FIRST
    }
}

/// The rules of a state without entries.
impl Default for &'static Rules {
    fn default() -> &'static Rules {
        Rules::of(ClusterVersion::FIRST)
    }
}

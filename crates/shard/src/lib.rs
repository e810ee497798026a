//! The owner of topics: puts messages in order and remembers the last few.
//!
//! *What is it?* One [`ShardOptions`] is one Raft group whose entries are batches of publishes. Every
//! replica applies them to a [`ShardState`]: per topic an epoch, the next offset and a bounded history.
//! The replica that leads is the owner; its [`Handle`] takes publishes and answers for the past.
//!
//! *What does it promise?* Within one epoch the offsets of a topic rise by one, from 1, and are never
//! given out twice. What is acknowledged is on disk on a majority; in a namespace that lives in the
//! owner's memory it is with the owner and on its way, and the acknowledgement says so. [`CommitListener`]
//! hears in order what is placed while this node leads, each message before its publisher does;
//! whoever reads a page and has listened since before misses nothing. Equal entries make equal states. A publish that
//! is repeated, by its key, its nonce or its producer's number, gets the first answer and places
//! nothing, also at the next owner (in memory: at the same); within the bounds of `dedupe_keys` and `producers`, which say what is
//! forgotten when.
//!
//! *How does an upgrade go?* Entries and snapshots begin with a cluster version. The owner writes entries in
//! the version of the cluster; a replica reads all versions that there ever were. A state has the version of the
//! newest entry it has applied: it decides the constants that take part in applying (`ShardRules`), and how a
//! snapshot is written. An entry or a snapshot that cannot be read halts the replica.
//!
//! *What does it refuse?* To answer for the past, to take a publish, or to claim ownership, while this
//! node does not lead with an unexpired lease, has not applied what its predecessors committed, or
//! knows settings that the shard does not have yet. Topics of another shard. More publishes
//! than the queue holds, and, at the owner, more topics than its namespace or its node may have. Sockets,
//! links, subscribers, and any clock but [`ClusterClock`].
//!
//! *How does data move?* [`Handle::publish`] queues; the [`ShardRunner`] takes a permit of the node,
//! *then* everything that waits, and proposes it as one entry, one entry at a time; the group calls
//! the state machine on every replica; the answer carries the positions back to those who wait.
//! No timer takes part: what comes while an entry is under way makes the next one. Every entry also
//! looks at a few topics beside its own, and drops messages past their age, and topics that are empty
//! and unused for long; when nothing else is proposed, the owner proposes an entry for that alone.
//! Ages are measured in the log's own time, which a majority of the voters' clocks must have reached
//! (`majority_clock`): no single wrong clock expires anything.
//!
//! The settings of the cluster ([`ShardSettings`]: the namespaces and the number of shards) are part of
//! the state. The owner proposes them when its node knows newer ones, in an entry of their own; an
//! entry with older or equal settings changes nothing. Bounds, durability and the shard of a topic are
//! judged by the settings at that place of the log, on every replica the same: an owner that is cut off
//! from the control group, or has just started, cannot shorten a history, and a change of the durability
//! is one step between two messages. Readers get what the settings allow at the time of reading, also of
//! a topic that had no message since they changed. What narrower bounds dropped does not come back.
//!
//! Messages of `memory` namespaces are in no entry: [`Handle::publish`] places them in the owner's
//! memory, under the lease of its term, and hands them on: past the queue, once nothing stands there
//! that came before its namespace went into memory. The owner of each term proposes an entry that renews
//! its memory before it claims the shard, and the index of that entry is the epoch of its topics: so a
//! new owner, which begins with nothing, has a higher one than any before it, and a reader with a
//! position of an earlier one gets a gap. A namespace that goes from the log into memory, or back,
//! begins a later epoch as well; what the log had stored of it is dropped.
//!
//! *What must a caller not do?* Publish what was not checked ([`Publish::check_room`]); drop the
//! [`ShardRunner`] and go on publishing (it is refused); block in [`CommitListener`], or call back from it but for
//! [`CommitListener::flush_placed`];
//! retry an unknown outcome of a publish that is not [repeatable] and expect the first answer.
//!
//! [`Publish::check_room`]: pushonce_core::Publish::validate
//! [repeatable]: pushonce_core::Publish::is_idempotent

mod commit;
mod dedupe;
mod dedupe_keys;
mod dropped_topics;
mod entry;
mod expiry;
mod handle;
mod limits;
mod log_clock;
mod majority_clock;
mod memory;
mod metrics;
mod node_interface;
mod ownership;
mod producers;
mod queue;
mod recover;
mod replica;
mod rules;
mod settings;
mod state;
mod topic;

pub use dedupe::ItemRejection;
pub use entry::{EntryBatch, EntryItem};
pub use handle::{Handle, ShardOpenError, ShardOptions, ShardRunner};
pub use limits::NodeTopics;
pub use metrics::METRICS;
pub use node_interface::{ClusterClock, CommitListener};
pub use recover::{capture, replay};
pub use settings::ShardSettings;
pub use state::{ApplyOutcome, ShardState};
pub use topic::TopicStats;

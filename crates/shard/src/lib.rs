//! Replicated, ordered message history of the topics of one shard.
//!
//! # Overview
//!
//! A shard is one Raft group whose entries are batches of publishes. Every replica applies them to a
//! [`ShardState`], which holds for each topic an epoch, the next offset and a bounded history. The leading
//! replica is the owner of the shard: its [`Handle`] accepts publishes and serves history.
//!
//! The settings of the cluster ([`ShardSettings`]: the namespaces and the number of shards) are part of the
//! state. The owner proposes them in an entry of their own when its node knows newer ones; an entry with
//! older or equal settings changes nothing. Limits, durability and the shard of a topic follow the settings
//! at that place of the log, on every replica alike: an owner that is cut off from the control group, or
//! has just started, cannot shorten a history, and a change of the durability is one step between two
//! messages. Readers get what the settings allow at the time of the read, also for a topic without a
//! message since the settings changed. Messages dropped by narrower limits do not come back.
//!
//! Messages of `memory` namespaces are in no entry. [`Handle::publish`] places them in the owner's memory,
//! under the lease of its term, and delivers them. They bypass the proposal queue once it holds no message
//! that was queued before the namespace moved to memory. The owner of each term proposes an entry that
//! starts a memory epoch before it claims the shard, and the index of that entry is the epoch of its
//! topics. A new owner starts empty with a higher epoch than any owner before it, so a reader with a
//! position of an earlier epoch gets a gap. A namespace that moves from the log to memory, or back, also
//! starts a later epoch; its messages in the log are dropped.
//!
//! ```no_run
//! # use pushonce_core::{HistoryRange, Publish};
//! # async fn example(
//! #     shard: pushonce_shard::Handle,
//! #     message: Publish,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let topic = message.topic.clone();
//! let acknowledgement = shard.publish(message).await?;
//! let page = shard.fetch_history(&topic, HistoryRange::Last(10))?;
//! assert!(page.head >= acknowledgement.position);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - Within one epoch the offsets of a topic increase by one, from 1, and no offset is assigned twice.
//! - An acknowledged message is on disk on a majority of the replicas. In a `memory` namespace it is in the
//!   owner's memory and on its way to subscribers. The acknowledgement names the durability.
//! - While this node leads, [`CommitListener`] receives every placed message in order, before its publisher
//!   gets the acknowledgement. A reader that started to listen before it read a page misses nothing.
//! - Equal entries produce equal states.
//! - A repeated publish, recognised by its key, its nonce or its producer's sequence number, gets the first
//!   acknowledgement and places nothing, also at the next owner (in memory: at the same owner only). The
//!   limits are in `dedupe_keys` and `producers`, which state what is forgotten when.
//! - Entries and snapshots begin with a cluster version. The owner writes entries in the version of the
//!   cluster; a replica reads every version that ever existed. A state has the version of the newest entry
//!   it applied, which selects the constants used to apply entries (`ShardRules`) and the format of a
//!   snapshot. A replica halts at an entry or a snapshot that it cannot read.
//!
//! # Non-goals
//!
//! - The shard does not serve history, accept publishes or claim ownership while this node does not lead
//!   with an unexpired lease, has not applied what its predecessors committed, or knows settings that the
//!   shard does not have yet.
//! - It rejects topics of another shard, publishes above the limits of its queue and, at the owner, topics
//!   above the limit of their namespace or node.
//! - It has no sockets, links or subscribers, and no clock other than [`ClusterClock`].
//!
//! # Data flow
//!
//! [`Handle::publish`] queues the message. The [`ShardRunner`] acquires a permit of the node, *then* takes
//! every waiting publish and proposes them as one entry, one entry at a time. The group calls the state
//! machine on every replica, and the reply carries the positions back to the waiting publishers. Batching
//! uses no timer: publishes that arrive while an entry is in flight form the next one.
//!
//! Every entry also sweeps a few topics beside its own: it drops messages past their age, and topics that
//! are empty and long unused. When nothing else is proposed, the owner proposes an empty entry for the
//! sweep alone. Ages are measured in log time, which a majority of the voters' clocks must have reached
//! (`majority_clock`): no single wrong clock expires anything.
//!
//! # Caller contract
//!
//! - Validate a message ([`Publish::validate`]) before publishing it.
//! - Keep the [`ShardRunner`] running: after it is dropped, publishes are rejected.
//! - Do not block in [`CommitListener`], and call the shard from it only in [`CommitListener::flush_placed`].
//! - Retry a publish with an unknown outcome only if it is [idempotent]; otherwise the message may be
//!   placed twice.
//!
//! [`Publish::validate`]: pushonce_core::Publish::validate
//! [idempotent]: pushonce_core::Publish::is_idempotent

mod commit;
mod dedupe;
mod dedupe_keys;
mod dropped_topics;
mod entry;
mod expiry;
mod handle;
mod history_bytes;
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
mod shares;
mod state;
mod topic;
mod topic_tree;

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
pub use topic_tree::{SegmentCount, TopicTreeLevel};

//! Brings messages from the node that owns a topic to the nodes whose clients want it.
//!
//! *What is it?* The links between nodes, one bidirectional gRPC stream for each pair, and the engine
//! that decides what goes over them: [`Relay`] is run, [`Handle`] is spoken to, and the node around
//! it is reached by three ports, [`ShardSource`] (its shards), [`TopicSink`] (its edge) and [`Clocks`]. Beside messages, links
//! carry publishes to the owner, questions about the past, and the owners' claims, from which every
//! node knows who leads each shard.
//!
//! *What does it promise?* After [`TopicSink::on_live`] a sink sees a topic in order, nothing twice, each
//! message exactly the next, or a [`TopicSink::on_gap`] between that names what is missing and why. One copy
//! of a message goes to each interested node of the owner's region and one into each other interested
//! region, however many clients want it. A publish that was sent ends once: acknowledged, refused or
//! unknown. A node behind is noticed within a heartbeat. A sink that this node cannot vouch for is told
//! so ([`TopicSink::on_stale`]) some three seconds after the last moment when it could, whichever part of the
//! way to the owner is broken, and told when it is over.
//!
//! *What of versions?* Each side greets with the versions that its build supports and the one it writes; a
//! peer that cannot read them, or names none, is refused in words ([`Handle::version_conflicts`]).
//!
//! *What does it refuse?* Client sockets, Raft, and any word about who should own what; links from
//! other clusters, of nodes that are gone, and those opened by the higher node id. It stores nothing:
//! besides a few recent messages of each watched topic, the past is the source's.
//!
//! *How does data move?* Asking climbs, messages come down. An edge asks its upstream for a topic with
//! the position it has reached; [`pushonce_core::select_upstream`] says who that is: the owner, or the head
//! of its region, which asks in turn. The upstream first takes the interest, then reads what is
//! missing, so that nothing falls between; the one that asked drops what it has. When the owner moves,
//! the head dies, a link breaks, or a hole shows, the same question is asked again, and nothing later
//! is shown before the answer. The sink is served like one more link. Heartbeats carry, beside where
//! topics stand, for how long the sender has not been able to vouch for a shard: an owner without a
//! lease says so, and so does the head of a region that hears nothing. They also carry the sender's clock,
//! of which owners make the time of their logs, and the newest log time of each shard, by which an edge
//! measures the age of messages.
//!
//! How many sessions watch a topic climbs the same way, as counts that replace each other, once a second
//! at most and only where something changed: a region's head adds up its region, the owner the cluster.
//! The sum comes down to the nodes whose sinks have somebody who asks, and to [`Handle::audience`].
//!
//! Inside, `engine` is pure: events in, effects out. `turn` does what it says, one at a time, and
//! `run` is the loop that waits for events; whoever has placed a message in memory takes the turn
//! for it if nobody has it, so that it reaches the sink without a change of threads. `dial`, `service`
//! and `link_id` are the wires. Every queue is bounded: that of a link resets the link (the peer comes
//! back and asks from where it stands), that of committed messages falls back on history, those of
//! questions and publishes refuse.
//!
//! *What must a caller not do?* Hand over committed messages of one topic out of order, or before
//! [`ShardSource::read_history`] shows them; block in a port; claim a shard that this node does not lead; pass to
//! [`Handle::watch`] a position that the cluster never gave out; keep a claim to itself that has become
//! doubtful ([`Handle::revoke_claim`]); allow a topic more history than [`Config::link_bytes_max`].

mod config;
mod dial;
mod engine;
mod engine_driver;
mod handle;
mod inbox;
mod link;
mod metrics;
#[cfg(feature = "planted-bugs")]
mod planted_bugs;
mod port;
mod region_traffic;
mod relay;
mod send_queue;
mod service;
mod task;
mod version_conflicts;

pub use config::Config;
pub use dial::server;
pub use handle::Handle;
pub use metrics::METRICS;
pub use port::{Clocks, ShardSource, TopicSink};
pub use relay::Relay;
pub use service::RelayService;

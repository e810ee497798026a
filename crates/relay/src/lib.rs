//! Replicates messages from the owner of a topic to the nodes whose clients subscribe to it.
//!
//! # Overview
//!
//! Nodes are connected by links, one bidirectional gRPC stream for each pair, on a connection of its own that
//! [`pushonce_peer`] makes. [`Relay`] runs the links and [`Handle`] is the interface of the node to it. The
//! relay calls the node through three ports: [`ShardSource`] (its shards), [`TopicSink`] (its edge) and
//! [`Clocks`]. Besides messages, links carry publishes to the owner, history requests, and ownership claims,
//! from which every node learns the owner of each shard.
//!
//! # Guarantees
//!
//! - After [`TopicSink::on_live`] a sink receives a topic in order and without duplicates. Each message
//!   directly follows the previous one, or a [`TopicSink::on_gap`] in between names what is missing and why.
//! - One copy of a message is sent to each interested node of the owner's region and one into each other
//!   interested region, regardless of the number of clients.
//! - A publish that was sent ends exactly once: acknowledged, rejected or unknown.
//! - A node that lags behind is detected within one heartbeat.
//! - When this node cannot guarantee that a topic is complete, the sink is notified with
//!   [`TopicSink::on_stale`] about three seconds after the last moment at which it could, whichever part of
//!   the path to the owner is broken, and with [`TopicSink::on_fresh`] when the condition ends.
//! - A claim is believed from its owner, or from a voter of the shard whose replica follows that owner
//!   ([`Handle::observe_leader`]). A leader that keeps its lease refutes the claim of another node within two
//!   seconds, and all nodes return to its own. An owner repeats its claims every ten seconds.
//! - A peer cannot end the relay with what it sends: a frame that cannot be decoded, or has a position or count
//!   that is impossible, is skipped and counted; a batch above 4 MiB ends the link before it is received.
//! - A peer whose versions do not overlap with those of this node is rejected with the reason, and so is this
//!   node by it ([`Handle::version_conflicts`]).
//!
//! # Non-goals
//!
//! Client sockets, Raft, and the decision which node should own a shard. Links from other clusters, from
//! nodes that are no members, and links opened by the higher node id are rejected. The relay stores nothing except a few
//! recent messages of each watched topic; history belongs to the [`ShardSource`].
//!
//! # Data flow
//!
//! Interest travels towards the owner, messages travel back. An edge asks its upstream for a topic with the
//! position that it has reached. [`pushonce_core::select_upstream`] determines the upstream: the owner, or
//! the head of the node's region, which asks the owner in turn. The upstream first registers the interest
//! and then reads what is missing, so that no message is lost in between; the downstream drops duplicates.
//! When the owner moves, the head dies, a link breaks or a hole appears, the same request is sent again and
//! nothing later is delivered before the reply. The sink is served like one more link.
//!
//! Heartbeats carry the head of each topic and, for each shard that the sender cannot guarantee to be
//! complete, since when: an owner without a lease reports this, and so does a region head without contact to
//! its upstream. They also carry the sender's clock, from which owners derive the time of their logs, and
//! the newest log time of each shard, from which an edge computes the age of messages, and an echo of the
//! peer's last heartbeat, from which both sides measure the round trip of the link.
//!
//! A delivery carries the time since its commit: what each node on the way has measured with its own clock,
//! and half of the round trip of each link. Messages that are read from history carry none.
//!
//! The number of sessions on a topic travels towards the owner in the same way, as absolute counts, at most
//! once a second and only for topics that changed. A region head sums its region, the owner sums the
//! cluster. The sum is sent to the nodes whose sinks requested it, and to [`Handle::audience`].
//!
//! Module `engine` is pure: events in, effects out. `engine_driver` performs the effects, one event at a
//! time. `task` is the loop that waits for events; a thread that has staged committed messages runs the
//! driver itself when it is idle, so that the messages reach the sink without a thread switch. `dial`,
//! `service` and `link` are the transport. Every queue is bounded: a full link queue resets the link (the
//! peer reconnects and asks from its position), a full queue of committed messages falls back to history,
//! and full queues of requests and publishes reject.
//!
//! # Caller contract
//!
//! - Hand over the committed messages of a topic in order, and not before [`ShardSource::read_history`]
//!   returns them.
//! - Do not block in a port.
//! - Claim only shards that this node leads, and revoke a claim as soon as it is in doubt
//!   ([`Handle::revoke_claim`]).
//! - Pass only positions that the cluster assigned to [`Handle::watch`].
//! - Announce the leader that each replica follows as a voter ([`Handle::observe_leader`]).
//! - Limit the history of a topic to [`Config::link_bytes_max`].
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use pushonce_core::{ClusterView, NodeId};
//! use pushonce_peer::PeerTransport;
//! use pushonce_relay::{Clocks, Config, Relay, ShardSource, TopicSink};
//! use tokio::sync::watch;
//! use tokio_util::sync::CancellationToken;
//!
//! async fn run(
//!     transport: PeerTransport,
//!     view: watch::Receiver<Arc<ClusterView>>,
//!     shards: Arc<dyn ShardSource>,
//!     edge: Arc<dyn TopicSink>,
//!     clocks: Arc<dyn Clocks>,
//!     shutdown: CancellationToken,
//! ) {
//!     let config = Config::new(NodeId(1));
//!     let mut server = transport.server();
//!     let (relay, _handle) = Relay::new(config, transport, view, shards, clocks);
//!     // Serve `_router` on the peer port, and use `_handle` to publish, watch and fetch.
//!     let _router = server.add_service(relay.service());
//!     relay.run(edge, shutdown).await;
//! }
//! ```

mod config;
mod dial;
mod engine;
mod engine_driver;
mod frame_check;
mod handle;
mod inbox;
mod link;

mod metrics;
mod port;
mod region_traffic;
mod relay;
mod send_queue;
mod service;
mod suspension;
mod task;
mod version_conflicts;

pub use config::Config;
pub use handle::Handle;
pub use metrics::METRICS;
pub use port::{Clocks, ShardSource, TopicSink};
pub use relay::Relay;
pub use service::RelayService;

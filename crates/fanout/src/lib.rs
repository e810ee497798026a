//! Fan-out of messages from the upstream link of a node to the sessions of its subscribers.
//!
//! # Overview
//!
//! The [`Hub`] keeps one ring of the newest messages, with their encoded frames, for each topic that has
//! subscribers on this node. A [`Lane`] is one thread's share of the sessions; a subscription is a cursor
//! into a ring. A [`TopicReader`] is the same cursor for a back end that receives messages instead of
//! frames.
//!
//! # Guarantees
//!
//! - A subscriber receives each message of its topic once and in order, from the requested start. Where
//!   messages are missing it receives a gap that names them.
//! - A subscription with `latest` or a rate never receives an older message after a newer one.
//! - A frame is encoded once per message and [`WireFormat`], whatever the number of subscribers.
//! - A subscriber that accepts deltas receives one only directly after the previous message.
//! - When upstream loses contact with a topic's owner, every subscriber that is up to date is notified, and
//!   notified again when contact is restored.
//! - Subscribers are counted with one addition per change. A subscriber that requests it is sent the number
//!   in the whole cluster.
//! - A slow subscriber uses no memory and delays no other.
//!
//! # Non-goals
//!
//! Wire formats (port [`FrameEncoder`]), sockets (port [`FrameSink`]), the cluster (port [`Upstream`]), and
//! queues per session.
//!
//! # Data flow
//!
//! [`Hub::deliver`] pushes messages onto the topic's ring and wakes each lane that has subscribers, with
//! one entry in the lane's queue whatever the number of messages and subscribers. The lane's [`LaneDriver`]
//! walks over the subscribers and offers each the frames after its cursor. Where several topics have news
//! in one turn, a session that is subscribed to several receives all of it in one offer at the end of the
//! turn, so that a hundred topics cost it one write. A blocked subscriber is skipped until
//! [`Lane::on_writable`]; its cursor moves only behind accepted frames, so rejected frames are not stored.
//! Messages older than the ring are fetched from upstream, once for all concurrent requests, and prepended
//! to the ring. A topic that is read often without a subscriber is watched as if it had one, so that a
//! storm of reads is answered on this node. Everything that is read as history, from the ring or from a page, is truncated to what the
//! topic's namespace allows ([`Retention`]).
//!
//! # Caller contract
//!
//! - [`Hub::mark_live_at`], [`Hub::deliver`], [`Hub::record_gap`], [`Hub::mark_stale`] and
//!   [`Hub::mark_live`] of one topic are never called from two threads at once.
//! - An [`Upstream`] does not call the hub, and a [`FrameSink`] does not call the lane, before it returns.
//! - The metrics recorder is installed before the hub is created: metrics of an earlier hub are lost.

mod audience;
mod chunked_slab;
mod delivery_mode;
mod dirty_topics;
mod frames;
pub mod hub;
mod lane;
mod metrics;
mod ports;
mod registry;
mod retention;
mod ring;
mod sink;
mod start_position;
mod topic_buffer;
mod topic_reader;
mod warm_topics;

pub use chunked_slab::ChunkedSlab;
pub use hub::Hub;
pub use lane::{LagScan, Lane, LaneDriver, SessionKey, SessionLag, SubscribeError};
pub use metrics::METRICS;
pub use ports::{FrameEncoder, TopicHealth, Upstream, WireFormat};
pub use retention::Retention;
pub use sink::{FrameRun, FrameSink, OfferOutcome, SinkClosed};
pub use topic_reader::TopicReader;

//! Publish path: any node accepts any publish and routes it to the owner of its topic.
//!
//! # Overview
//!
//! The [`Router`] validates a message, finds the owner of its shard and sends the message to it. The gRPC
//! [`Server`] on top of it serves `PublisherService` for publishers and subscribing back ends,
//! `ClusterService` for operators, health and reflection.
//!
//! # Guarantees
//!
//! - A publish has three outcomes: acknowledged, rejected (it had no effect), unknown.
//! - No message is accepted before this node has a current view of its cluster: without it the shard of a
//!   topic is unknown.
//! - A rejection for lack of an owner is not final: the message waits for an owner, and follows it, until
//!   [`router::Config::deadline`].
//! - Every call is checked with the grants of now. A stream ends when the token of its caller expires or is
//!   revoked; every change of the cluster is in the audit log.
//! - An unknown outcome is never retried here. It reports whether the caller, which knows how long the
//!   message matters, may retry.
//! - The messages of one [`Router::publish_ordered`] stream to one topic are stored in the order of the
//!   stream, whatever nodes owned the topic meanwhile. Where that is impossible, the earlier message is
//!   rejected and never stored after the later one. For messages with producer sequences the shard itself
//!   keeps the order, over any number of streams.
//!
//! - A message that is half received is charged to the budget of the node and must be complete in time. HTTP/2 limits
//!   are set explicitly: no client can make the server work without end for calls that it resets.
//! - A connection without a call for five to ten minutes is closed. A caller subscribes and creates topics at the rates of
//!   the node, which all doors share.
//!
//! # Non-goals
//!
//! Ordering, storage, subscribers and Raft.
//!
//! # Data flow
//!
//! [`Server`], or the gateway, → [`Router::publish_ordered`] → one window per shard → [`LocalPublisher`] if
//! this node owns the shard, else [`PeerPublisher`] over the link. Acknowledgements return the same way, in
//! the order of the stream. [`SubscriptionSource`], [`ClusterStatusProvider`], [`TopicDirectory`] and
//! [`ClusterAdmin`] serve the other calls.
//!
//! Messages that break a rule are rejected ([`Publish::validate`]). The input of a stream with
//! [`OrderedPublish::PENDING_MAX`] messages or [`OrderedPublish::PENDING_BYTES_MAX`] bytes without a reply
//! is not read.
//!
//! # Caller contract
//!
//! - Implementations of [`LocalPublisher`] and [`PeerPublisher`] enqueue the message at the first poll of
//!   the future, at the latest. The order of messages depends on it.
//! - A caller that drops the future of a publish must treat the outcome as unknown.
//!
//! [`Publish::validate`]: pushonce_core::Publish::validate

mod authenticate;
mod caller_limits;
mod cluster;
mod connection;
mod decode_error;
mod metrics;
mod open_calls;
mod ordered;
mod partial_messages;
mod ports;
mod publisher;
mod route;
pub mod router;
pub mod server;
mod shard_window;
mod subscription;

pub use cluster::TOPICS_MAX;
pub use metrics::METRICS;
pub use ordered::OrderedPublish;
pub use ports::{
    AdminError, AdminErrorCause, ClusterAdmin, ClusterSnapshot, ClusterStatusProvider,
    LocalPublisher, NewJoinToken, PeerPublisher, SubscriptionSource, SubscriptionSourceError,
    TopicDirectory,
};
pub use router::Router;
pub use server::{Readiness, Server};

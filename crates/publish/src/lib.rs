//! The way in: any node takes any publish and brings it to the owner of its topic.
//!
//! *What is it?* The [`Router`], which checks a message, finds the owner of its shard and hands it
//! over, and the gRPC [`Server`] on top of it: `PublisherService` for those who publish and for back ends
//! that listen, `ClusterService` for operators, health and reflection.
//!
//! *What does it promise?* A publish has three outcomes: acknowledged, refused (nothing happened),
//! unknown. Nothing is admitted before this node has a current view of its cluster: without one nobody
//! can say which shard a topic belongs to. A refusal for want of an owner is not yet an outcome: the
//! message waits for one, and follows it, until [`router::Config::deadline`]. An unknown outcome is never retried here: it
//! says whether the caller, who knows how long it still matters, may do so. The messages that one
//! [`Router::publish_ordered`] stream carries to one topic stand in the topic in the order of the stream,
//! whoever owned it meanwhile; where that cannot be kept, the earlier message is refused and never
//! put behind the later one. With numbers of their producer's the shard itself keeps their order,
//! over any number of streams.
//!
//! *What does it refuse?* Messages that break a rule ([`Publish::check`]); more than
//! [`OrderedPublish::PENDING_MAX`] messages or [`OrderedPublish::PENDING_BYTES_MAX`] bytes of one stream without
//! an answer (past that the stream is not read). It orders nothing, stores nothing, knows no
//! subscriber and no Raft.
//!
//! *How does data move?* Door ([`Server`], or the gateway's) → [`Router::publish_ordered`] → per shard one
//! line → [`LocalPublisher`] if this node owns the shard, else [`PeerPublisher`] over the link. Acknowledgements
//! come back the same way, in the order of the stream. [`SubscriptionSource`], [`ClusterStatusProvider`], [`TopicDirectory`] and
//! [`ClusterAdmin`] are asked, and answered.
//!
//! *What must a caller not do?* Implement [`LocalPublisher`] or [`PeerPublisher`] so that the first poll of the
//! future does not put the message in line: order is lost there and nowhere else. Drop the future
//! of a publish and take it for refused: it may have happened.
//!
//! [`Publish::check`]: pushonce_core::Publish::validate

mod cluster;
mod decode_error;
mod metrics;
mod ordered;
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
    AdminError, ClusterAdmin, ClusterSnapshot, ClusterStatusProvider, LocalPublisher,
    PeerPublisher, SubscriptionSource, SubscriptionSourceError, SubscriptionStart, TopicDirectory,
};
pub use router::Router;
pub use server::{Readiness, Server};

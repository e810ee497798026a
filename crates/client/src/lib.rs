//! The Rust SDK: publish over gRPC, subscribe over WebSocket, QUIC or gRPC.
//!
//! # Overview
//!
//! A [`Publisher`] and a [`Subscriber`], each with the addresses of several nodes. The features choose the
//! transports of subscribers besides gRPC: `websocket` and `quic`, both by default. With `metrics`, publishes and
//! sessions are counted through the facade of that name. Events are logged through `tracing`.
//!
//! # Guarantees
//!
//! - A subscriber receives each topic in order, no message twice, and no hole without a
//!   [`SubscriberEvent::Gap`], also across reconnects. It reconnects to the next node after a growing
//!   delay, drawn at random so that a million clients do not reconnect at once, and resumes each topic
//!   after the last message it received.
//! - A subscriber also leaves a node that skips messages without a gap, and, after a short time, one that
//!   lost contact with a topic's owner ([`SubscriberEvent::Stale`]), if it has another node.
//! - With `accept_deltas` ([`SubscriberBuilder::topic_with_options`]) the node sends deltas, and the
//!   subscriber delivers the same whole messages, each verified by its checksum.
//! - A server whose certificate is not accepted is reported at once, with the cause and what to change. A subscriber
//!   that has not been connected yet does not try it again; one that has been tries again, since the certificate may
//!   be renewed, and reports each attempt ([`SubscriberEvent::Disconnected`]).
//! - A publish has three outcomes: acknowledged, rejected, unknown. It is retried until it is acknowledged
//!   or rejected permanently, or until its deadline, and is stored once however often it was sent.
//! - The messages of a [`PublishStream`] are also stored in the order of sending, per topic. This and the
//!   previous guarantee hold within the windows in `publisher.proto`, which are many times the deadline.
//!
//! # Non-goals
//!
//! Retries of a publish past its deadline: an outcome that is unknown by then is returned. To retry later,
//! publish with a key.
//!
//! # Data flow
//!
//! A task keeps the session; its events are queued, within a bound, until [`Subscriber::next`] returns
//! them. When the queue is full the task stops reading from the session, and the server sees a slow reader.
//! Messages of a topic with `latest` or a rate never fill the queue: only the newest of each such topic is
//! queued, a newer one replaces it, and the task continues to read. So a slow caller receives the newest
//! message and not one from a buffer. This holds for subscribers with only such topics: a topic with `all`
//! that is not read stops the connection for all its topics.
//!
//! # Caller contract
//!
//! - A node with issuers needs a token: give a [`TokenProvider`]. It is asked again before the token expires.
//! - A subscriber is read continuously or dropped.
//! - Servers whose certificate was not signed by an authority of the system require a [`CertificateTrust`].
//!
//! # Example
//!
//! ```
//! use pushonce_client::{
//!     ContentType, Publish, Publisher, StartFrom, Subscriber, SubscriberEvent, Topic,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (grpc, websocket) = ("http://127.0.0.1:7090", "ws://127.0.0.1:7080");
//! # let node = pushonce_test_node::TestNode::start().await;
//! # let (grpc, websocket) = (node.grpc(), node.websocket());
//! let topic = Topic::new("chat/7")?;
//! let publisher = Publisher::new([grpc.parse()?])?;
//! publisher.publish(Publish::new(topic.clone(), ContentType::Text, "hello")).await?;
//!
//! let mut subscriber =
//!     Subscriber::builder([websocket.parse()?]).topic(topic, StartFrom::Last(10)).connect()?;
//! while let Some(event) = subscriber.next().await {
//!     if let SubscriberEvent::Message { topic, message } = event {
//!         println!("{topic} {}: {:?}", message.position, message.payload);
//! #       assert_eq!(message.payload, "hello");
//! #       break;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

/// The examples of the crate's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod build_error;
mod cursor;
mod delta;
mod domain;
mod event_queue;
#[cfg(test)]
mod fuzz;
mod metrics;
mod publisher;
mod reconnect;
mod resume_state;
mod server_address;
mod session;
mod stream;
mod subscriber;
mod token;

pub use build_error::BuildError;
pub use domain::*;
pub use publisher::{Publisher, PublisherBuilder};
pub use server_address::{InvalidServerAddress, Scheme, ServerAddress};
#[cfg(feature = "websocket")]
pub use session::connect_http;
pub use session::{
    CertificateFingerprint, CertificateTrust, ConnectError, InvalidCertificateFingerprint,
    Transport, connect_grpc,
};
pub use stream::{AcknowledgementFuture, PublishStream};
pub use subscriber::{Subscriber, SubscriberBuilder, SubscriberEvent};
pub use token::{TokenError, TokenProvider};

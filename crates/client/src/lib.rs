//! The Rust SDK: publish over gRPC, subscribe over WebSocket, QUIC or gRPC.
//!
//! *What is it?* A [`Publisher`] and a [`Subscriber`], each given the addresses of several nodes.
//!
//! *What does it promise?* A subscriber sees each topic in order, no message twice, and no hole
//! without an [`SubscriberEvent::Gap`], also over a reconnect: it turns to the next node, after a pause that
//! grows and is drawn at random so that a million clients do not come back in one moment, and
//! resumes each topic behind the last message it saw. A node that leaves a hole is left, too, and
//! so is, after a moment, one that has lost touch with a topic's owner ([`SubscriberEvent::Stale`]), if there is
//! another. Asked to ([`SubscriberBuilder::topic_with_options`]), it is sent what changed and shows the same whole messages, each
//! with its checksum confirmed. A publish has three outcomes: placed, refused, unknown; it is retried by itself until it
//! is placed or refused for good, or until its deadline, and stands once however often it was sent. The
//! messages of a [`PublishStream`] also stand in the order of the sending, topic by topic. Both hold
//! within the windows that `publisher.proto` names, which are many times the deadline.
//!
//! *What does it refuse?* To retry a publish past its deadline: an outcome that is unknown by then is
//! told, and a caller that wants to go on does so under a key of its own.
//!
//! *How does data move?* A task of its own keeps the session; its events wait in a bounded queue
//! until [`Subscriber::next`] takes them. A caller that does not take them stops the session's
//! reading, and the server sees a slow reader. Messages of a topic under `latest` or `rate` never do:
//! the newest of each such topic waits, a newer one takes its place, and the session is read on. So a
//! slow caller is shown the newest message there is, not one that waited in some buffer. That holds
//! for a subscriber whose topics are all of this kind; a topic under `all` that is not read stops the
//! connection for every topic on it.
//!
//! *What must a caller not do?* Keep a subscriber and not read it. Give QUIC addresses that are not
//! loopback without saying whose certificate to trust ([`CertificateTrust`]).

mod backoff;
mod cursor;
mod delta;
mod event_queue;
mod publisher;
mod reconnect;
mod resume_state;
mod server_address;
mod session;
mod stream;
mod subscriber;

pub use backoff::Backoff;
pub use publisher::Publisher;
pub use server_address::{InvalidServerAddress, Scheme, ServerAddress};
pub use session::{CertificateTrust, Transport};
pub use stream::{AcknowledgementFuture, PublishStream};
pub use subscriber::{BuildError, Subscriber, SubscriberBuilder, SubscriberEvent};

/// Re-exported, so that a caller needs one crate.
pub use pushonce_core as core;
pub use pushonce_proto::client::{Encoding, ErrorCode};
pub use pushonce_proto::publisher::PublishFailure;

//! Serves the clients of a node over HTTP, WebSocket, event streams (SSE), WebTransport and QUIC, with one session type for all transports.
//!
//! # Overview
//!
//! [`Gateway`] binds the ports and holds every client connection. Each of its lanes is a thread with its own
//! runtime and listeners; a session stays on one lane until it ends. One pure state machine handles the
//! requests of a session on every transport. `pushonce_fanout` delivers messages as complete frames, encoded
//! by [`Encoder`], which are written to the socket unchanged.
//!
//! `pushonce_websocket` is the WebSocket protocol without I/O, and `pushonce_quic` the QUIC endpoint of a lane, and
//! `pushonce_webtransport` is WebTransport over HTTP/3 without I/O.
//! The gateway owns listeners, HTTP, admission and sessions.
//!
//! # Guarantees
//!
//! - The frames of one topic reach a client in the order of the hub. No frame is interrupted by another.
//! - Pages of history and compressed bodies are made once for all callers; a page that is reloaded by everyone
//!   costs the owner of its topic nothing but the delivery of each message.
//! - A message is compressed once, and its delta to the previous message is computed once, for all
//!   subscribers that accept it. No session keeps state for either.
//! - Datagrams, on request, arrive in any order or not at all, except the newest message, which always
//!   arrives.
//! - Every request is checked with the grants of now: subscriptions, history, snapshots, audience, publishes
//!   and pages. A delivery is not checked; a session ends when its token does.
//! - Every request of a session is answered, and its publishes to one topic keep their order.
//! - Bad input is answered with an error or closes the session with a code of [`pushonce_proto::close`]. It
//!   neither ends a lane nor blocks it: a session is read one buffer at a time.
//! - The memory of a session that does not read is bounded. It holds replies (no request is read while more
//!   than 32 replies are queued) and the remainder of one message frame; on QUIC one frame per topic, the
//!   send window and some dozens of datagrams.
//! - A slow client of `latest` or `rate` receives fewer messages and never one that is seconds old, as far as
//!   its own buffers allow.
//! - An error response reaches a client that is still sending.
//! - A page of another origin can neither read nor publish nor open a session, unless its origin is listed in
//!   [`Config::origins`]. No cookie is ever read. A browser never runs a payload as a page of the node.
//! - A request that two HTTP parsers could read differently is rejected.
//! - A TLS session holds no buffers while it is idle, and at most one record that its client does not read. In a storm
//!   of handshakes the connected clients of a lane wait a millisecond longer.
//! - A flood of connections does not prevent health checks and metrics requests from being answered.
//! - What is only half received stays within one budget over all doors and must be complete in time; the sender
//!   that holds the most pays ([`ClientLimits`]). Requests that cost more than a tenth of a lane wait: a session
//!   that inflates or subscribes without end does not delay the others.
//!
//! # Non-goals
//!
//! Knowledge of the cluster: shards, links and Raft are behind the hub, the [`PublishRouter`] and the
//! [`AudienceSource`]; tokens and grants behind [`AccessControl`](pushonce_auth::AccessControl). WebSockets over
//! HTTP/2 and WebTransport are not supported.
//!
//! # Data flow
//!
//! Requests: bytes → frame → [`ClientRequest`](pushonce_proto::client::ClientRequest) → session → hub or
//! publisher. Messages: hub → lane → sink → socket, without a queue in between. The replies of a session go
//! through the same sink, before the next frame.
//!
//! # Caller contract
//!
//! - Do not define a path under `/topics`, `/tickets`, `/ws`, `/sse` or `/dev` in the [`Pages`] passed to
//!   [`Gateway::bind`]: axum panics at start when a route is defined twice.
//! - Install the metrics recorder before [`Gateway::run`].
//! - Wait for [`Gateway::run`] to return before the process ends, so that sessions are drained.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use pushonce_auth::AccessControl;
//! use pushonce_core::ClusterView;
//! use pushonce_fanout::{Hub, Upstream, hub};
//! use pushonce_gateway::{AudienceSource, Backend, Encoder, Gateway, PublishRouter, RunError};
//! use tokio::sync::watch;
//! use tokio_util::sync::CancellationToken;
//!
//! /// The backend for `Gateway::bind`.
//! fn backend(
//!     upstream: Arc<dyn Upstream>,
//!     publisher: Arc<dyn PublishRouter>,
//!     audience: Arc<dyn AudienceSource>,
//!     access: AccessControl,
//!     view: watch::Receiver<Arc<ClusterView>>,
//! ) -> Backend {
//!     let hub = Hub::new(hub::Config::default(), upstream, Arc::new(Encoder));
//!     Backend { hub, publisher, audience, access, view }
//! }
//!
//! /// Serves clients until `shutdown` is cancelled.
//! async fn serve(gateway: Gateway, shutdown: CancellationToken) -> Result<(), RunError> {
//!     println!("HTTP on {}, QUIC on {}", gateway.http_addr(), gateway.quic_addr());
//!     gateway.run(shutdown).await
//! }
//! ```

mod access_watch;
mod admission;
mod audience;
mod bind;
mod config;
mod connection;
mod deadlines;
mod delta;
mod driver;
mod encoder;
mod gateway;
mod http;
mod lane;
mod limits;
mod linger;
mod liveness;
mod metrics;
mod overflow;
mod pages;
mod partial;
mod pin;
mod pressure;
mod publish_router;
pub mod query;
mod quic;
mod reactor;
mod registry;
mod rejection;
mod session;
mod slow_sessions;
mod socket;
mod socket_sink;
mod sse;
#[cfg(test)]
mod testing;
mod tls_stream;
mod watchdog;
mod work;
mod ws;

pub use admission::Admission;
pub use audience::AudienceSource;
pub use bind::BindError;
use config::HttpsSettings;
pub use config::{Config, HttpsConfig, IDLE_INTERVALS, STUCK_INTERVALS};
pub use encoder::Encoder;
pub use gateway::{Backend, Gateway, RunError};
pub use http::{
    AllowedOrigins, Authenticated, HttpError, InvalidOrigin, Origin, PagePolicy, SameOriginOnly,
    apply_page_policy,
};
pub use limits::ClientLimits;
pub use metrics::METRICS;
pub use pages::{PageAccess, Pages};
pub use pressure::MemoryUse;
pub use publish_router::PublishRouter;
pub use slow_sessions::{SessionInspector, SlowSession, SlowSessions};
pub use watchdog::LaneWatchdog;

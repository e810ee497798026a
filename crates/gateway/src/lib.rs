//! The doors of a node: HTTP, WebSocket and QUIC, one session type behind all of them.
//!
//! *What is it?* [`Gateway`] takes the ports and holds every client connection. Each of its lanes
//! is a thread with a runtime and a listener of its own; a session lives and dies on one lane. What
//! a client asks goes through one pure state machine, whatever it came in by; messages come out of
//! `pushonce_fanout` as ready frames, made by [`Encoder`], and are written to the socket as they are.
//!
//! *What does it promise?* Frames of one topic reach a client in the order the hub gives them,
//! never cut by another frame. A message is deflated, and made its difference from the last, once
//! for all who want it so; no session holds a state for either. Datagrams, for who asks, come in
//! any order or not at all, but for the newest message, which comes in any case. Requests of one
//! session are answered; its publishes to one topic keep their order. Bad input is answered in
//! words or closes the session with a code of `pushonce_proto::close`; it never ends a lane, nor
//! holds it up: a session is read one buffer at a time. What a session that does not read holds is
//! bounded: its answers, for no request is read while many are queued, and of messages the rest of
//! one frame; on QUIC one frame a topic, the send window, and some dozens of datagrams. A client that
//! asked for the newest messages and reads slowly is sent fewer of them: it never gets one that is
//! seconds old, as far as its own buffers allow. A refusal reaches a client that is still sending. A
//! flood of connections takes no place from health checks and metrics.
//!
//! *What is it made of?* `pushonce_websocket` is the WebSocket protocol without I/O, and `pushonce_quic` the QUIC
//! endpoint of a lane. The gateway owns listeners, HTTP, admission and sessions.
//!
//! *What does it refuse?* Knowing the cluster: shards, links and Raft are behind the hub, the
//! [`Publisher`] and the [`AudienceSource`] it is given. TLS on TCP, tokens, WebTransport and server-sent
//! events are not here.
//!
//! *How does data move?* Up: bytes, frame, `client::Request`, session, then hub or publisher. Down:
//! hub, lane, outlet, socket, with no queue between; answers of the session go through the same
//! outlet, before the next frame.
//!
//! *What must a caller not do?* Define a route under `/topics`, `/ws` or `/dev` in the router it
//! adds: two routes of one name are a mistake that is found at start, by a panic of `axum`. End the
//! process before [`Gateway::run`] has ended, if sessions are to take their leave.

mod admission;
mod audience;
mod bind;
mod config;
mod connection;
mod delta;
mod driver;
mod encoder;
mod gateway;
mod http;
mod lane;
mod linger;
mod liveness;
mod metrics;
mod overflow;
mod pin;
#[cfg(feature = "planted-bugs")]
mod planted;
mod pressure;
mod publisher;
pub mod query;
mod quic;
mod registry;
mod rejection;
mod session;
#[cfg(test)]
mod testing;
mod watchdog;
mod ws;

pub use admission::Admission;
pub use audience::AudienceSource;
pub use bind::BindError;
pub use config::{Config, IDLE_INTERVALS, STUCK_INTERVALS};
pub use encoder::Encoder;
pub use gateway::{Backend, Gateway, RunError};
pub use http::{SameOriginOnly, allow_any_origin};
pub use pressure::MemoryUse;
pub use publisher::Publisher;
pub use watchdog::LaneWatchdog;

//! WebTransport over HTTP/3 for servers, without I/O: bytes of streams in, session requests and capsules out.
//!
//! # Overview
//!
//! The server side of WebTransport for a connection with one session. [`ServerConnection`] takes the bytes of the
//! streams that a client opens and reports [`ConnectionEvent`]s: the request for a session, the stream that belongs to
//! it, its end. The functions of [`wire`] make what a server sends. QPACK and the encoding of requests are those of
//! `web-transport-proto`, which this crate alone uses.
//!
//! # Guarantees
//!
//! - The events and the error of a connection do not depend on how the bytes of a stream are split.
//! - No input causes a panic. The first violation of the protocol is returned with its HTTP/3 error code; the
//!   connection is then over.
//! - A connection buffers at most one SETTINGS frame of [`SETTINGS_BYTES_MAX`], one request of
//!   [`REQUEST_BYTES_MAX`], one CLOSE capsule, and 16 bytes for each open stream. It skips at most
//!   [`IGNORED_BYTES_MAX`] bytes that mean nothing to it.
//!
//! # Non-goals
//!
//! QUIC, timers, the client side, the dynamic table of QPACK, several sessions on a connection, unidirectional streams
//! and datagrams of the client, and requests other than for a session: those get a status and end.
//!
//! # Data flow
//!
//! bytes of a stream → [`ServerConnection::on_uni_bytes`], [`ServerConnection::on_bidi_bytes`] → [`ConnectionEvent`];
//! [`wire`] → bytes.
//!
//! # Caller contract
//!
//! Send [`wire::control_stream`] on a unidirectional stream first. Pass the bytes of each stream in order, and not those of
//! a stream for which [`ServerConnection::wants`] is false. Answer [`ConnectionEvent::Request`] with
//! [`wire::accept`] and [`ServerConnection::accept`], or with [`wire::reject`]. After a [`ConnectionError`], close the
//! connection with its code.

#![forbid(unsafe_code)]
// Every byte that this crate reads comes from outside.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::panic, clippy::unreachable))]

mod bidi_stream;
mod connection;
mod control_stream;
mod element;
mod error;
mod request;
mod uni_stream;
pub mod wire;

#[cfg(test)]
mod fuzz;

pub use connection::{ConnectionEvent, IGNORED_BYTES_MAX, ServerConnection};
pub use control_stream::SETTINGS_BYTES_MAX;
pub use error::{ConnectionError, NO_ERROR};
pub use request::{REQUEST_BYTES_MAX, RejectedRequest, SessionRequest};

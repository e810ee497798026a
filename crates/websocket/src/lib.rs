//! WebSocket for servers, without I/O: handshake, permessage-deflate, frames in and frames out.
//!
//! # Overview
//!
//! The server side of RFC 6455 and RFC 7692 as pure functions and one state machine.
//! [`Handshake::from_request`] checks an HTTP request and makes the answer. [`MessageDecoder`] turns
//! the bytes of a client into [`IncomingMessage`]s. The functions of [`frame`] make whole frames, which
//! a server can send to any number of clients.
//!
//! # Guarantees
//!
//! - The messages and errors of a [`MessageDecoder`] do not depend on how its input is split.
//! - No input causes a panic. The first violation of the protocol is returned with its close code;
//!   every later call returns the same violation.
//! - A decoder buffers at most twice [`DecoderLimits::message_bytes_max`] plus a control frame. A
//!   length that a frame only announces allocates nothing, and a compressed message is inflated to at
//!   most `message_bytes_max`.
//! - permessage-deflate is negotiated without context takeover only, so a message is compressed once
//!   for all its readers and a connection has no compression state. One compressor and one
//!   decompressor per thread serve all connections.
//!
//! # Non-goals
//!
//! Sockets, timers, HTTP parsing, keepalive, the client side, HTTP/2 (RFC 8441), and fragmented
//! outgoing messages.
//!
//! # Data flow
//!
//! HTTP request → [`Handshake`] → response; then bytes → [`MessageDecoder::decode`] →
//! [`IncomingMessage`], and payload → [`frame`] → bytes.
//!
//! # Caller contract
//!
//! Send the response of the handshake before any frame, and pass the bytes behind the request to the
//! decoder. Answer a ping with [`frame::pong`]. After a [`ProtocolViolation`], send a close frame with its
//! code and close the connection. Send compressed frames only where
//! [`Handshake::permessage_deflate`] is true.
//!
//! ```
//! use http::{Request, StatusCode};
//! use pushonce_websocket::{
//!     DecoderLimits, Handshake, HandshakeOptions, IncomingMessage, MessageDecoder, frame,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let request = Request::get("/ws")
//!     .header("Connection", "Upgrade")
//!     .header("Upgrade", "websocket")
//!     .header("Sec-WebSocket-Version", "13")
//!     .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
//!     .body(())?;
//! let options = HandshakeOptions { subprotocols: &[], permessage_deflate: true };
//! let handshake = Handshake::from_request(&request, options)?;
//! assert_eq!(handshake.response().status(), StatusCode::SWITCHING_PROTOCOLS);
//!
//! let limits = DecoderLimits { message_bytes_max: 64 << 10, fragments_max: 256 };
//! let mut decoder = MessageDecoder::new(limits, handshake.permessage_deflate());
//! let mut received = &b"\x81\x82\0\0\0\0hi"[..];
//! let Some(IncomingMessage::Text(text)) = decoder.decode(&mut received)? else { return Ok(()) };
//! assert_eq!(&frame::text(&text)[..], b"\x81\x02hi");
//! # Ok(())
//! # }
//! ```

// Every byte that this crate reads comes from outside.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::panic, clippy::unreachable))]

mod decoder;
mod deflate;
mod extensions;
pub mod frame;
#[cfg(test)]
mod fuzz;
mod handshake;
mod header;
mod violation;

pub use decoder::{DecoderLimits, IncomingMessage, MessageDecoder};
pub use handshake::{Handshake, HandshakeError, HandshakeOptions};
pub use violation::ProtocolViolation;

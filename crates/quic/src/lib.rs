//! A QUIC server over `quinn-proto`: one port, and an endpoint without locks on each lane.
//!
//! # Overview
//!
//! A lane is a thread with a current-thread runtime. [`Port::bind`] opens one UDP socket per lane on the
//! same port, and [`Endpoint`] drives all connections of its lane: one task, one timer, no lock and no
//! task per connection. The endpoint is generic over an [`Acceptor`], which admits connections, and its
//! [`ConnectionHandler`], which reads and writes their streams through a [`Connection`].
//! The certificate comes from files ([`CertificateSource`]), or [`certificate`] makes the self-signed one of a
//! first start, and [`CertificateRotator`] replaces it before it expires.
//!
//! # Guarantees
//!
//! - The kernel delivers the packets of a connection to the lane that has it, also when the client's
//!   address changes. Where the system cannot steer packets, all connections are on the first lane.
//! - A turn is bounded: packets read, connections driven and packets per connection each have a limit, so
//!   neither a flood nor a fast connection delays the others by more than about a millisecond.
//! - Packets of one turn are sent together. A write only marks the connection as ready.
//! - At most 1,024 handshakes are in progress per lane. From 128 on, a client must first prove its address
//!   by a retry.
//! - An address that is not proven gets at most three times the bytes that were received from it.
//! - No datagram causes a panic.
//!
//! # Non-goals
//!
//! Client endpoints, 0-RTT and path MTU discovery. Incoming datagrams are dropped. The application protocol belongs to the caller: an endpoint knows neither its frames nor its
//! close codes.
//!
//! # Data flow
//!
//! In: socket → engine → [`ConnectionHandler::on_event`] and [`ConnectionHandler::drive`], which read from the
//! [`Connection`]. Out: writes to a [`Connection`] from anywhere on the lane → queue of ready connections → engine
//! → batch of packets → socket.
//!
//! # Caller contract
//!
//! Open and run an [`Endpoint`] on the runtime of its lane, and use each [`Connection`] on that thread only. Run the
//! [`CertificateRotator`] for as long as the endpoints. Do not hold a borrow of the handler while the
//! endpoint runs: events arrive by `&mut`.

// Every byte that this crate reads comes from outside.
#![cfg_attr(not(test), warn(clippy::expect_used, clippy::panic, clippy::unreachable))]

mod bind;
pub mod certificate;
mod connection;
mod endpoint;
mod engine;
pub mod fuzz;
mod handler;
mod port;
mod ready_queue;
mod rotation;
mod send_batch;
mod socket;
mod steering;
mod timers;
mod transport;
mod unproven_address;

pub use certificate::Certificate;
pub use connection::{Connection, StreamRead, StreamWriteError};
pub use endpoint::Endpoint;
pub use handler::{Acceptor, ConnectionEvent, ConnectionHandler};
pub use port::{BindError, Listener, Port, PortConfig};
pub use quinn_proto::StreamId;
pub use rotation::{CertificateRotator, CertificateSource};
pub use transport::TransportSettings;

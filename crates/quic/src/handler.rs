//! What the caller of an endpoint implements.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use quinn_proto::{Dir, Event, StreamEvent, StreamId};

use crate::connection::Connection;

/// Admits the connections of one lane, and makes their handlers.
pub trait Acceptor {
    /// The right to be connected, for as long as the handler keeps it.
    type Permit;

    /// Drives one connection.
    type Handler: ConnectionHandler;

    /// Whether new connections are accepted at all. If not, they are refused without a retry.
    fn is_accepting(&self) -> bool;

    /// Admits one connection of `client`, before its handshake. `None` refuses it. The address may be forged.
    fn admit(&self, client: SocketAddr) -> Option<Self::Permit>;

    /// Makes the handler of an admitted connection, whose handshake starts now.
    fn open(&self, connection: Rc<Connection>, permit: Self::Permit) -> Self::Handler;

    /// A connection was refused, or its first packet was invalid.
    fn on_refused(&self);
}

/// Drives one connection. All methods are called by its endpoint, on its thread. The handler is dropped
/// when the client knows that the connection is closed, or when the endpoint stops.
pub trait ConnectionHandler {
    /// When [`ConnectionHandler::on_deadline`] is to be called. It may be called up to a second late
    /// if the deadline was moved forward by less than that.
    fn deadline(&self) -> Option<Instant>;

    /// Whether the connection counts as a handshake in progress. Once false, it stays false.
    fn is_handshaking(&self) -> bool;

    /// Something happened. [`ConnectionHandler::drive`] follows.
    fn on_event(&mut self, event: ConnectionEvent);

    /// A packet was lost on a connection that sends datagrams. [`ConnectionHandler::drive`] follows.
    fn on_packet_lost(&mut self);

    /// Reads and writes as far as possible. Called after events, when blocked streams have room, and
    /// after [`Connection::wake_handler`].
    fn drive(&mut self);

    /// The deadline has passed.
    fn on_deadline(&mut self);
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// The handshake is complete.
    Connected,
    /// The client opened bidirectional streams: see [`Connection::accept_stream`].
    StreamOpened,
    /// The client opened unidirectional streams: see [`Connection::accept_uni_stream`].
    UniStreamOpened,
    /// The client acknowledged everything on a finished stream.
    StreamAcknowledged(StreamId),
    /// The client no longer reads a stream.
    StreamStopped(StreamId),
    /// The connection is over: closed by the client, lost, or timed out.
    Closed,
}

impl ConnectionEvent {
    /// `None` for what only concerns the endpoint, and for readable and writable streams: any event is
    /// followed by [`ConnectionHandler::drive`].
    pub(crate) fn from_protocol(event: &Event) -> Option<ConnectionEvent> {
        Some(match event {
            Event::Connected => ConnectionEvent::Connected,
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => ConnectionEvent::StreamOpened,
            Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                ConnectionEvent::UniStreamOpened
            }
            Event::Stream(StreamEvent::Finished { id }) => ConnectionEvent::StreamAcknowledged(*id),
            Event::Stream(StreamEvent::Stopped { id, .. }) => ConnectionEvent::StreamStopped(*id),
            Event::ConnectionLost { .. } => ConnectionEvent::Closed,
            _ => return None,
        })
    }
}

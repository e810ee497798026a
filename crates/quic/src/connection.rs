//! One connection, shared by its endpoint, its handler and everything on the lane that writes to it.
//!
//! The protocol is a plain value. A write only puts packets into its state and marks the connection as
//! ready; the endpoint sends them in its next turn.

use std::cell::{Cell, RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{
    ConnectionHandle, Dir, Event, ReadError, SendDatagramError, StreamEvent, StreamId, VarInt,
    WriteError,
};
use tokio::sync::Notify;

use crate::ready_queue::ReadyQueue;

/// One connection of a lane. Not to be used on another thread.
pub struct Connection {
    protocol: RefCell<quinn_proto::Connection>,
    handle: ConnectionHandle,
    ready_queue: Rc<ReadyQueue>,
    is_ready: Cell<bool>,
    is_handler_woken: Cell<bool>,
    /// A datagram found no room.
    is_datagram_blocked: Cell<bool>,
    /// The known number of lost packets, of a connection that sends datagrams.
    lost_packets_seen: Cell<Option<u64>>,
    /// Wakes tasks that wait to open a stream.
    streams_changed: Notify,
}

/// Why a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamWriteError {
    /// The send buffer is full. The handler is driven when it has room again.
    Blocked,
    /// The client no longer reads this stream.
    Stopped,
    /// The stream or the connection is closed.
    Closed,
}

/// The result of a read.
#[derive(Debug)]
pub enum StreamRead {
    /// The next bytes, never empty.
    Bytes(Bytes),
    /// No bytes have arrived yet. The handler is driven when some arrive.
    Blocked,
    /// The client finished or reset the stream.
    End,
}

// === for the handler ===

impl Connection {
    /// The address of the client. It changes when the client moves to another network.
    pub fn remote_address(&self) -> SocketAddr {
        self.protocol.borrow().remote_address()
    }

    /// Has the handler driven in the next turn.
    pub fn wake_handler(&self) {
        self.is_handler_woken.set(true);
        self.mark_ready();
    }

    /// Limits the bytes that are sent and not acknowledged, over all streams, from now on.
    pub fn set_send_window(&self, bytes: u64) {
        self.protocol().set_send_window(bytes);
    }

    /// Sets the bytes that the client may send before they are read, over all streams.
    pub fn set_receive_window(&self, bytes: u32) {
        self.protocol().set_receive_window(VarInt::from_u32(bytes));
        self.mark_ready();
    }

    /// The application protocol that the handshake chose; `None` before it is known.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let data = self.protocol.borrow().crypto_session().handshake_data()?;
        data.downcast::<HandshakeData>().ok()?.protocol
    }

    /// The next bidirectional stream that the client opened, if any.
    pub fn accept_stream(&self) -> Option<StreamId> {
        self.protocol().streams().accept(Dir::Bi)
    }

    /// The next unidirectional stream that the client opened, if any.
    pub fn accept_uni_stream(&self) -> Option<StreamId> {
        self.protocol().streams().accept(Dir::Uni)
    }

    /// Sets the number of bidirectional streams that the client may have open at the same time.
    pub fn set_bidi_streams_max(&self, count: u32) {
        self.protocol().set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(count));
        self.mark_ready();
    }

    /// Opens a unidirectional stream. `None`: the client allows none now.
    pub fn try_open_stream(&self) -> Option<StreamId> {
        self.protocol().streams().open(Dir::Uni)
    }

    /// Tells the client to send nothing more on a stream. What arrives is dropped.
    pub fn stop_stream(&self, stream: StreamId, code: u32) {
        let _ = self.protocol().recv_stream(stream).stop(VarInt::from_u32(code));
        self.mark_ready();
    }

    /// Opens a unidirectional stream as soon as the client allows one. `None`: the connection is closed.
    pub async fn open_stream(&self) -> Option<StreamId> {
        loop {
            // Created before the attempt, so that no change between attempt and await is missed.
            let changed = self.streams_changed.notified();
            let opened = self.protocol().streams().open(Dir::Uni);
            if opened.is_some() || self.protocol().is_closed() {
                return opened;
            }
            changed.await;
        }
    }

    /// Reads the next bytes of a stream in order, at most `bytes_max`.
    pub fn read(&self, stream: StreamId, bytes_max: usize) -> StreamRead {
        let mut protocol = self.protocol();
        let mut stream = protocol.recv_stream(stream);
        let Ok(mut chunks) = stream.read(true) else { return StreamRead::End };
        let read = chunks.next(bytes_max);
        if chunks.finalize().should_transmit() {
            self.mark_ready();
        }
        match read {
            Ok(Some(chunk)) => StreamRead::Bytes(chunk.bytes),
            Err(ReadError::Blocked) => StreamRead::Blocked,
            Ok(None) | Err(ReadError::Reset(_)) => StreamRead::End,
        }
    }

    /// Writes from the front of `bytes`, which is empty afterwards.
    ///
    /// # Errors
    /// [`StreamWriteError`] when some of `bytes` was not written. They remain in `bytes`.
    pub fn write(&self, stream: StreamId, bytes: &mut Bytes) -> Result<(), StreamWriteError> {
        let mut protocol = self.protocol();
        let mut stream = protocol.send_stream(stream);
        while !bytes.is_empty() {
            match stream.write_chunks(std::slice::from_mut(bytes)) {
                Ok(_) => self.mark_ready(),
                Err(WriteError::Blocked) => {
                    // The client is sent a frame that says it blocks.
                    self.mark_ready();
                    return Err(StreamWriteError::Blocked);
                }
                Err(WriteError::Stopped(_)) => return Err(StreamWriteError::Stopped),
                Err(WriteError::ClosedStream) => return Err(StreamWriteError::Closed),
            }
        }
        Ok(())
    }

    /// Whether the client accepts datagrams.
    pub fn supports_datagrams(&self) -> bool {
        self.protocol().datagrams().max_size().is_some_and(|max| max > 0)
    }

    /// Sends a datagram. False: it is too long for one, and was not sent.
    ///
    /// # Errors
    /// [`StreamWriteError::Blocked`] when there is no room. The handler is driven when there is.
    pub fn send_datagram(&self, datagram: Bytes) -> Result<bool, StreamWriteError> {
        let mut protocol = self.protocol();
        match protocol.datagrams().send(datagram, false) {
            Ok(()) => {
                if self.lost_packets_seen.get().is_none() {
                    self.lost_packets_seen.set(Some(protocol.stats().path.lost_packets));
                }
                self.mark_ready();
                Ok(true)
            }
            Err(SendDatagramError::Blocked(_)) => {
                self.is_datagram_blocked.set(true);
                Err(StreamWriteError::Blocked)
            }
            Err(_) => Ok(false),
        }
    }

    /// Ends a stream after the bytes that were written to it. False: it has ended already.
    pub fn finish_stream(&self, stream: StreamId) -> bool {
        self.mark_ready();
        self.protocol().send_stream(stream).finish().is_ok()
    }

    /// Ends a stream at once. Bytes that were written may be lost.
    pub fn reset_stream(&self, stream: StreamId) {
        let _ = self.protocol().send_stream(stream).reset(VarInt::from_u32(0));
        self.mark_ready();
    }

    /// Closes the connection with a code of the application protocol.
    pub fn close(&self, code: u32, reason: &str) {
        let reason = Bytes::copy_from_slice(reason.as_bytes());
        self.protocol().close(Instant::now(), VarInt::from_u32(code), reason);
        self.streams_changed.notify_waiters();
        self.mark_ready();
    }
}

// === for the engine ===

impl Connection {
    pub(crate) fn new(
        handle: ConnectionHandle,
        protocol: quinn_proto::Connection,
        ready_queue: Rc<ReadyQueue>,
    ) -> Connection {
        Connection {
            protocol: RefCell::new(protocol),
            handle,
            ready_queue,
            is_ready: Cell::new(false),
            is_handler_woken: Cell::new(false),
            is_datagram_blocked: Cell::new(false),
            lost_packets_seen: Cell::new(None),
            streams_changed: Notify::new(),
        }
    }

    /// The protocol itself. The caller marks the connection as ready after a change.
    pub(crate) fn protocol(&self) -> RefMut<'_, quinn_proto::Connection> {
        self.protocol.borrow_mut()
    }

    pub(crate) fn mark_ready(&self) {
        if !self.is_ready.replace(true) {
            self.ready_queue.push(self.handle);
        }
    }

    /// Any later change marks the connection as ready again.
    pub(crate) fn clear_ready(&self) {
        self.is_ready.set(false);
    }

    /// The next event of the protocol. Nothing is borrowed when it returns.
    pub(crate) fn poll_event(&self) -> Option<Event> {
        let event = self.protocol().poll();
        if let Some(Event::Stream(StreamEvent::Available { .. }) | Event::ConnectionLost { .. }) =
            &event
        {
            self.streams_changed.notify_waiters();
        }
        if let Some(Event::DatagramReceived) = &event {
            self.drop_received_datagrams();
        }
        event
    }

    /// No protocol of the server has incoming datagrams.
    fn drop_received_datagrams(&self) {
        while self.protocol().datagrams().recv().is_some() {}
    }

    /// Whether [`Connection::wake_handler`] was called since the last call.
    pub(crate) fn take_handler_wake(&self) -> bool {
        self.is_handler_woken.take()
    }

    /// Whether a packet that may have carried a datagram was lost since the last call.
    pub(crate) fn take_packet_loss(&self) -> bool {
        let Some(seen) = self.lost_packets_seen.get() else { return false };
        let lost = self.protocol().stats().path.lost_packets;
        self.lost_packets_seen.set(Some(lost));
        lost > seen
    }

    /// Packets were sent, so a datagram that was blocked may have room.
    pub(crate) fn on_packets_sent(&self) {
        if self.is_datagram_blocked.take() {
            self.wake_handler();
        }
    }
}

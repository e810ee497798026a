//! One connection, between the endpoint that moves its packets and the session that uses it.
//!
//! The protocol is a plain value: what is done to it here only leaves something to be sent, and the
//! connection then stands in the lane's list of those that are [`ReadyQueue`].

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use pushonce_proto::close::CloseCode;
use quinn_proto::{
    Connection, ConnectionHandle, Dir, Event, ReadError, SendDatagramError, StreamId, VarInt,
    WriteError,
};
use tokio::sync::Notify;

pub(super) struct LaneConnection {
    protocol: RefCell<Connection>,
    handle: ConnectionHandle,
    ready_queue: Rc<ReadyQueue>,
    is_ready: Cell<bool>,
    is_session_woken: Cell<bool>,
    /// A datagram found no room.
    is_datagram_blocked: Cell<bool>,
    /// Packets that were lost, as far as is known, of a connection that sends datagrams.
    lost_packets_seen: Cell<Option<u64>>,
    /// For those who wait to open a stream.
    streams_changed: Notify,
}

/// The connections of a lane that have something to send, or whose session is to have a turn. Each
/// stands in it at most once.
#[derive(Default)]
pub(super) struct ReadyQueue {
    handles: RefCell<VecDeque<ConnectionHandle>>,
    notify: Notify,
}

/// Why a stream takes nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamWriteError {
    /// There is no room yet; the session has a turn when there is.
    Blocked,
    /// The client stopped this one.
    Stopped,
    /// The stream is over.
    Closed,
}

/// What there is to read.
pub(super) enum StreamRead {
    Bytes(Bytes),
    Blocked,
    /// The client has finished or taken back its stream.
    End,
}

impl ReadyQueue {
    pub(super) fn pop(&self) -> Option<ConnectionHandle> {
        self.handles.borrow_mut().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handles.borrow().is_empty()
    }

    /// Waits until a connection is due, also for one that was before the call.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }

    fn push(&self, handle: ConnectionHandle) {
        let mut handles = self.handles.borrow_mut();
        handles.push_back(handle);
        if handles.len() == 1 {
            self.notify.notify_one();
        }
    }
}

impl LaneConnection {
    pub(super) fn new(
        handle: ConnectionHandle,
        protocol: Connection,
        ready_queue: Rc<ReadyQueue>,
    ) -> LaneConnection {
        LaneConnection {
            protocol: RefCell::new(protocol),
            handle,
            ready_queue,
            is_ready: Cell::new(false),
            is_session_woken: Cell::new(false),
            is_datagram_blocked: Cell::new(false),
            lost_packets_seen: Cell::new(None),
            streams_changed: Notify::new(),
        }
    }

    // === for the endpoint ===

    /// The protocol's own. What changes it leaves the connection [due](Link::set_due).
    pub(super) fn protocol(&self) -> RefMut<'_, Connection> {
        self.protocol.borrow_mut()
    }

    pub(super) fn mark_ready(&self) {
        if !self.is_ready.replace(true) {
            self.ready_queue.push(self.handle);
        }
    }

    /// From here on what is done leaves the connection due again.
    pub(super) fn clear_ready(&self) {
        self.is_ready.set(false);
    }

    /// What happened to it. Nothing is borrowed afterwards.
    pub(super) fn poll_event(&self) -> Option<Event> {
        self.protocol().poll()
    }

    /// Whether the session was [called](Link::call) since this was asked last.
    pub(super) fn take_session_wake(&self) -> bool {
        self.is_session_woken.take()
    }

    /// Whether a packet was lost since this was asked last, and may have been one with datagrams.
    pub(super) fn take_packet_loss(&self) -> bool {
        let Some(seen) = self.lost_packets_seen.get() else { return false };
        let lost = self.protocol().stats().path.lost_packets;
        self.lost_packets_seen.set(Some(lost));
        lost > seen
    }

    /// Packets have left: for a datagram that found no room there may be some.
    pub(super) fn on_packets_sent(&self) {
        if self.is_datagram_blocked.take() {
            self.wake_session();
        }
    }

    /// There may be room for a stream, or never will be.
    pub(super) fn wake_stream_openers(&self) {
        self.streams_changed.notify_waiters();
    }

    // === for the session ===

    /// The session wants a turn.
    pub(super) fn wake_session(&self) {
        self.is_session_woken.set(true);
        self.mark_ready();
    }

    /// Bounds what is on its way for the rest of the connection: it brings messages of which the
    /// client wants the newest only.
    pub(super) fn limit_in_flight(&self) {
        self.protocol().set_send_window(super::LATEST_SEND_WINDOW_BYTES);
    }

    /// Writes all of `bytes`, which then is empty. An error: something is left, and unless the
    /// stream is over, the session has a turn when there is room.
    pub(super) fn write(
        &self,
        stream: StreamId,
        bytes: &mut Bytes,
    ) -> Result<(), StreamWriteError> {
        let mut protocol = self.protocol();
        let mut stream = protocol.send_stream(stream);
        while !bytes.is_empty() {
            match stream.write_chunks(std::slice::from_mut(bytes)) {
                Ok(_) => self.mark_ready(),
                Err(WriteError::Blocked) => {
                    // The client is told that it blocks.
                    self.mark_ready();
                    return Err(StreamWriteError::Blocked);
                }
                Err(WriteError::Stopped(_)) => return Err(StreamWriteError::Stopped),
                Err(WriteError::ClosedStream) => return Err(StreamWriteError::Closed),
            }
        }
        Ok(())
    }

    /// Whether the client takes datagrams.
    pub(super) fn supports_datagrams(&self) -> bool {
        self.protocol().datagrams().max_size().is_some_and(|max| max > 0)
    }

    /// Sends a datagram, unless it is too long for one. An error: there is no room, and the session has
    /// a turn when there is.
    pub(super) fn send_datagram(&self, datagram: Bytes) -> Result<bool, StreamWriteError> {
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

    /// The next bytes of a stream, in order.
    pub(super) fn read(&self, stream: StreamId, bytes_max: usize) -> StreamRead {
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

    /// The stream that the client has opened.
    pub(super) fn accept_stream(&self) -> Option<StreamId> {
        self.protocol().streams().accept(Dir::Bi)
    }

    /// Opens a stream once the client allows it. None: the connection is over.
    pub(super) async fn open_stream(&self) -> Option<StreamId> {
        loop {
            // Made before the look: what changes between the look and the await is not missed.
            let changed = self.streams_changed.notified();
            let opened = self.protocol().streams().open(Dir::Uni);
            if opened.is_some() || self.protocol().is_closed() {
                return opened;
            }
            changed.await;
        }
    }

    /// Ends a stream behind what was written to it. Says no when it has ended already.
    pub(super) fn finish_stream(&self, stream: StreamId) -> bool {
        self.mark_ready();
        self.protocol().send_stream(stream).finish().is_ok()
    }

    /// Ends a stream in the middle.
    pub(super) fn reset_stream(&self, stream: StreamId) {
        let _ = self.protocol().send_stream(stream).reset(VarInt::from_u32(0));
        self.mark_ready();
    }

    /// The close codes are the same on every transport.
    pub(super) fn close(&self, close: &CloseCode, reason: &str) {
        self.close_with_code(VarInt::from(close.code), reason);
    }

    /// Ends a connection that never was one of ours.
    pub(super) fn abort(&self) {
        self.close_with_code(VarInt::from_u32(0), "");
    }

    fn close_with_code(&self, code: VarInt, reason: &str) {
        let reason = Bytes::copy_from_slice(reason.as_bytes());
        self.protocol().close(Instant::now(), code, reason);
        self.wake_stream_openers();
        self.mark_ready();
    }
}

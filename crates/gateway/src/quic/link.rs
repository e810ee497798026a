//! One connection, between the endpoint that moves its packets and the session that uses it.
//!
//! The protocol is a plain value: what is done to it here only leaves something to be sent, and the
//! connection then stands in the lane's list of those that are [`Due`].

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use pushonce_proto::close::Close;
use quinn_proto::{
    Connection, ConnectionHandle, Dir, Event, ReadError, SendDatagramError, StreamId, VarInt,
    WriteError,
};
use tokio::sync::Notify;

pub(super) struct Link {
    connection: RefCell<Connection>,
    handle: ConnectionHandle,
    due: Rc<Due>,
    is_due: Cell<bool>,
    called: Cell<bool>,
    /// A datagram found no room.
    crowded: Cell<bool>,
    /// Packets that were lost, as far as is known, of a connection that sends datagrams.
    lost: Cell<Option<u64>>,
    /// For those who wait to open a stream.
    streams_changed: Notify,
}

/// The connections of a lane that have something to send, or whose session is to have a turn. Each
/// stands in it at most once.
#[derive(Default)]
pub(super) struct Due {
    handles: RefCell<VecDeque<ConnectionHandle>>,
    notify: Notify,
}

/// Why a stream takes nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// There is no room yet; the session has a turn when there is.
    Blocked,
    /// The client stopped this one.
    Stopped,
    /// The stream is over.
    Dead,
}

/// What there is to read.
pub(super) enum Read {
    Bytes(Bytes),
    Nothing,
    /// The client has finished or taken back its stream.
    End,
}

impl Due {
    pub(super) fn next(&self) -> Option<ConnectionHandle> {
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

impl Link {
    pub(super) fn new(handle: ConnectionHandle, connection: Connection, due: Rc<Due>) -> Link {
        Link {
            connection: RefCell::new(connection),
            handle,
            due,
            is_due: Cell::new(false),
            called: Cell::new(false),
            crowded: Cell::new(false),
            lost: Cell::new(None),
            streams_changed: Notify::new(),
        }
    }

    // === for the endpoint ===

    /// The protocol's own. What changes it leaves the connection [due](Link::set_due).
    pub(super) fn connection(&self) -> RefMut<'_, Connection> {
        self.connection.borrow_mut()
    }

    pub(super) fn set_due(&self) {
        if !self.is_due.replace(true) {
            self.due.push(self.handle);
        }
    }

    /// From here on what is done leaves the connection due again.
    pub(super) fn clear_due(&self) {
        self.is_due.set(false);
    }

    /// What happened to it. Nothing is borrowed afterwards.
    pub(super) fn event(&self) -> Option<Event> {
        self.connection().poll()
    }

    /// Whether the session was [called](Link::call) since this was asked last.
    pub(super) fn take_call(&self) -> bool {
        self.called.take()
    }

    /// Whether a packet was lost since this was asked last, and may have been one with datagrams.
    pub(super) fn take_loss(&self) -> bool {
        let Some(known) = self.lost.get() else { return false };
        let lost = self.connection().stats().path.lost_packets;
        self.lost.set(Some(lost));
        lost > known
    }

    /// Packets have left: for a datagram that found no room there may be some.
    pub(super) fn has_sent(&self) {
        if self.crowded.take() {
            self.call();
        }
    }

    /// There may be room for a stream, or never will be.
    pub(super) fn wake_openers(&self) {
        self.streams_changed.notify_waiters();
    }

    // === for the session ===

    /// The session wants a turn.
    pub(super) fn call(&self) {
        self.called.set(true);
        self.set_due();
    }

    /// Bounds what is on its way for the rest of the connection: it brings messages of which the
    /// client wants the newest only.
    pub(super) fn keep_fresh(&self) {
        self.connection().set_send_window(super::FRESH_SEND_WINDOW_BYTES);
    }

    /// Writes all of `bytes`, which then is empty. An error: something is left, and unless the
    /// stream is over, the session has a turn when there is room.
    pub(super) fn write(&self, stream: StreamId, bytes: &mut Bytes) -> Result<(), Full> {
        let mut connection = self.connection();
        let mut stream = connection.send_stream(stream);
        while !bytes.is_empty() {
            match stream.write_chunks(std::slice::from_mut(bytes)) {
                Ok(_) => self.set_due(),
                Err(WriteError::Blocked) => {
                    // The client is told that it blocks.
                    self.set_due();
                    return Err(Full::Blocked);
                }
                Err(WriteError::Stopped(_)) => return Err(Full::Stopped),
                Err(WriteError::ClosedStream) => return Err(Full::Dead),
            }
        }
        Ok(())
    }

    /// Whether the client takes datagrams.
    pub(super) fn has_datagrams(&self) -> bool {
        self.connection().datagrams().max_size().is_some_and(|max| max > 0)
    }

    /// Sends a datagram, unless it is too long for one. An error: there is no room, and the session has
    /// a turn when there is.
    pub(super) fn send_datagram(&self, datagram: Bytes) -> Result<bool, Full> {
        let mut connection = self.connection();
        match connection.datagrams().send(datagram, false) {
            Ok(()) => {
                if self.lost.get().is_none() {
                    self.lost.set(Some(connection.stats().path.lost_packets));
                }
                self.set_due();
                Ok(true)
            }
            Err(SendDatagramError::Blocked(_)) => {
                self.crowded.set(true);
                Err(Full::Blocked)
            }
            Err(_) => Ok(false),
        }
    }

    /// The next bytes of a stream, in order.
    pub(super) fn read(&self, stream: StreamId, bytes_max: usize) -> Read {
        let mut connection = self.connection();
        let mut stream = connection.recv_stream(stream);
        let Ok(mut chunks) = stream.read(true) else { return Read::End };
        let read = chunks.next(bytes_max);
        if chunks.finalize().should_transmit() {
            self.set_due();
        }
        match read {
            Ok(Some(chunk)) => Read::Bytes(chunk.bytes),
            Err(ReadError::Blocked) => Read::Nothing,
            Ok(None) | Err(ReadError::Reset(_)) => Read::End,
        }
    }

    /// The stream that the client has opened.
    pub(super) fn accept(&self) -> Option<StreamId> {
        self.connection().streams().accept(Dir::Bi)
    }

    /// Opens a stream once the client allows it. None: the connection is over.
    pub(super) async fn open(&self) -> Option<StreamId> {
        loop {
            // Made before the look: what changes between the look and the await is not missed.
            let change = self.streams_changed.notified();
            let opened = self.connection().streams().open(Dir::Uni);
            if opened.is_some() || self.connection().is_closed() {
                return opened;
            }
            change.await;
        }
    }

    /// Ends a stream behind what was written to it. Says no when it has ended already.
    pub(super) fn finish(&self, stream: StreamId) -> bool {
        self.set_due();
        self.connection().send_stream(stream).finish().is_ok()
    }

    /// Ends a stream in the middle.
    pub(super) fn reset(&self, stream: StreamId) {
        let _ = self.connection().send_stream(stream).reset(VarInt::from_u32(0));
        self.set_due();
    }

    /// The close codes are the same on every transport.
    pub(super) fn close(&self, close: &Close, reason: &str) {
        self.end(VarInt::from(close.code), reason);
    }

    /// Ends a connection that never was one of ours.
    pub(super) fn drop_out(&self) {
        self.end(VarInt::from_u32(0), "");
    }

    fn end(&self, code: VarInt, reason: &str) {
        let reason = Bytes::copy_from_slice(reason.as_bytes());
        self.connection().close(Instant::now(), code, reason);
        self.wake_openers();
        self.set_due();
    }
}

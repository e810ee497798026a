//! One WebSocket session: a task that waits for its socket.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, Topic};
use pushonce_fanout::Wire;
use pushonce_proto::client::{Encoding, Event};
use pushonce_proto::close::{self, Close};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::codec::{Decoder, Incoming, Limits, Violation};
use super::frame;
use super::heartbeat;
use super::opening::Opening;
use super::outlet::Outlet;
use crate::driver::{Driver, NoWay, Transport};
use crate::encoder;
use crate::lane::Local;
use crate::metrics::Door;
use crate::pulse::Vitals;

/// How long the other side has to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// Fragments of one message: enough for a client that sends its largest message by a kibibyte.
const FRAGMENTS_MAX: u32 = 256;

/// Begins a session, and gives back what runs it to its last byte. `early` are the bytes that came
/// behind the request.
pub(crate) fn run(
    local: Rc<Local>,
    stream: TcpStream,
    early: &[u8],
    opening: Opening,
) -> impl Future<Output = ()> + use<> {
    let mut session = Session::new(local, stream, opening.encoding(), opening.deflate());
    match opening.subscribe {
        Ok(None) => {}
        Ok(Some(subscribe)) => session.driver.request(Ok(subscribe)),
        // Sent again, the same request is as wrong.
        Err(invalid) => {
            let reason = invalid.message.clone();
            session.driver.request(Err(invalid));
            session.driver.close(&close::BAD_FRAME, reason);
        }
    }
    session.take(early);
    session
}

/// The socket, as the session's driver sees it.
struct Socket {
    outlet: Rc<RefCell<Outlet>>,
    encoding: Encoding,
    /// Both sides may deflate.
    deflate: bool,
    heard: Cell<bool>,
}

struct Session {
    driver: Rc<Driver<Socket>>,
    stream: Rc<TcpStream>,
    decoder: Decoder,
    peer: Peer,
    /// Once it is only taking its leave, the end of that.
    farewell: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Talks,
    /// Its close frame came: it sends nothing more.
    Closed,
    /// The connection is gone.
    Gone,
}

// === impl Session ===

impl Session {
    fn new(local: Rc<Local>, stream: TcpStream, encoding: Encoding, deflate: bool) -> Session {
        let limits = Limits {
            message_bytes_max: local.frame_bytes_max(encoding),
            fragments_max: FRAGMENTS_MAX,
        };
        let stream = Rc::new(stream);
        let outlet = Rc::new(RefCell::new(Outlet::new(stream.clone(), local.clone())));
        let socket = Socket { outlet, encoding, deflate, heard: Cell::new(true) };
        let driver = Driver::begin(local, socket);
        let decoder = Decoder::new(limits, deflate);
        Session { driver, stream, decoder, peer: Peer::Talks, farewell: None }
    }

    /// Ready when the session is over, or nothing but the farewell is left of it.
    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.driver.transport().outlet.borrow_mut().register(cx.waker());
        loop {
            let wrote = self.poll_write(cx);
            let outlet = self.driver.transport().outlet.borrow();
            if !outlet.open() || self.peer != Peer::Talks {
                return Poll::Ready(());
            }
            let congested = outlet.congested();
            drop(outlet);
            if !congested && self.poll_read(cx).is_ready() {
                // One buffer a turn: a client that never pauses would hold up its whole lane.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if wrote.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Ready when something was written, pending when nothing is to be, or nothing can be.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let outlet = &self.driver.transport().outlet;
        if !outlet.borrow().waits_for_socket() || self.stream.poll_write_ready(cx).is_pending() {
            return Poll::Pending;
        }
        outlet.borrow_mut().flush();
        let room = outlet.borrow_mut().take_room();
        if room {
            self.driver.writable();
        }
        Poll::Ready(())
    }

    /// Ready when one buffer was read, or the end of all.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.driver.clone();
        let mut scratch = driver.local().scratch.borrow_mut();
        while self.stream.poll_read_ready(cx).is_ready() {
            match self.stream.try_read(&mut scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(0) | Err(_) => self.peer = Peer::Gone,
                Ok(len) => self.take(&scratch[..len]),
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Bytes came.
    fn take(&mut self, mut bytes: &[u8]) {
        self.driver.transport().heard.set(true);
        let encoding = self.driver.transport().encoding;
        self.decoder.limit(self.driver.local().frame_bytes_max(encoding));
        let mut ping = None;
        while self.peer == Peer::Talks && self.driver.transport().outlet.borrow().open() {
            match self.decoder.decode(&mut bytes) {
                Ok(Some(Incoming::Ping(payload))) => ping = Some(payload),
                Ok(Some(incoming)) => self.incoming(incoming),
                Ok(None) => break,
                Err(violation) => self.violation(violation),
            }
        }
        // RFC 6455, 5.5.3: of several pings only the last need be answered.
        if let Some(payload) = ping {
            self.driver.transport().outlet.borrow_mut().push(frame::pong(&payload));
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        let encoding = self.driver.transport().encoding;
        match (incoming, encoding) {
            (Incoming::Text(payload), Encoding::Json)
            | (Incoming::Binary(payload), Encoding::Proto) => {
                self.driver.request(encoding.decode_request(&payload));
            }
            (Incoming::Text(_) | Incoming::Binary(_), _) => {
                self.driver.close(&close::UNSUPPORTED, other_kind(encoding));
            }
            (Incoming::Ping(_), _) => {}
            (Incoming::Pong(payload), _) => {
                if self.driver.transport().outlet.borrow_mut().on_pong(&payload) {
                    self.driver.writable();
                }
            }
            (Incoming::Close(code), _) => {
                // RFC 6455, 5.5.1: the same code goes back.
                let echo = frame::close(code.unwrap_or(close::NORMAL.code), "");
                self.driver.transport().outlet.borrow_mut().push_last(echo);
                self.peer = Peer::Closed;
            }
        }
    }

    fn violation(&mut self, Violation { code, why }: Violation) {
        let close = match code {
            1007 => &close::BAD_DATA,
            1009 => &close::TOO_BIG,
            _ => &close::PROTOCOL_ERROR,
        };
        self.driver.close(close, why);
    }

    /// Sends what is queued, hears the other side out, then lets the connection go: to drop it with
    /// unread bytes would take the last frames away from the client.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = self.poll_write(cx);
        let outlet = self.driver.transport().outlet.borrow();
        if outlet.dead() || self.peer == Peer::Gone {
            return Poll::Ready(());
        }
        if !outlet.waits_for_socket() {
            // Twice does no harm, and an error only says that the other side was first.
            let _ = SockRef::from(&*self.stream).shutdown(Shutdown::Write);
        }
        drop(outlet);
        while self.poll_drain(cx).is_ready() {
            if self.peer == Peer::Gone {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Reads and forgets.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.poll_read_ready(cx).is_pending() {
            return Poll::Pending;
        }
        let mut scratch = self.driver.local().scratch.borrow_mut();
        match self.stream.try_read(&mut scratch) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => self.peer = Peer::Gone,
            Ok(_) => {}
        }
        Poll::Ready(())
    }
}

/// Text where protobuf is spoken, or the other way round.
fn other_kind(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "this session speaks JSON: send text messages",
        Encoding::Proto => "this session speaks protobuf: send binary messages",
    }
}

/// By hand, for it is all that most sessions are, most of the time: an async block would hold the
/// session twice.
impl Future for Session {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.farewell.is_none() {
            ready!(self.poll_live(cx));
            self.driver.end();
            self.farewell = Some(Box::pin(tokio::time::sleep(FAREWELL)));
        }
        // Whoever is gone or does not read has no part in a farewell.
        if self.poll_farewell(cx).is_ready() {
            return Poll::Ready(());
        }
        self.farewell.as_mut().map_or(Poll::Ready(()), |over| over.as_mut().poll(cx))
    }
}

/// Also when the lane cuts the session off: the driver and the lane hold each other.
impl Drop for Session {
    fn drop(&mut self) {
        self.driver.end();
    }
}

// === impl Socket ===

impl Transport for Socket {
    const DOOR: Door = Door::WebSocket;

    fn wire(&self) -> Wire {
        match (self.encoding, self.deflate) {
            (Encoding::Json, false) => encoder::WS_JSON,
            (Encoding::Json, true) => encoder::WS_JSON_DEFLATE,
            (Encoding::Proto, false) => encoder::WS_PROTO,
            (Encoding::Proto, true) => encoder::WS_PROTO_DEFLATE,
        }
    }

    fn outlet(&self) -> Rc<RefCell<dyn pushonce_fanout::Outlet>> {
        self.outlet.clone()
    }

    /// All subscriptions share the one connection. One of `latest` or `rate` bounds what is under way
    /// for all of them.
    fn open(
        &self,
        _: u32,
        _: &Topic,
        delivery: Delivery,
        _: bool,
    ) -> LocalBoxFuture<'static, Result<(), NoWay>> {
        if delivery != Delivery::All {
            self.outlet.borrow_mut().keep_fresh();
        }
        std::future::ready(Ok(())).boxed_local()
    }

    fn shut(&self, _: u32) {}

    fn reply(&self, frame: Bytes) {
        self.outlet.borrow_mut().push(frame);
    }

    /// One queue, so all of them behind everything.
    fn beat(&self, positions: Vec<(u32, Topic, Position)>) {
        for positions in heartbeat::frames(positions) {
            let frame = self.encoding.encode_event(&Event::Heartbeat { positions });
            self.reply(encoder::whole(self.wire(), &frame));
        }
    }

    fn ping(&self) {
        self.outlet.borrow_mut().ping();
    }

    fn leave(&self, close: &'static Close, reason: &str) {
        self.outlet.borrow_mut().push_last(frame::close(close.code, reason));
    }

    fn vitals(&self) -> Vitals {
        let mut outlet = self.outlet.borrow_mut();
        Vitals {
            heard: self.heard.take(),
            blocked: outlet.waits(),
            progressed: outlet.take_progressed(),
        }
    }
}

#[cfg(test)]
#[path = "session/session_test.rs"]
mod session_test;

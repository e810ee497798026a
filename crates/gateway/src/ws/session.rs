//! One WebSocket session: a task that reads and writes its socket.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, Topic};
use pushonce_fanout::WireFormat;
use pushonce_proto::client::{Encoding, ServerEvent};
use pushonce_proto::close::{self, CloseCode};
use pushonce_websocket::{
    DecoderLimits, IncomingMessage, MessageDecoder, ProtocolViolation, frame,
};
use tokio::time::Sleep;

use super::heartbeat;
use super::sink::WebSocketSink;
use super::upgrade::UpgradeRequest;
use crate::driver::{SessionDriver, SessionTransport, StreamUnavailable};
use crate::encoder;
use crate::lane::LaneState;
use crate::liveness::Activity;
use crate::metrics::TransportKind;
use crate::socket::ClientSocket;

/// Maximum time for the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum fragments of one message: enough for a client that sends its largest message in pieces of 1 KiB.
const FRAGMENTS_MAX: u32 = 256;

/// Starts a session and returns the future that runs it until its end. `early` contains the bytes that were
/// received after the request.
pub(crate) fn run<S: ClientSocket>(
    lane: Rc<LaneState>,
    stream: S,
    early: &[u8],
    opening: UpgradeRequest,
) -> impl Future<Output = ()> + use<S> {
    let mut session = Session::new(lane, stream, opening.encoding(), opening.has_deflate());
    match opening.subscribe {
        Ok(None) => {}
        Ok(Some(subscribe)) => session.driver.on_request(Ok(subscribe)),
        // The session is closed: the same query would be invalid again.
        Err(invalid) => {
            let reason = invalid.message.clone();
            session.driver.on_request(Err(invalid));
            session.driver.close(&close::BAD_FRAME, reason);
        }
    }
    session.on_bytes(early);
    session
}

/// The transport that the driver of the session uses.
struct WebSocketTransport<S> {
    sink: Rc<RefCell<WebSocketSink<S>>>,
    encoding: Encoding,
    /// Whether permessage-deflate was negotiated.
    deflate: bool,
    has_received: Cell<bool>,
}

struct Session<S: ClientSocket> {
    driver: Rc<SessionDriver<WebSocketTransport<S>>>,
    stream: Rc<S>,
    decoder: MessageDecoder,
    peer: PeerState,
    /// The end of the closing handshake, once the session is closing.
    close_timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerState {
    Open,
    /// The client sent its close frame and sends nothing more.
    Closed,
    /// The connection ended.
    Disconnected,
}

// === impl Session ===

impl<S: ClientSocket> Session<S> {
    fn new(lane: Rc<LaneState>, stream: S, encoding: Encoding, deflate: bool) -> Session<S> {
        let limits = DecoderLimits {
            message_bytes_max: lane.frame_bytes_max(encoding),
            fragments_max: FRAGMENTS_MAX,
        };
        let stream = Rc::new(stream);
        let sink = Rc::new(RefCell::new(WebSocketSink::new(stream.clone(), lane.clone())));
        let transport =
            WebSocketTransport { sink, encoding, deflate, has_received: Cell::new(true) };
        let driver = SessionDriver::start(lane, transport);
        let decoder = MessageDecoder::new(limits, deflate);
        Session { driver, stream, decoder, peer: PeerState::Open, close_timer: None }
    }

    /// Ready when the session is over except for the closing handshake.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.driver.transport().sink.borrow_mut().register_waker(cx.waker());
        loop {
            let wrote = self.poll_write(cx);
            let sink = self.driver.transport().sink.borrow();
            if !sink.is_open() || self.peer != PeerState::Open {
                return Poll::Ready(());
            }
            let is_congested = sink.is_congested();
            drop(sink);
            if !is_congested && self.poll_read(cx).is_ready() {
                // Reads one buffer per turn: a client that never pauses would otherwise block its lane.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if wrote.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Ready when something was written; pending when there is nothing to write or the socket is full.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sink = &self.driver.transport().sink;
        if !sink.borrow().needs_socket() || self.stream.tcp().poll_write_ready(cx).is_pending() {
            return Poll::Pending;
        }
        sink.borrow_mut().flush();
        let is_unblocked = sink.borrow_mut().on_socket_writable();
        if is_unblocked {
            self.driver.on_writable();
        }
        Poll::Ready(())
    }

    /// Ready when one buffer or the end of the connection was read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.driver.clone();
        let mut scratch = driver.lane().scratch.borrow_mut();
        while self.stream.poll_read_ready(cx).is_ready() {
            match self.stream.try_read(&mut scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.peer = PeerState::Disconnected,
                Ok(len) => self.on_bytes(&scratch[..len]),
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Handles received bytes.
    fn on_bytes(&mut self, mut bytes: &[u8]) {
        self.driver.transport().has_received.set(true);
        let encoding = self.driver.transport().encoding;
        self.decoder.set_message_bytes_max(self.driver.lane().frame_bytes_max(encoding));
        let mut ping = None;
        while self.peer == PeerState::Open && self.driver.transport().sink.borrow().is_open() {
            match self.decoder.decode(&mut bytes) {
                Ok(Some(IncomingMessage::Ping(payload))) => ping = Some(payload),
                Ok(Some(message)) => self.on_message(message),
                Ok(None) => break,
                Err(violation) => self.on_violation(violation),
            }
        }
        // RFC 6455, 5.5.3: of several pings only the last need be answered.
        if let Some(payload) = ping {
            self.driver.transport().sink.borrow_mut().push(frame::pong(&payload));
        }
    }

    fn on_message(&mut self, message: IncomingMessage) {
        let encoding = self.driver.transport().encoding;
        match (message, encoding) {
            (IncomingMessage::Text(payload), Encoding::Json)
            | (IncomingMessage::Binary(payload), Encoding::Proto) => {
                self.driver.on_request(encoding.decode_request(&payload));
            }
            (IncomingMessage::Text(_) | IncomingMessage::Binary(_), _) => {
                self.driver.close(&close::UNSUPPORTED, wrong_message_kind(encoding));
            }
            (IncomingMessage::Ping(_), _) => {}
            (IncomingMessage::Pong(payload), _) => {
                if self.driver.transport().sink.borrow_mut().on_pong(&payload) {
                    self.driver.on_writable();
                }
            }
            (IncomingMessage::Close(code), _) => {
                // RFC 6455, 5.5.1: the reply carries the same code.
                let echo = frame::close(code.unwrap_or(close::NORMAL.code), "");
                self.driver.transport().sink.borrow_mut().push_last(echo);
                self.peer = PeerState::Closed;
            }
        }
    }

    fn on_violation(&mut self, ProtocolViolation { code, reason }: ProtocolViolation) {
        let close = match code {
            1007 => &close::BAD_DATA,
            1009 => &close::TOO_BIG,
            _ => &close::PROTOCOL_ERROR,
        };
        self.driver.close(close, reason);
    }

    /// Sends queued frames and discards input until the client closes the connection. Closing a socket with
    /// unread bytes would reset the connection and discard the last frames at the client.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = self.poll_write(cx);
        let sink = self.driver.transport().sink.borrow();
        if sink.has_failed() || self.peer == PeerState::Disconnected {
            return Poll::Ready(());
        }
        let is_sent = !sink.needs_socket();
        drop(sink);
        if is_sent {
            // Repeating the call is harmless.
            self.stream.close_write();
            // The last bytes of TLS may wait for the socket.
            let _ = self.poll_write(cx);
        }
        while self.poll_discard(cx).is_ready() {
            if self.peer == PeerState::Disconnected {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Reads and discards one buffer.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.poll_read_ready(cx).is_pending() {
            return Poll::Pending;
        }
        let mut scratch = self.driver.lane().scratch.borrow_mut();
        match self.stream.try_read(&mut scratch) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(0) | Err(_) => self.peer = PeerState::Disconnected,
            Ok(_) => {}
        }
        Poll::Ready(())
    }
}

/// The close reason for a text message in a protobuf session, or a binary message in a JSON session.
fn wrong_message_kind(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "this session uses JSON; send text messages",
        Encoding::Proto => "this session uses protobuf; send binary messages",
    }
}

/// Implemented by hand to save memory in idle sessions: an async block would contain the session twice.
impl<S: ClientSocket> Future for Session<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.close_timer.is_none() {
            ready!(self.poll_open(cx));
            self.driver.stop();
            self.close_timer = Some(Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        }
        // A client that is disconnected or does not read ends the closing handshake early.
        if self.poll_closing(cx).is_ready() {
            return Poll::Ready(());
        }
        self.close_timer.as_mut().map_or(Poll::Ready(()), |timer| timer.as_mut().poll(cx))
    }
}

/// Stops the driver also when the lane drops the session: the driver and the lane refer to each other.
impl<S: ClientSocket> Drop for Session<S> {
    fn drop(&mut self) {
        self.driver.stop();
    }
}

// === impl WebSocketTransport ===

impl<S: ClientSocket> SessionTransport for WebSocketTransport<S> {
    const KIND: TransportKind = TransportKind::WebSocket;

    fn wire(&self) -> WireFormat {
        match (self.encoding, self.deflate) {
            (Encoding::Json, false) => encoder::WS_JSON,
            (Encoding::Json, true) => encoder::WS_JSON_DEFLATE,
            (Encoding::Proto, false) => encoder::WS_PROTO,
            (Encoding::Proto, true) => encoder::WS_PROTO_DEFLATE,
        }
    }

    fn sink(&self) -> Rc<RefCell<dyn pushonce_fanout::FrameSink>> {
        self.sink.clone()
    }

    /// All subscriptions share one connection. A subscription of `latest` or `rate` limits the frames in
    /// flight for all of them.
    fn open_subscription(
        &self,
        _: u32,
        _: &Topic,
        delivery: Delivery,
        _: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>> {
        if delivery != Delivery::All {
            self.sink.borrow_mut().limit_in_flight();
        }
        std::future::ready(Ok(())).boxed_local()
    }

    fn close_subscription(&self, _: u32) {}

    fn reply(&self, frame: Bytes) {
        self.sink.borrow_mut().push(frame);
    }

    /// There is one queue, so every position follows the frames that it covers.
    fn send_heartbeat(&self, positions: Vec<(u32, Topic, Position)>) {
        for positions in heartbeat::split_into_frames(positions) {
            let frame = self.encoding.encode_event(&ServerEvent::Heartbeat { positions });
            self.reply(encoder::wrap(self.wire(), &frame));
        }
    }

    fn send_ping(&self) {
        self.sink.borrow_mut().ping();
    }

    fn close(&self, close: &'static CloseCode, reason: &str) {
        self.sink.borrow_mut().push_last(frame::close(close.code, reason));
    }

    fn take_activity(&self) -> Activity {
        let mut sink = self.sink.borrow_mut();
        Activity {
            received: self.has_received.take(),
            blocked: sink.has_pending(),
            progressed: sink.take_progressed(),
        }
    }
}

#[cfg(test)]
#[path = "session/session_test.rs"]
mod session_test;

//! One WebSocket session: a task that reads and writes its socket.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, Topic};
use pushonce_fanout::WireFormat;
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ServerEvent};
use pushonce_proto::close::{self, CloseCode};
use pushonce_websocket::{
    DecoderLimits, IncomingMessage, MessageDecoder, ProtocolViolation, frame,
};
use tokio::time::Sleep;

use super::heartbeat;
use super::upgrade::UpgradeRequest;
use crate::driver::{SessionDriver, SessionTransport, StreamUnavailable};
use crate::lane::LaneState;
use crate::liveness::Activity;
use crate::metrics::TransportKind;
use crate::partial::PartialMessage;
use crate::session::ReceiveState;
use crate::socket::{SessionSocket, Tcp as _};
use crate::socket_sink::SocketSink;
use crate::{connection, encoder, work};

/// Maximum time for the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that are read at once between messages. Within a long message more are read.
const READ_BYTES: usize = 8 << 10;

/// Maximum fragments of one message: enough for a client that sends its largest message in pieces of 1 KiB.
const FRAGMENTS_MAX: u32 = 256;

/// Starts a session and returns the future that runs it until its end. `early` contains the bytes that were
/// received after the request.
pub(crate) fn run<S: SessionSocket>(
    lane: Rc<LaneState>,
    stream: S,
    early: &[u8],
    opening: UpgradeRequest,
) -> impl Future<Output = ()> + use<S> {
    let mut session = Session::new(lane, stream, opening.encoding(), opening.has_deflate());
    if let Some(caller) = opening.caller {
        session.driver.set_caller(caller);
    }
    if let Some(token) = opening.token {
        let command = ClientCommand::Authenticate { token };
        session.driver.on_request(Ok(ClientRequest { id: None, command }));
    }
    if let Some(error) = opening.refused_ticket {
        session.driver.refuse(&error);
    }
    #[cfg(feature = "echo")]
    {
        session.is_echo = opening.is_echo;
    }
    match opening.subscribe {
        Ok(None) => {}
        Ok(Some(subscribe)) => _ = session.driver.on_request(Ok(subscribe)),
        // The session is closed: the same query would be invalid again.
        Err(invalid) => {
            let reason = invalid.message.clone();
            session.driver.on_request(Err(invalid));
            session.driver.close(&close::BAD_FRAME, reason);
        }
    }
    session.unread = early.into();
    session
}

/// The transport that the driver of the session uses.
struct WebSocketTransport<S> {
    sink: Rc<RefCell<SocketSink<S>>>,
    encoding: Encoding,
    /// Whether permessage-deflate was negotiated.
    deflate: bool,
    has_received: Cell<bool>,
}

struct Session<S: SessionSocket> {
    driver: Rc<SessionDriver<WebSocketTransport<S>>>,
    stream: Rc<S>,
    decoder: MessageDecoder,
    /// Received bytes that are not decoded yet, because the turn of the session was over or its credential is being
    /// verified. At most [`READ_BYTES`], or what came with the handshake.
    unread: Box<[u8]>,
    /// The message that is only half received, if there is one.
    partial: Option<Box<PartialMessage>>,
    /// While it runs, the session is not read.
    pause: Option<Pin<Box<Sleep>>>,
    peer: PeerState,
    /// The end of the closing handshake, once the session is closing.
    close_timer: Option<Pin<Box<Sleep>>>,
    #[cfg(feature = "echo")]
    is_echo: bool,
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

impl<S: SessionSocket> Session<S> {
    fn new(lane: Rc<LaneState>, stream: S, encoding: Encoding, deflate: bool) -> Session<S> {
        // Set anew before each message.
        let limits = DecoderLimits { message_bytes_max: 0, fragments_max: FRAGMENTS_MAX };
        let address = connection::client_address(stream.tcp());
        let stream = Rc::new(stream);
        let sink = SocketSink::new(stream.clone(), lane.clone(), TransportKind::WebSocket);
        let sink = Rc::new(RefCell::new(sink));
        let transport =
            WebSocketTransport { sink, encoding, deflate, has_received: Cell::new(true) };
        let driver = SessionDriver::start(lane, transport, address);
        Session {
            driver,
            stream,
            decoder: MessageDecoder::new(limits, deflate),
            unread: Box::default(),
            partial: None,
            pause: None,
            peer: PeerState::Open,
            close_timer: None,
            #[cfg(feature = "echo")]
            is_echo: false,
        }
    }

    /// Ready when the session is over except for the closing handshake.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let wrote = self.poll_write(cx);
            let sink = self.driver.transport().sink.borrow();
            if !sink.is_open() || self.peer != PeerState::Open {
                return Poll::Ready(());
            }
            let is_congested = sink.is_congested();
            drop(sink);
            if let Some(partial) = &mut self.partial
                && let Poll::Ready((close, reason)) = partial.poll_refused(cx)
            {
                self.partial = None;
                self.driver.close(close, reason);
                continue;
            }
            let is_waiting = self.driver.receive_state() == ReceiveState::Waiting;
            let may_read = !is_congested && !is_waiting && !self.is_paused(cx);
            if may_read && self.poll_read(cx).is_ready() {
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

    /// Whether the session must not be read now, because its requests cost more than its share of the lane.
    fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else { return false };
        let is_over = pause.as_mut().poll(cx).is_ready();
        if is_over {
            self.pause = None;
        }
        !is_over
    }

    /// Ready when one buffer or the end of the connection was read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let unread = std::mem::take(&mut self.unread);
        if !unread.is_empty() {
            self.on_bytes(&unread);
            return Poll::Ready(());
        }
        let driver = self.driver.clone();
        let mut scratch = driver.lane().scratch.borrow_mut();
        let len_max = self.decoder.remaining_payload_bytes().max(READ_BYTES).min(scratch.len());
        let scratch = &mut scratch[..len_max];
        while self.stream.poll_read_ready(cx).is_ready() {
            match self.stream.try_read(scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.peer = PeerState::Disconnected,
                Ok(len) => self.on_bytes(&scratch[..len]),
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Handles received bytes, as many as the turn of the session allows.
    fn on_bytes(&mut self, mut bytes: &[u8]) {
        self.driver.transport().has_received.set(true);
        let (mut ping, mut micros) = (None, 0);
        while self.peer == PeerState::Open && self.driver.transport().sink.borrow().is_open() {
            let state = self.driver.receive_state();
            if micros >= work::TURN_MICROS || state == ReceiveState::Waiting {
                self.unread = bytes.into();
                break;
            }
            self.decoder.set_message_bytes_max(state.frame_bytes_max(self.open_frame_bytes_max()));
            match self.decoder.decode(&mut bytes) {
                Ok(Some(IncomingMessage::Ping(payload))) => ping = Some(payload),
                Ok(Some(message)) => {
                    // A ping between the fragments of a message is answered before the message.
                    if matches!(message, IncomingMessage::Text(_) | IncomingMessage::Binary(_)) {
                        self.answer_ping(ping.take());
                    }
                    micros += self.on_message(message);
                }
                Ok(None) => break,
                Err(violation) => self.on_violation(violation),
            }
        }
        // RFC 6455, 5.5.3: of several pings only the last need be answered.
        self.answer_ping(ping);
        if let Some(pause) = self.driver.charge_work(micros) {
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        self.update_partial();
    }

    /// The bound of a message of a session with a verified credential.
    fn open_frame_bytes_max(&self) -> usize {
        self.driver.lane().frame_bytes_max(self.driver.transport().encoding)
    }

    fn answer_ping(&self, ping: Option<Bytes>) {
        if let Some(payload) = ping {
            self.driver.transport().sink.borrow_mut().push(frame::pong(&payload));
        }
    }

    /// Charges the bytes of a half-received message to the budget of the node.
    fn update_partial(&mut self) {
        if !self.decoder.is_within_message() {
            self.partial = None;
            return;
        }
        let begin = || Box::new(PartialMessage::new(self.driver.begin_partial_message()));
        let partial = self.partial.get_or_insert_with(begin);
        if let Err(exceeded) = partial.set_bytes(self.decoder.buffered_bytes()) {
            self.partial = None;
            self.driver.close(&close::OVERLOADED, exceeded.to_string());
        }
    }

    /// Handles a message and returns its cost in microseconds of the lane.
    fn on_message(&mut self, message: IncomingMessage) -> u32 {
        #[cfg(feature = "echo")]
        if self.is_echo
            && let Some(echo) = super::echo::frame(&message, self.driver.transport().deflate)
        {
            self.driver.transport().reply(echo);
            return 0;
        }
        let encoding = self.driver.transport().encoding;
        match (message, encoding) {
            (IncomingMessage::Text(payload), Encoding::Json)
            | (IncomingMessage::Binary(payload), Encoding::Proto) => {
                // The next message has its own time to be complete.
                self.partial = None;
                let micros = self.driver.on_request(encoding.decode_request(&payload));
                let is_deflated = self.driver.transport().deflate;
                return micros + if is_deflated { work::inflate_micros(payload.len()) } else { 0 };
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
        0
    }

    fn on_violation(&mut self, violation: ProtocolViolation) {
        let ProtocolViolation { code, reason } = violation;
        if violation.is_too_long() {
            return self.driver.close_too_large(reason);
        }
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
impl<S: SessionSocket> Future for Session<S> {
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
impl<S: SessionSocket> Drop for Session<S> {
    fn drop(&mut self) {
        self.driver.stop();
    }
}

// === impl WebSocketTransport ===

impl<S: SessionSocket> SessionTransport for WebSocketTransport<S> {
    fn kind(&self) -> TransportKind {
        TransportKind::WebSocket
    }

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

    fn resume_receiving(&self) {
        self.sink.borrow().wake_session();
    }

    fn close(&self, close: &'static CloseCode, reason: &str) {
        self.sink.borrow_mut().push_last(frame::close(close.code, reason));
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        self.sink.borrow().remote_address()
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

//! One session over raw QUIC or WebTransport, from the handshake to the last frame. It is not a task: the endpoint drives it after
//! each event of its connection.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, Topic};
use pushonce_fanout::WireFormat;
use pushonce_listener::{Holding, MESSAGE_TIMEOUT};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ServerEvent};
use pushonce_proto::close::{self, CloseCode};
use pushonce_proto::delimited;
use pushonce_quic::{Connection, ConnectionEvent, ConnectionHandler, StreamId, StreamRead};
use pushonce_webtransport::{ConnectionError, NO_ERROR};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Span, field};

use super::carrier::Carrier;
use super::http3_output::Http3Output;
use super::sink::{FinishProgress, QuicSink};
use super::subscription::QuicSubscription;
use super::webtransport::{OpenedSession, Progress, WebTransport};
use crate::driver::{self, SessionDriver, SessionTransport, StreamUnavailable};
use crate::http::page_gate::PageGate;
use crate::lane::{LaneState, SessionPermit};
use crate::liveness::Activity;
use crate::metrics::TransportKind;
use crate::session::ReceiveState;
use crate::{partial, work};

/// Maximum time for the acknowledgement of the last replies.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time for a client to allow the stream of a subscription.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Session {
    lane: Rc<LaneState>,
    connection: Rc<Connection>,
    phase: SessionPhase,
    pages: PageGate,
    /// The HTTP/3 connection, if the client chose that protocol.
    webtransport: Option<WebTransport>,
    /// The deadline of the current phase, if it has one.
    deadline: Option<Instant>,
    /// The connection permit, held until the session is closed.
    permit: Option<SessionPermit>,
    /// Names the session in log lines; disabled unless `debug` is on.
    span: Span,
    /// A draining lane waits until the client knows that the connection is closed.
    _drain_token: TaskTrackerToken,
}

enum SessionPhase {
    /// Waits for the handshake, then for the control stream that the client must open.
    Handshaking {
        connected: bool,
    },
    /// Over HTTP/3: waits for the request of the session and its stream.
    Requested,
    /// A request was answered with a status, on this stream.
    Rejected(StreamId),
    Open(OpenSession),
    /// Sends the last replies.
    Closing {
        session: OpenSession,
        step: ClosingStep,
    },
    Closed,
}

/// How far the end of a session is known to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosingStep {
    /// The last replies are being written.
    Replies,
    /// They were written, and are to be acknowledged.
    RepliesWritten,
    /// Over WebTransport: the code and the reason were written to this stream, and are to be acknowledged. Not before
    /// the replies: a browser drops what it has not read when the session ends.
    CloseWritten(StreamId),
}

/// The state of a session with an open control stream.
struct OpenSession {
    driver: Rc<SessionDriver<QuicTransport>>,
    control: StreamId,
    encoding: Encoding,
    decoder: delimited::FrameDecoder,
    /// Bytes that the client may send before they are read, and that are read at once.
    window_bytes: u32,
    /// The decoder may hold complete frames, because the turn of the session was over or its credential is being verified.
    has_unread: bool,
    /// The frame that is only half received, if there is one, and when it must be complete.
    partial: Option<(Holding, Instant)>,
    /// Until then the session is not read.
    paused_until: Option<Instant>,
    /// The client finished its side of the control stream.
    is_peer_finished: bool,
}

/// The transport that the driver of the session uses.
struct QuicTransport {
    connection: Rc<Connection>,
    sink: Rc<RefCell<QuicSink>>,
    carrier: Rc<Carrier>,
    /// The streams of HTTP/3 itself, over WebTransport.
    http3: Option<Rc<RefCell<Http3Output>>>,
    /// The code and reason with which the connection will be closed.
    close_reason: RefCell<Option<(&'static CloseCode, String)>>,
}

// === impl Session ===

impl Session {
    /// Creates a session at the start of its handshake.
    pub(super) fn new(
        lane: Rc<LaneState>,
        pages: PageGate,
        connection: Rc<Connection>,
        permit: SessionPermit,
    ) -> Session {
        let deadline = Some(Instant::now() + lane.config.handshake_timeout);
        let phase = SessionPhase::Handshaking { connected: false };
        let drain_token = lane.track_connection();
        let (id, remote) = (driver::next_session_id(), connection.remote_address());
        let span = tracing::debug_span!("session", id, transport = field::Empty, %remote);
        Session {
            lane,
            connection,
            phase,
            pages,
            webtransport: None,
            deadline,
            permit: Some(permit),
            span,
            _drain_token: drain_token,
        }
    }

    fn kind(&self) -> TransportKind {
        match self.webtransport {
            Some(_) => TransportKind::WebTransport,
            None => TransportKind::Quic,
        }
    }

    /// The handshake is complete: the protocol is known.
    fn on_connected(&mut self) {
        self.deadline = Some(Instant::now() + self.lane.config.handshake_timeout);
        self.phase = SessionPhase::Handshaking { connected: true };
        if self.connection.alpn().as_deref() == Some(super::ALPN_HTTP3) {
            let (lane, pages) = (self.lane.clone(), self.pages.clone());
            self.webtransport = WebTransport::start(lane, pages, self.connection.clone());
            if self.webtransport.is_none() {
                let error = ConnectionError::StreamCreation;
                self.connection.close(error.code(), "allow three unidirectional streams");
                return self.mark_closed();
            }
            self.phase = SessionPhase::Requested;
        }
        self.span.record("transport", self.kind().as_str());
    }

    /// Opens the session of raw QUIC, whose control stream is the first that the client opens.
    fn open_raw(&mut self) {
        if let Some(control) = self.connection.accept_stream() {
            self.open(Carrier::raw().into(), control, &[]);
        }
    }

    fn open(&mut self, carrier: Rc<Carrier>, control: StreamId, early: &[u8]) {
        self.deadline = None;
        let http3 = self.webtransport.as_ref().map(WebTransport::output);
        let mut session = OpenSession::start(&self.lane, &self.connection, control, carrier, http3);
        session.decoder.push(early);
        session.has_unread = !early.is_empty();
        self.phase = SessionPhase::Open(session);
    }

    fn open_webtransport(&mut self, opened: OpenedSession) {
        let OpenedSession { control, early, carrier, caller, refused_ticket } = opened;
        self.open(carrier, control, &early);
        let SessionPhase::Open(session) = &self.phase else { return };
        if let Some(caller) = caller {
            session.driver.set_caller(caller);
        }
        if let Some(error) = refused_ticket {
            session.driver.refuse(&error);
        }
    }

    /// Reads the streams of HTTP/3 itself.
    fn drive_webtransport(&mut self) {
        let is_over = matches!(self.phase, SessionPhase::Rejected(_) | SessionPhase::Closed);
        let Some(webtransport) = self.webtransport.as_mut() else { return };
        if is_over {
            return webtransport.output().borrow_mut().flush();
        }
        match webtransport.drive() {
            Ok(None) => {}
            Ok(Some(Progress::Opened(opened))) => self.open_webtransport(opened),
            Ok(Some(Progress::Rejected(stream))) => {
                self.deadline = Some(Instant::now() + CLOSE_TIMEOUT);
                self.phase = SessionPhase::Rejected(stream);
            }
            Ok(Some(Progress::Ended)) => {
                self.connection.close(NO_ERROR, "");
                self.mark_closed();
            }
            Err(error) => {
                tracing::debug!(%error, "closing connection");
                self.connection.close(error.code(), &error.to_string());
                self.mark_closed();
            }
        }
    }

    /// Stops the session. The client still receives its last replies.
    fn start_closing(&mut self) {
        if let SessionPhase::Open(session) =
            std::mem::replace(&mut self.phase, SessionPhase::Closed)
        {
            session.driver.stop();
            self.deadline = Some(Instant::now() + CLOSE_TIMEOUT);
            self.phase = SessionPhase::Closing { session, step: ClosingStep::Replies };
        }
    }

    /// Writes the last replies.
    fn drive_closing(&mut self) {
        if let SessionPhase::Closing { session, step: step @ ClosingStep::Replies } =
            &mut self.phase
        {
            let finish = session.driver.transport().sink.borrow_mut().finish_control();
            match finish {
                FinishProgress::Pending => {}
                FinishProgress::Done => *step = ClosingStep::RepliesWritten,
                FinishProgress::Failed => self.end_session(),
            }
        }
    }

    /// The client has the last replies, or accepts none: it is told the code and the reason.
    fn end_session(&mut self) {
        let SessionPhase::Closing { session, step } = &mut self.phase else { return };
        let transport = session.driver.transport();
        let Some(http3) = &transport.http3 else { return self.close_connection() };
        let (close, reason) = transport.take_close_reason();
        let request = http3.borrow_mut().close_session(close.code.into(), &reason);
        match request {
            Some(stream) => *step = ClosingStep::CloseWritten(stream),
            None => self.close_connection(),
        }
    }

    /// Closes the connection: with the chosen code and reason, or with that of HTTP/3 when they were sent already.
    fn close_connection(&mut self) {
        if self.webtransport.is_some() {
            self.connection.close(NO_ERROR, "");
        } else if let SessionPhase::Closing { session, .. } = &self.phase {
            let (close, reason) = session.driver.transport().take_close_reason();
            self.connection.close(close.code.into(), &reason);
        }
        self.mark_closed();
    }

    /// The client acknowledged a stream that ended, or reads it no longer.
    fn on_stream_ended(&mut self, id: StreamId) {
        match &self.phase {
            SessionPhase::Closing { session, step: ClosingStep::RepliesWritten }
                if id == session.control =>
            {
                self.end_session();
            }
            SessionPhase::Closing { step: ClosingStep::CloseWritten(stream), .. }
            | SessionPhase::Rejected(stream)
                if id == *stream =>
            {
                self.close_connection();
            }
            _ => {}
        }
    }

    fn mark_closed(&mut self) {
        if self.is_handshaking() {
            self.lane.metrics.for_transport(self.kind()).refused.increment(1);
        }
        self.phase = SessionPhase::Closed;
        self.deadline = None;
        self.permit = None;
    }
}

impl ConnectionHandler for Session {
    fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            SessionPhase::Open(session) => session.deadline(),
            _ => self.deadline,
        }
    }

    fn is_handshaking(&self) -> bool {
        matches!(
            self.phase,
            SessionPhase::Handshaking { .. } | SessionPhase::Requested | SessionPhase::Rejected(_)
        )
    }

    fn on_event(&mut self, event: ConnectionEvent) {
        let _entered = self.span.clone().entered();
        let is_raw = self.webtransport.is_none();
        match (event, &self.phase) {
            (ConnectionEvent::Connected, SessionPhase::Handshaking { .. }) => self.on_connected(),
            (ConnectionEvent::StreamOpened, SessionPhase::Handshaking { .. }) => self.open_raw(),
            (ConnectionEvent::UniStreamOpened, _) if is_raw => {
                let text = "open one bidirectional stream, and no other";
                self.connection.close(close::PROTOCOL_ERROR.code.into(), text);
                self.mark_closed();
            }
            (ConnectionEvent::StreamAcknowledged(id) | ConnectionEvent::StreamStopped(id), _) => {
                self.on_stream_ended(id);
            }
            (ConnectionEvent::Closed, _) => self.mark_closed(),
            _ => {}
        }
    }

    fn on_packet_lost(&mut self) {
        if let SessionPhase::Open(session) = &self.phase {
            session.driver.transport().sink.borrow_mut().on_packet_lost();
        }
    }

    fn drive(&mut self) {
        let _entered = self.span.clone().entered();
        self.drive_webtransport();
        if let SessionPhase::Open(session) = &mut self.phase
            && session.drive()
        {
            self.start_closing();
        }
        self.drive_closing();
    }

    fn on_deadline(&mut self) {
        let _entered = self.span.clone().entered();
        match &mut self.phase {
            SessionPhase::Handshaking { connected: true } => {
                let code = close::PROTOCOL_ERROR.code.into();
                self.connection.close(code, "open a bidirectional stream and send a request on it");
            }
            SessionPhase::Handshaking { connected: false } => self.connection.close(0, ""),
            SessionPhase::Requested => {
                let text = "request a WebTransport session, and open a bidirectional stream in it";
                self.connection.close(NO_ERROR, text);
            }
            // The client does not acknowledge the last replies, and does not get them.
            SessionPhase::Closing { .. } | SessionPhase::Rejected(_) => {
                return self.close_connection();
            }
            SessionPhase::Open(session) => return session.on_deadline(),
            SessionPhase::Closed => {}
        }
        self.mark_closed();
    }
}

// === impl OpenSession ===

impl OpenSession {
    fn start(
        lane: &Rc<LaneState>,
        connection: &Rc<Connection>,
        control: StreamId,
        carrier: Rc<Carrier>,
        http3: Option<Rc<RefCell<Http3Output>>>,
    ) -> OpenSession {
        let bytes_out = lane.metrics.for_transport(carrier.kind).bytes_out.clone();
        let sink = QuicSink::new(connection.clone(), control, bytes_out, carrier.may_reset);
        let encoding = carrier.encoding();
        let transport = QuicTransport {
            connection: connection.clone(),
            sink: Rc::new(RefCell::new(sink)),
            carrier,
            http3,
            close_reason: RefCell::new(None),
        };
        // The bound is set anew before each frame.
        let decoder = delimited::FrameDecoder::new(0);
        let address = connection.remote_address().ip().into();
        let driver = SessionDriver::start(lane.clone(), transport, address);
        OpenSession {
            driver,
            control,
            encoding,
            decoder,
            window_bytes: super::UNAUTHENTICATED_RECEIVE_WINDOW_BYTES,
            has_unread: false,
            partial: None,
            paused_until: None,
            is_peer_finished: false,
        }
    }

    /// Makes progress and returns whether the session is over.
    fn drive(&mut self) -> bool {
        let sink = self.driver.transport().sink.clone();
        loop {
            let has_room = sink.borrow_mut().flush();
            if has_room {
                self.driver.on_writable();
            }
            let stopped_topics = sink.borrow_mut().take_stopped_topics();
            for topic in stopped_topics {
                let command = ClientCommand::Unsubscribe { topic };
                let _ = self.driver.on_request(Ok(ClientRequest { id: None, command }));
            }
            if self.is_peer_finished || !sink.borrow().is_open() {
                return true;
            }
            let is_congested = sink.borrow().is_congested();
            let is_waiting = self.driver.receive_state() == ReceiveState::Waiting;
            let may_read = !is_congested && !is_waiting && self.paused_until.is_none();
            if !may_read || !self.read_control() {
                return false;
            }
            if self.has_unread {
                // The other sessions of the lane run first.
                self.driver.transport().connection.wake_handler();
                return false;
            }
        }
    }

    /// When [`OpenSession::on_deadline`] is to be called.
    fn deadline(&self) -> Option<Instant> {
        let complete_by = self.partial.as_ref().map(|(_, complete_by)| *complete_by);
        [complete_by, self.paused_until].into_iter().flatten().min()
    }

    fn on_deadline(&mut self) {
        let now = Instant::now();
        self.paused_until = self.paused_until.filter(|&until| until > now);
        if self.partial.as_ref().is_some_and(|(_, complete_by)| *complete_by <= now) {
            self.partial = None;
            let (close, reason) = partial::timeout();
            self.driver.close(close, reason);
        }
        self.driver.transport().connection.wake_handler();
    }

    /// Reads from the control stream and returns whether bytes or its end were read.
    fn read_control(&mut self) -> bool {
        if std::mem::take(&mut self.has_unread) {
            self.decode_frames();
            return true;
        }
        self.widen_window();
        let connection = &self.driver.transport().connection;
        match connection.read(self.control, self.window_bytes as usize) {
            StreamRead::Bytes(bytes) => {
                self.decoder.push(&bytes);
                self.decode_frames();
            }
            StreamRead::End => self.is_peer_finished = true,
            StreamRead::Blocked => return false,
        }
        true
    }

    /// Lets the client send more at once when a credential was verified, or none is needed.
    fn widen_window(&mut self) {
        let is_narrow = self.window_bytes < super::RECEIVE_WINDOW_BYTES;
        if is_narrow && self.driver.receive_state() == ReceiveState::Open {
            self.window_bytes = super::RECEIVE_WINDOW_BYTES;
            self.driver.transport().connection.set_receive_window(self.window_bytes);
        }
    }

    /// Handles received frames, as many as the turn of the session allows.
    fn decode_frames(&mut self) {
        let mut micros = 0;
        while self.driver.transport().sink.borrow().is_open() {
            let state = self.driver.receive_state();
            if micros >= work::TURN_MICROS || state == ReceiveState::Waiting {
                self.has_unread = true;
                break;
            }
            let open_max = self.driver.lane().frame_bytes_max(self.encoding);
            self.decoder.set_max(state.frame_bytes_max(open_max));
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    self.partial = None;
                    micros += self.driver.on_request(self.encoding.decode_request(&frame));
                }
                Ok(None) => break,
                Err(error) => self.driver.close_too_large(&error.to_string()),
            }
        }
        let pause = self.driver.charge_work(micros);
        self.paused_until = pause.map(|pause| Instant::now() + pause);
        self.update_partial();
    }

    /// Charges the bytes of a half-received frame to the budget of the node.
    fn update_partial(&mut self) {
        if self.has_unread || !self.decoder.has_partial_frame() {
            self.partial = None;
            return;
        }
        let begin = || (self.driver.begin_partial_message(), Instant::now() + MESSAGE_TIMEOUT);
        let (holding, _) = self.partial.get_or_insert_with(begin);
        if let Err(exceeded) = holding.set(self.decoder.buffered_bytes()) {
            self.partial = None;
            self.driver.close(&close::OVERLOADED, exceeded.to_string());
        }
    }
}

/// Stops the driver also when the lane drops the session: the driver and the lane refer to each other.
impl Drop for OpenSession {
    fn drop(&mut self) {
        self.driver.stop();
    }
}

// === impl QuicTransport ===

impl QuicTransport {
    /// The code and the reason of the close, once.
    fn take_close_reason(&self) -> (&'static CloseCode, String) {
        self.close_reason.take().unwrap_or((&close::NORMAL, String::new()))
    }
}

impl SessionTransport for QuicTransport {
    fn kind(&self) -> TransportKind {
        self.carrier.kind
    }

    fn wire(&self) -> WireFormat {
        self.carrier.wire
    }

    fn sink(&self) -> Rc<RefCell<dyn pushonce_fanout::FrameSink>> {
        self.sink.clone()
    }

    fn supports_datagrams(&self) -> bool {
        self.carrier.has_datagrams && self.connection.supports_datagrams()
    }

    fn open_subscription(
        &self,
        token: u32,
        topic: &Topic,
        delivery: Delivery,
        datagrams: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>> {
        if delivery != Delivery::All {
            self.connection.set_send_window(super::LATEST_SEND_WINDOW_BYTES);
        }
        let (connection, sink, topic) = (self.connection.clone(), self.sink.clone(), topic.clone());
        let carrier = self.carrier.clone();
        async move {
            let opened = tokio::time::timeout(STREAM_TIMEOUT, connection.open_stream()).await;
            let Ok(Some(stream)) = opened else { return Err(StreamUnavailable) };
            let event = ServerEvent::Stream { topic: topic.clone() };
            let first_frame = driver::encode(carrier.wire, &event);
            let subscription =
                QuicSubscription::new(topic, stream, first_frame, datagrams, carrier);
            sink.borrow_mut().add_subscription(token, subscription);
            Ok(())
        }
        .boxed_local()
    }

    fn close_subscription(&self, token: u32) {
        self.sink.borrow_mut().remove_subscription(token);
    }

    fn reply_event(&self, event: &ServerEvent) {
        if let (Some(http3), ServerEvent::Goaway { .. }) = (&self.http3, event) {
            http3.borrow_mut().announce_end();
        }
        self.reply(driver::encode(self.wire(), event));
    }

    fn reply(&self, frame: Bytes) {
        self.sink.borrow_mut().push_reply(frame);
    }

    /// Streams are not ordered among each other, so each topic gets its position on its own stream.
    fn send_heartbeat(&self, positions: Vec<(u32, Topic, Position)>) {
        let frame = |positions| driver::encode(self.wire(), &ServerEvent::Heartbeat { positions });
        let mut sink = self.sink.borrow_mut();
        for (token, topic, position) in positions {
            sink.push_heartbeat(token, frame(vec![(topic, position)]));
        }
        sink.push_reply(frame(Vec::new()));
    }

    /// Does nothing: QUIC keeps the connection alive and detects its end.
    fn send_ping(&self) {}

    fn resume_receiving(&self) {
        self.connection.wake_handler();
    }

    fn close(&self, close: &'static CloseCode, reason: &str) {
        self.close_reason.replace(Some((close, reason.to_owned())));
        self.sink.borrow_mut().start_closing();
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        Some(self.connection.remote_address())
    }

    fn take_activity(&self) -> Activity {
        let mut sink = self.sink.borrow_mut();
        Activity { received: true, blocked: sink.is_blocked(), progressed: sink.take_progressed() }
    }
}

//! One QUIC session, from the handshake to the last frame. It is not a task: the endpoint drives it after
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
use pushonce_proto::client::{self, ClientCommand, ClientRequest, Encoding};
use pushonce_proto::close::{self, CloseCode};
use pushonce_proto::delimited;
use pushonce_quic::{Connection, ConnectionEvent, ConnectionHandler, StreamId, StreamRead};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Span;

use super::sink::{FinishProgress, QuicSink};
use super::subscription::QuicSubscription;
use crate::driver::{self, SessionDriver, SessionTransport, StreamUnavailable};
use crate::lane::{LaneState, SessionPermit};
use crate::liveness::Activity;
use crate::metrics::TransportKind;
use crate::session::ReceiveState;
use crate::{encoder, partial, work};

/// Maximum time for the acknowledgement of the last replies.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time for a client to allow the stream of a subscription.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Session {
    lane: Rc<LaneState>,
    connection: Rc<Connection>,
    phase: SessionPhase,
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
    Open(OpenSession),
    /// Sends the last replies.
    Closing {
        session: OpenSession,
        finished: bool,
    },
    Closed,
}

/// The state of a session with an open control stream.
struct OpenSession {
    driver: Rc<SessionDriver<QuicTransport>>,
    control: StreamId,
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
    /// The code and reason with which the connection will be closed.
    close_reason: RefCell<Option<(&'static CloseCode, String)>>,
}

// === impl Session ===

impl Session {
    /// Creates a session at the start of its handshake.
    pub(super) fn new(
        lane: Rc<LaneState>,
        connection: Rc<Connection>,
        permit: SessionPermit,
    ) -> Session {
        let deadline = Some(Instant::now() + lane.config.handshake_timeout);
        let phase = SessionPhase::Handshaking { connected: false };
        let drain_token = lane.track_connection();
        let (id, remote) = (driver::next_session_id(), connection.remote_address());
        let span = tracing::debug_span!("session", id, transport = "quic", %remote);
        Session {
            lane,
            connection,
            phase,
            deadline,
            permit: Some(permit),
            span,
            _drain_token: drain_token,
        }
    }

    /// Stops the session. The client still receives its last replies.
    fn start_closing(&mut self) {
        if let SessionPhase::Open(session) =
            std::mem::replace(&mut self.phase, SessionPhase::Closed)
        {
            session.driver.stop();
            self.deadline = Some(Instant::now() + CLOSE_TIMEOUT);
            self.phase = SessionPhase::Closing { session, finished: false };
        }
    }

    /// Closes the connection with the chosen code and reason.
    fn close_connection(&mut self) {
        if let SessionPhase::Closing { session, .. } = &self.phase {
            let close_reason = session.driver.transport().close_reason.take();
            let (close, reason) = close_reason.unwrap_or((&close::NORMAL, String::new()));
            self.connection.close(close.code.into(), &reason);
        }
        self.mark_closed();
    }

    fn mark_closed(&mut self) {
        if self.is_handshaking() {
            self.lane.metrics.for_transport(TransportKind::Quic).refused.increment(1);
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
        matches!(self.phase, SessionPhase::Handshaking { .. })
    }

    fn on_event(&mut self, event: ConnectionEvent) {
        let _entered = self.span.clone().entered();
        match (event, &mut self.phase) {
            (ConnectionEvent::Connected, SessionPhase::Handshaking { connected }) => {
                *connected = true;
                self.deadline = Some(Instant::now() + self.lane.config.handshake_timeout);
            }
            (ConnectionEvent::StreamOpened, SessionPhase::Handshaking { .. }) => {
                if let Some(control) = self.connection.accept_stream() {
                    self.deadline = None;
                    self.phase = SessionPhase::Open(OpenSession::start(
                        &self.lane,
                        &self.connection,
                        control,
                    ));
                }
            }
            (
                ConnectionEvent::StreamAcknowledged(id) | ConnectionEvent::StreamStopped(id),
                SessionPhase::Closing { session, finished: true },
            ) if id == session.control => self.close_connection(),
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
        if let SessionPhase::Open(session) = &mut self.phase
            && session.drive()
        {
            self.start_closing();
        }
        if let SessionPhase::Closing { session, finished: finished @ false } = &mut self.phase {
            let finish = session.driver.transport().sink.borrow_mut().finish_control();
            *finished = finish == FinishProgress::Done;
            if finish == FinishProgress::Failed {
                self.close_connection();
            }
        }
    }

    fn on_deadline(&mut self) {
        let _entered = self.span.clone().entered();
        match &mut self.phase {
            SessionPhase::Handshaking { connected: true } => {
                let code = close::PROTOCOL_ERROR.code.into();
                self.connection.close(code, "open a bidirectional stream and send a request on it");
            }
            SessionPhase::Handshaking { connected: false } => self.connection.close(0, ""),
            // The client does not acknowledge the last replies, and does not get them.
            SessionPhase::Closing { .. } => return self.close_connection(),
            SessionPhase::Open(session) => return session.on_deadline(),
            SessionPhase::Closed => {}
        }
        self.mark_closed();
    }
}

// === impl OpenSession ===

impl OpenSession {
    fn start(lane: &Rc<LaneState>, connection: &Rc<Connection>, control: StreamId) -> OpenSession {
        let bytes_out = lane.metrics.for_transport(TransportKind::Quic).bytes_out.clone();
        let sink = QuicSink::new(connection.clone(), control, bytes_out);
        let transport = QuicTransport {
            connection: connection.clone(),
            sink: Rc::new(RefCell::new(sink)),
            close_reason: RefCell::new(None),
        };
        // The bound is set anew before each frame.
        let decoder = delimited::FrameDecoder::new(0);
        let address = connection.remote_address().ip().into();
        let driver = SessionDriver::start(lane.clone(), transport, address);
        OpenSession {
            driver,
            control,
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
            let open_max = self.driver.lane().frame_bytes_max(Encoding::Proto);
            self.decoder.set_max(state.frame_bytes_max(open_max));
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    self.partial = None;
                    micros += self.driver.on_request(Encoding::Proto.decode_request(&frame));
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

impl SessionTransport for QuicTransport {
    const KIND: TransportKind = TransportKind::Quic;

    fn wire(&self) -> WireFormat {
        encoder::QUIC_PROTO
    }

    fn sink(&self) -> Rc<RefCell<dyn pushonce_fanout::FrameSink>> {
        self.sink.clone()
    }

    fn supports_datagrams(&self) -> bool {
        self.connection.supports_datagrams()
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
        async move {
            let opened = tokio::time::timeout(STREAM_TIMEOUT, connection.open_stream()).await;
            let Ok(Some(stream)) = opened else { return Err(StreamUnavailable) };
            let event =
                Encoding::Proto.encode_event(&client::ServerEvent::Stream { topic: topic.clone() });
            let first_frame = encoder::wrap(encoder::QUIC_PROTO, &event);
            let subscription = QuicSubscription::new(topic, stream, first_frame, datagrams);
            sink.borrow_mut().add_subscription(token, subscription);
            Ok(())
        }
        .boxed_local()
    }

    fn close_subscription(&self, token: u32) {
        self.sink.borrow_mut().remove_subscription(token);
    }

    fn reply(&self, frame: Bytes) {
        self.sink.borrow_mut().push_reply(frame);
    }

    /// Streams are not ordered among each other, so each topic gets its position on its own stream.
    fn send_heartbeat(&self, positions: Vec<(u32, Topic, Position)>) {
        let frame = |positions| {
            let frame = Encoding::Proto.encode_event(&client::ServerEvent::Heartbeat { positions });
            encoder::wrap(encoder::QUIC_PROTO, &frame)
        };
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

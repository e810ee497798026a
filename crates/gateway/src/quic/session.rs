//! One session over raw QUIC or WebTransport, from the handshake to the last frame. It is not a task: the endpoint drives it after
//! each event of its connection.

use std::rc::Rc;
use std::time::{Duration, Instant};

use pushonce_proto::close;
use pushonce_quic::{Connection, ConnectionEvent, ConnectionHandler, StreamId};
use pushonce_webtransport::{ConnectionError, NO_ERROR};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Span, field};

use super::carrier::Carrier;
use super::open_session::OpenSession;
use super::sink::FinishProgress;
use super::webtransport::{OpenedSession, Progress, WebTransport};
use crate::driver;
use crate::http::page_gate::PageGate;
use crate::lane::{LaneState, SessionPermit};
use crate::metrics::TransportKind;

/// Maximum time for the acknowledgement of the last replies.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// the replies: a browser drops unread bytes when the session ends.
    CloseWritten(StreamId),
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
        let session =
            OpenSession::start(&self.lane, &self.connection, control, carrier, http3, early);
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

    /// The client has the last replies, or accepts none: it receives the code and the reason.
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

//! The HTTP/3 part of a connection: it admits the session, and reads the streams that are not part of it.

use std::cell::RefCell;
use std::rc::Rc;

use futures::FutureExt as _;
use http::StatusCode;
use pushonce_auth::{AccessError, Caller};
use pushonce_quic::{Connection, StreamId, StreamRead};
use pushonce_webtransport::{
    ConnectionError, ConnectionEvent, NO_ERROR, RejectedRequest, ServerConnection, SessionRequest,
    wire,
};

use super::carrier::Carrier;
use super::http3_output::Http3Output;
use super::webtransport_request::{self, Opening};
use crate::http::HttpError;
use crate::http::authenticate::{Credential, RemoteIp};
use crate::http::page_gate::PageGate;
use crate::lane::LaneState;
use crate::metrics::TransportKind;

/// Bytes that are read at once. The first read of the session's stream may be held until the session is accepted.
const READ_BYTES: usize = 1 << 10;

/// The HTTP/3 connection of one client.
pub(super) struct WebTransport {
    lane: Rc<LaneState>,
    pages: PageGate,
    connection: Rc<Connection>,
    protocol: ServerConnection,
    /// The streams of the client, without that of the session.
    streams: Vec<ClientStream>,
    output: Rc<RefCell<Http3Output>>,
    admission: Admission,
    /// The result of an authentication that had to wait.
    authentication: Rc<RefCell<Option<Authentication>>>,
}

#[derive(Clone, Copy)]
struct ClientStream {
    stream: StreamId,
    id: u64,
    is_uni: bool,
    /// The client sends nothing more. A response may follow.
    has_ended: bool,
}

/// How far the request has come.
enum Admission {
    /// There is no request.
    Waiting,
    /// Its credential is being verified.
    Authenticating(ClientStream, Opening),
    Accepted(AcceptedSession),
    /// The session was handed over, or the request was rejected.
    Done,
}

/// A session that the client was granted, without its stream.
struct AcceptedSession {
    carrier: Rc<Carrier>,
    caller: Option<Caller>,
    refused_ticket: Option<AccessError>,
}

type Authentication = (Result<Caller, AccessError>, bool);

/// What happened in a turn.
pub(super) enum Progress {
    /// The client opened the stream of its session.
    Opened(OpenedSession),
    /// The request was answered with a status, on this stream. Nothing follows.
    Rejected(StreamId),
    /// The client ended the session.
    Ended,
}

/// A session with its stream.
pub(super) struct OpenedSession {
    pub(super) control: StreamId,
    /// The bytes of the stream that were read already.
    pub(super) early: Vec<u8>,
    pub(super) carrier: Rc<Carrier>,
    /// The caller of a credential in the request.
    pub(super) caller: Option<Caller>,
    /// Why the ticket of the query was refused: a browser hides the status of a request from its page, so the session
    /// says it.
    pub(super) refused_ticket: Option<AccessError>,
}

impl WebTransport {
    /// Sends the SETTINGS. `None`: the client does not allow the streams that HTTP/3 needs.
    pub(super) fn start(
        lane: Rc<LaneState>,
        pages: PageGate,
        connection: Rc<Connection>,
    ) -> Option<WebTransport> {
        let bytes_out = lane.metrics.for_transport(TransportKind::WebTransport).bytes_out.clone();
        let output = Http3Output::open(connection.clone(), bytes_out)?;
        connection.set_bidi_streams_max(super::HTTP3_BIDI_STREAMS_MAX);
        Some(WebTransport {
            lane,
            pages,
            connection,
            protocol: ServerConnection::new(),
            streams: Vec::new(),
            output: Rc::new(RefCell::new(output)),
            admission: Admission::Waiting,
            authentication: Rc::default(),
        })
    }

    /// The streams of the server.
    pub(super) fn output(&self) -> Rc<RefCell<Http3Output>> {
        self.output.clone()
    }

    /// Reads what arrived.
    ///
    /// # Errors
    /// [`ConnectionError`] when the client broke a rule of HTTP/3.
    pub(super) fn drive(&mut self) -> Result<Option<Progress>, ConnectionError> {
        self.output.borrow_mut().flush();
        let mut progress = self.take_authentication();
        for event in self.read_streams()? {
            let next = match event {
                ConnectionEvent::Request { stream, request } => self.on_request(stream, &request),
                ConnectionEvent::Rejected { stream, rejected } => self.reject(stream, &rejected),
                ConnectionEvent::SessionStream { stream, early } => self.hand_over(stream, early),
                // Whatever else arrived with it.
                ConnectionEvent::SessionClosed { .. } => return Ok(Some(Progress::Ended)),
                ConnectionEvent::UnusedStream(id) => {
                    self.stop(id);
                    None
                }
            };
            progress = next.or(progress);
        }
        Ok(progress)
    }

    fn read_streams(&mut self) -> Result<Vec<ConnectionEvent>, ConnectionError> {
        self.accept_streams();
        let mut events = Vec::new();
        let mut index = 0;
        while let Some(&ClientStream { stream, id, is_uni, has_ended }) = self.streams.get(index) {
            if has_ended || !is_uni && !self.protocol.wants(id) {
                index += 1;
                continue;
            }
            match self.connection.read(stream, READ_BYTES) {
                StreamRead::Blocked => index += 1,
                StreamRead::Bytes(bytes) if is_uni => {
                    events.extend(self.protocol.on_uni_bytes(id, &bytes)?);
                }
                StreamRead::Bytes(bytes) => events.extend(self.protocol.on_bidi_bytes(id, &bytes)?),
                StreamRead::End if is_uni => {
                    self.streams.swap_remove(index);
                    self.protocol.on_uni_end(id)?;
                }
                StreamRead::End => {
                    self.streams[index].has_ended = true;
                    events.extend(self.protocol.on_bidi_end(id)?);
                }
            }
        }
        Ok(events)
    }

    fn accept_streams(&mut self) {
        while let Some(stream) = self.connection.accept_uni_stream() {
            // RFC 9000, 2.1: the streams of a client have ids 0, 4, 8 … and 2, 6, 10 …
            let id = 4 * stream.index() + 2;
            self.streams.push(ClientStream { stream, id, is_uni: true, has_ended: false });
        }
        while let Some(stream) = self.connection.accept_stream() {
            let id = 4 * stream.index();
            self.streams.push(ClientStream { stream, id, is_uni: false, has_ended: false });
        }
    }

    fn find(&self, id: u64) -> Option<ClientStream> {
        self.streams.iter().copied().find(|stream| stream.id == id)
    }

    fn stop(&mut self, id: u64) {
        if let Some(unused) = self.find(id) {
            self.connection.stop_stream(unused.stream, NO_ERROR);
        }
    }

    fn on_request(&mut self, id: u64, request: &SessionRequest) -> Option<Progress> {
        let stream = self.find(id)?;
        match Opening::from_request(request, &self.pages) {
            Ok(opening) => self.authenticate(stream, opening),
            Err(rejected) => self.reject(id, &rejected),
        }
    }

    /// Verifies the credential of the request. Mostly the result is there at once.
    fn authenticate(&mut self, stream: ClientStream, mut opening: Opening) -> Option<Progress> {
        let credential = std::mem::replace(&mut opening.credential, Credential::None);
        let is_ticket = matches!(credential, Credential::Ticket(_));
        let (access, address) = (self.lane.access.clone(), self.connection.remote_address().ip());
        let mut verification = Box::pin(async move {
            (credential.authenticate(&access, RemoteIp(Some(address))).await, is_ticket)
        });
        self.admission = Admission::Authenticating(stream, opening);
        if let Some(result) = (&mut verification).now_or_never() {
            self.authentication.replace(Some(result));
            return self.take_authentication();
        }
        let (result, connection) = (self.authentication.clone(), self.connection.clone());
        self.lane.spawn(async move {
            let verified = verification.await;
            result.replace(Some(verified));
            connection.wake_handler();
        });
        None
    }

    fn take_authentication(&mut self) -> Option<Progress> {
        let (result, is_ticket) = self.authentication.take()?;
        let Admission::Authenticating(stream, opening) =
            std::mem::replace(&mut self.admission, Admission::Done)
        else {
            return None;
        };
        match result {
            Ok(caller) => {
                let caller = caller.token().is_some().then_some(caller);
                self.accept(stream, &opening, caller, None)
            }
            Err(error) if is_ticket => self.accept(stream, &opening, None, Some(error)),
            Err(error) => {
                let rejected = webtransport_request::rejected(HttpError::from(error));
                self.reject(stream.id, &rejected)
            }
        }
    }

    fn accept(
        &mut self,
        stream: ClientStream,
        opening: &Opening,
        caller: Option<Caller>,
        refused_ticket: Option<AccessError>,
    ) -> Option<Progress> {
        let response = wire::accept(opening.protocol);
        self.output.borrow_mut().respond(stream.stream, stream.id, response, false);
        let has_datagrams = self.protocol.has_datagrams();
        let carrier = Carrier::webtransport(stream.id, opening.encoding, has_datagrams);
        let carrier = Rc::new(carrier);
        self.admission = Admission::Accepted(AcceptedSession { carrier, caller, refused_ticket });
        match self.protocol.accept() {
            Some(ConnectionEvent::SessionStream { stream, early }) => self.hand_over(stream, early),
            _ => None,
        }
    }

    fn hand_over(&mut self, id: u64, early: Vec<u8>) -> Option<Progress> {
        let control = self.find(id)?.stream;
        self.streams.retain(|stream| stream.id != id);
        let Admission::Accepted(session) = std::mem::replace(&mut self.admission, Admission::Done)
        else {
            return None;
        };
        let AcceptedSession { carrier, caller, refused_ticket } = session;
        Some(Progress::Opened(OpenedSession { control, early, carrier, caller, refused_ticket }))
    }

    fn reject(
        &mut self,
        id: u64,
        RejectedRequest { status, text }: &RejectedRequest,
    ) -> Option<Progress> {
        let ClientStream { stream, .. } = self.find(id)?;
        debug_assert_ne!(*status, StatusCode::OK);
        self.admission = Admission::Done;
        self.output.borrow_mut().respond(stream, id, wire::reject(*status, text), true);
        Some(Progress::Rejected(stream))
    }
}

//! The streams of one connection together.

use std::collections::BTreeMap;

use crate::bidi_stream::{BidiEvent, BidiStream};
use crate::control_stream::ClientSettings;
use crate::error::ConnectionError;
use crate::request::{RejectedRequest, SessionRequest};
use crate::uni_stream::UniStream;

/// Bytes without a meaning that a connection skips: unknown frames, streams and capsules, and what follows a rejected
/// request. Browsers send some dozens, so that servers do not forget to skip them (RFC 9114, 7.2.8).
pub const IGNORED_BYTES_MAX: usize = 64 << 10;

/// What a stream counts for that carries nothing.
const STREAM_COST_BYTES: usize = 64;

/// What the bytes of a client mean.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The client asks for a session, on this stream. To be accepted or rejected.
    Request {
        /// The id of the stream, which is the id of the session.
        stream: u64,
        /// What is asked for.
        request: Box<SessionRequest>,
    },
    /// A request that opens no session, to be answered with the status.
    Rejected {
        /// The stream to answer on.
        stream: u64,
        /// The answer.
        rejected: RejectedRequest,
    },
    /// The stream of the accepted session. The caller reads it from now on.
    SessionStream {
        /// The id of the stream.
        stream: u64,
        /// Its first bytes, which were received already.
        early: Vec<u8>,
    },
    /// The client ended the session.
    SessionClosed {
        /// The code of the application, 0 without one.
        code: u32,
        /// The reason of the application.
        reason: String,
    },
    /// A stream that is not used here: the client is to stop sending on it.
    UnusedStream(u64),
}

/// The HTTP/3 connection of one client.
#[derive(Debug, Default)]
pub struct ServerConnection {
    uni_streams: BTreeMap<u64, UniStream>,
    bidi_streams: BTreeMap<u64, BidiStream>,
    settings: Option<ClientSettings>,
    /// The request, until the SETTINGS are known.
    waiting: Option<ConnectionEvent>,
    /// The stream of the one request.
    request: Option<u64>,
    is_accepted: bool,
    session_stream: Option<SessionStream>,
    ignored_bytes: usize,
}

/// The stream that belongs to the session.
#[derive(Debug)]
struct SessionStream {
    stream: u64,
    session: u64,
    /// Its first bytes, until the session is accepted.
    early: Option<Vec<u8>>,
}

impl ServerConnection {
    /// A new connection.
    pub fn new() -> ServerConnection {
        ServerConnection::default()
    }

    /// Accepts the request, after [`wire::accept`](crate::wire::accept) was sent. Returns the stream of the session, if the
    /// client opened it already.
    pub fn accept(&mut self) -> Option<ConnectionEvent> {
        self.is_accepted = true;
        self.take_session_stream()
    }

    fn take_session_stream(&mut self) -> Option<ConnectionEvent> {
        let SessionStream { stream, early, .. } =
            self.session_stream.as_mut().filter(|_| self.is_accepted)?;
        Some(ConnectionEvent::SessionStream { stream: *stream, early: early.take()? })
    }

    /// Whether the client accepts HTTP/3 datagrams.
    pub fn has_datagrams(&self) -> bool {
        self.settings.is_some_and(|settings| settings.has_datagrams)
    }

    /// Whether the bytes of a bidirectional stream are to be passed on. The stream of a session is read by the caller.
    pub fn wants(&self, stream: u64) -> bool {
        !matches!(self.bidi_streams.get(&stream), Some(BidiStream::Session))
    }

    /// Receives bytes of a unidirectional stream.
    ///
    /// # Errors
    /// [`ConnectionError`] for the first violation.
    pub fn on_uni_bytes(
        &mut self,
        stream: u64,
        mut input: &[u8],
    ) -> Result<Vec<ConnectionEvent>, ConnectionError> {
        let is_new = !self.uni_streams.contains_key(&stream);
        if is_new {
            self.ignore(STREAM_COST_BYTES)?;
        }
        let mut known = self.uni_streams.remove(&stream).unwrap_or_else(UniStream::new);
        let mut events = Vec::new();
        if known.read_type(&mut input) {
            self.check_uni_stream(&known)?;
            if matches!(known, UniStream::Ignored) {
                events.push(ConnectionEvent::UnusedStream(stream));
            }
        }
        match &mut known {
            UniStream::Control(control) => {
                let (settings, ignored) = control.on_bytes(input)?;
                self.settings = settings;
                self.ignore(ignored)?;
            }
            _ => self.ignore(input.len())?,
        }
        self.uni_streams.insert(stream, known);
        if self.settings.is_some() {
            events.extend(self.waiting.take());
        }
        Ok(events)
    }

    /// A unidirectional stream ended.
    ///
    /// # Errors
    /// [`ConnectionError`] for a stream that must not end.
    pub fn on_uni_end(&mut self, stream: u64) -> Result<(), ConnectionError> {
        match self.uni_streams.remove(&stream) {
            Some(known) if known.is_critical() => Err(ConnectionError::ClosedCriticalStream),
            Some(_) => Ok(()),
            None => self.ignore(STREAM_COST_BYTES),
        }
    }

    /// Receives bytes of a bidirectional stream for which [`ServerConnection::wants`] is true.
    ///
    /// # Errors
    /// [`ConnectionError`] for the first violation.
    pub fn on_bidi_bytes(
        &mut self,
        stream: u64,
        mut input: &[u8],
    ) -> Result<Vec<ConnectionEvent>, ConnectionError> {
        if !self.wants(stream) {
            return Ok(Vec::new());
        }
        let mut known = self.bidi_streams.remove(&stream).unwrap_or_else(BidiStream::new);
        let (mut events, mut ignored) = (Vec::new(), 0);
        while let Some(event) = known.next(&mut input, &mut ignored)? {
            match event {
                BidiEvent::Request(request) => {
                    self.set_request(stream)?;
                    events.extend(self.hold(ConnectionEvent::Request { stream, request }));
                }
                BidiEvent::Rejected(rejected) => {
                    events.push(ConnectionEvent::Rejected { stream, rejected });
                }
                BidiEvent::Close { code, reason } => {
                    events.push(ConnectionEvent::SessionClosed { code, reason });
                }
                BidiEvent::SessionStream { session } => {
                    let early = std::mem::take(&mut input);
                    events.extend(self.on_session_stream(stream, session, early)?);
                }
            }
        }
        self.bidi_streams.insert(stream, known);
        self.ignore(ignored)?;
        Ok(events)
    }

    /// A bidirectional stream ended that the caller does not read itself.
    ///
    /// # Errors
    /// [`ConnectionError`] for a request that is not complete.
    pub fn on_bidi_end(&mut self, stream: u64) -> Result<Vec<ConnectionEvent>, ConnectionError> {
        match self.bidi_streams.remove(&stream) {
            Some(BidiStream::Request(request)) if request.is_complete() => {
                Ok(vec![ConnectionEvent::SessionClosed { code: 0, reason: String::new() }])
            }
            Some(BidiStream::Request(_)) => Err(ConnectionError::RequestIncomplete),
            Some(_) => Ok(Vec::new()),
            None => self.ignore(STREAM_COST_BYTES).map(|()| Vec::new()),
        }
    }

    /// Checks that each kind of critical stream exists once.
    fn check_uni_stream(&self, new: &UniStream) -> Result<(), ConnectionError> {
        let is_second =
            new.is_critical() && self.uni_streams.values().any(|known| is_same(known, new));
        if is_second || matches!(new, UniStream::Push) {
            return Err(ConnectionError::StreamCreation);
        }
        Ok(())
    }

    fn set_request(&mut self, stream: u64) -> Result<(), ConnectionError> {
        if self.request.is_some() {
            return Err(ConnectionError::General);
        }
        self.request = Some(stream);
        self.check_session_id()
    }

    /// Holds a request back until the SETTINGS are known.
    fn hold(&mut self, request: ConnectionEvent) -> Option<ConnectionEvent> {
        if self.settings.is_some() {
            return Some(request);
        }
        self.waiting = Some(request);
        None
    }

    fn on_session_stream(
        &mut self,
        stream: u64,
        session: u64,
        early: &[u8],
    ) -> Result<Option<ConnectionEvent>, ConnectionError> {
        if self.session_stream.is_some() {
            return Err(ConnectionError::General);
        }
        let early = Some(early.to_vec());
        self.session_stream = Some(SessionStream { stream, session, early });
        self.check_session_id()?;
        Ok(self.take_session_stream())
    }

    /// The session of the stream must be the request, as soon as both are known.
    fn check_session_id(&self) -> Result<(), ConnectionError> {
        match (self.request, &self.session_stream) {
            (Some(request), Some(known)) if known.session != request => Err(ConnectionError::Id),
            _ => Ok(()),
        }
    }

    fn ignore(&mut self, bytes: usize) -> Result<(), ConnectionError> {
        self.ignored_bytes = self.ignored_bytes.saturating_add(bytes);
        if self.ignored_bytes > IGNORED_BYTES_MAX {
            return Err(ConnectionError::ExcessiveLoad);
        }
        Ok(())
    }
}

fn is_same(a: &UniStream, b: &UniStream) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

#[cfg(test)]
#[path = "connection_test.rs"]
pub(crate) mod connection_test;

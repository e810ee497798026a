//! The bidirectional streams of the client: requests, and the stream of the session.

use std::ops::RangeInclusive;

use web_transport_proto::{Capsule, Frame, VarInt};

use crate::control_stream::{
    FRAME_CANCEL_PUSH, FRAME_DATA, FRAME_GOAWAY, FRAME_HEADERS, FRAME_MAX_PUSH_ID, FRAME_SETTINGS,
    is_forbidden,
};
use crate::element::{Element, ElementReader, Treatment};
use crate::error::ConnectionError;
use crate::request::{self, REQUEST_BYTES_MAX, RejectedRequest, SessionRequest};

/// The capsule that ends a session. A code of four bytes, and a reason of at most 1,024 bytes.
const CAPSULE_CLOSE: u64 = 0x2843;
const CLOSE_BYTES_MAX: usize = 4 + 1_024;

/// Capsules of the flow control of newer drafts, with one integer each (WT_MAX_DATA to WT_STREAMS_BLOCKED). A client
/// that has it sends them for as long as it receives data, so they do not count as bytes without a meaning. QUIC limits
/// the same, and its limits are respected.
const CAPSULES_FLOW_CONTROL: RangeInclusive<u64> = 0x190b_4d3d..=0x190b_4d44;
const FLOW_CONTROL_BYTES_MAX: usize = VarInt::MAX_SIZE;

#[derive(Debug)]
pub(crate) enum BidiStream {
    /// The first bytes, which tell what the stream is.
    Starting(Vec<u8>),
    Request(RequestStream),
    /// Belongs to a session. Its content is not read here.
    Session,
    /// A request that was rejected, or whose session ended: what follows is ignored.
    Ended,
}

/// A request, and after it the capsules of its session.
#[derive(Debug, Default)]
pub(crate) struct RequestStream {
    frames: ElementReader,
    capsules: ElementReader,
    has_request: bool,
}

/// What the bytes of a stream mean.
#[derive(Debug)]
pub(crate) enum BidiEvent {
    Request(Box<SessionRequest>),
    Rejected(RejectedRequest),
    /// The session ended.
    Close {
        code: u32,
        reason: String,
    },
    /// A stream of the session with this id.
    SessionStream {
        session: u64,
    },
}

impl BidiStream {
    pub(crate) fn new() -> BidiStream {
        BidiStream::Starting(Vec::new())
    }

    /// Reads from the front of `input`, up to the next event. Adds the bytes without a meaning to `ignored`.
    pub(crate) fn next(
        &mut self,
        input: &mut &[u8],
        ignored: &mut usize,
    ) -> Result<Option<BidiEvent>, ConnectionError> {
        if let BidiStream::Starting(header) = self {
            let Some(event) = read_start(header, input) else { return Ok(None) };
            match event {
                Start::Session(session) => {
                    *self = BidiStream::Session;
                    return Ok(Some(BidiEvent::SessionStream { session }));
                }
                Start::Request(first) => {
                    let mut request = RequestStream::default();
                    // The first bytes of a frame cannot complete it: its type alone.
                    let event = request.next(&mut &first[..], ignored)?;
                    debug_assert!(event.is_none(), "a frame has a length");
                    *self = BidiStream::Request(request);
                }
            }
        }
        match self {
            BidiStream::Request(request) => {
                let event = request.next(input, ignored)?;
                if let Some(BidiEvent::Rejected(_) | BidiEvent::Close { .. }) = event {
                    *self = BidiStream::Ended;
                }
                Ok(event)
            }
            BidiStream::Ended => {
                *ignored += std::mem::take(input).len();
                Ok(None)
            }
            BidiStream::Starting(_) | BidiStream::Session => Ok(None),
        }
    }
}

enum Start {
    Request(Vec<u8>),
    Session(u64),
}

/// Reads the type of the first frame, and the id behind the signal of a session's stream.
fn read_start(header: &mut Vec<u8>, input: &mut &[u8]) -> Option<Start> {
    while let [first, rest @ ..] = *input {
        header.push(*first);
        *input = rest;
        let mut bytes = &header[..];
        match VarInt::decode(&mut bytes).map(Frame) {
            Ok(Frame::WEBTRANSPORT) => {
                if let Ok(session) = VarInt::decode(&mut bytes) {
                    return Some(Start::Session(session.into_inner()));
                }
            }
            Ok(_) => return Some(Start::Request(std::mem::take(header))),
            Err(_) => {}
        }
    }
    None
}

impl RequestStream {
    fn next(
        &mut self,
        input: &mut &[u8],
        ignored: &mut usize,
    ) -> Result<Option<BidiEvent>, ConnectionError> {
        let has_request = self.has_request;
        loop {
            match self.frames.next(input, |kind| treat(kind, has_request))? {
                None => return Ok(None),
                Some(Element::Complete { content, .. }) if !self.has_request => {
                    self.has_request = true;
                    return Ok(Some(match request::decode(&content)? {
                        Ok(request) => BidiEvent::Request(Box::new(request)),
                        Err(rejected) => BidiEvent::Rejected(rejected),
                    }));
                }
                Some(Element::Complete { .. }) => {}
                Some(Element::Skipped(bytes)) => *ignored += bytes,
                Some(Element::Piece(piece)) => {
                    if let Some(close) = self.next_close(piece, ignored)? {
                        return Ok(Some(close));
                    }
                }
            }
        }
    }

    /// Reads capsules up to one that ends the session.
    fn next_close(
        &mut self,
        mut piece: &[u8],
        ignored: &mut usize,
    ) -> Result<Option<BidiEvent>, ConnectionError> {
        let treat = |kind| match kind {
            CAPSULE_CLOSE => Treatment::Collect(CLOSE_BYTES_MAX),
            kind if CAPSULES_FLOW_CONTROL.contains(&kind) => {
                Treatment::Collect(FLOW_CONTROL_BYTES_MAX)
            }
            _ => Treatment::Skip,
        };
        loop {
            match self.capsules.next(&mut piece, treat)? {
                None => return Ok(None),
                Some(Element::Complete { kind: CAPSULE_CLOSE, content }) => {
                    // Nothing may follow; it is ignored.
                    *ignored += piece.len();
                    return decode_close(&content).map(Some);
                }
                Some(Element::Complete { .. }) => {}
                Some(Element::Skipped(bytes)) => *ignored += bytes,
                Some(Element::Piece(_)) => {}
            }
        }
    }

    /// Whether the client may end the stream here, which ends the session.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_request && self.frames.is_between_elements() && self.capsules.is_between_elements()
    }
}

fn treat(kind: u64, has_request: bool) -> Treatment {
    match kind {
        FRAME_HEADERS if !has_request => Treatment::Collect(REQUEST_BYTES_MAX),
        FRAME_DATA if has_request => Treatment::Pass,
        // Trailers of a request.
        FRAME_HEADERS => Treatment::Skip,
        FRAME_DATA | FRAME_SETTINGS | FRAME_GOAWAY | FRAME_CANCEL_PUSH | FRAME_MAX_PUSH_ID => {
            Treatment::Refuse
        }
        // Only at the beginning of a stream.
        kind if kind == Frame::WEBTRANSPORT.0.into_inner() => Treatment::Refuse,
        kind if is_forbidden(kind) => Treatment::Refuse,
        _ => Treatment::Skip,
    }
}

fn decode_close(content: &[u8]) -> Result<BidiEvent, ConnectionError> {
    let mut capsule = Vec::with_capacity(content.len() + 2 * VarInt::MAX_SIZE);
    let kind = VarInt::from_u64(CAPSULE_CLOSE).map_err(|_| ConnectionError::Frame)?;
    kind.encode(&mut capsule);
    VarInt::try_from(content.len()).map_err(|_| ConnectionError::Frame)?.encode(&mut capsule);
    capsule.extend_from_slice(content);
    match Capsule::decode(&mut &capsule[..]) {
        Ok(Capsule::CloseWebTransportSession { code, reason }) => {
            Ok(BidiEvent::Close { code, reason })
        }
        _ => Err(ConnectionError::Frame),
    }
}

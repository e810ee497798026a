//! The transport of an event stream: the replies and events of its session as blocks.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use axum::body::{self, Body};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use http::{HeaderName, HeaderValue, Response};
use pushonce_core::{Delivery, Position, StartFrom, Topic};
use pushonce_fanout::{FrameSink, WireFormat};
use pushonce_proto::client::{Encoding, ErrorCode, ServerEvent};
use pushonce_proto::close::CloseCode;
use rand::Rng as _;

use super::event::{self, EventBlock, encode_frame};
use super::opening::ResponseOpening;
use super::output::{EventOutput, EventSink};
use crate::driver::{SessionTransport, StreamUnavailable};
use crate::http::HttpError;
use crate::liveness::Activity;
use crate::metrics::TransportKind;
use crate::{Config, encoder};

const POSITION: HeaderName = HeaderName::from_static("pushonce-position");

/// nginx and others forward a response with this header without buffering it.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The time after which a client connects again when the stream was lost, in milliseconds: each stream has another
/// one, so that the clients of a lost node come back over two seconds.
const RETRY_MS: std::ops::Range<u32> = 500..2_500;

/// The time after which a client connects again when the stream ended on purpose, in milliseconds.
const ROTATION_RETRY_MS: std::ops::Range<u32> = 10..250;

/// Bytes of padding at the begin of a stream, on request: some proxies forward nothing before them.
const PADDING_BYTES: usize = 2 << 10;

/// By how many percent the maximum age of a stream differs from the setting, so that streams that began together
/// do not end together.
const AGE_JITTER_PERCENT: u32 = 20;

/// The transport of one stream.
pub(super) struct EventStreamTransport<O: EventOutput> {
    sink: Rc<RefCell<EventSink<O>>>,
    /// The format of its frames.
    wire: WireFormat,
    /// Until the response has begun and every subscription has its reply.
    opening: RefCell<Option<Box<Opening>>>,
    /// Whether the last block was queued.
    is_ended: Cell<bool>,
}

/// The state of a stream that is not completely open.
pub(super) struct Opening {
    pub(super) response: ResponseOpening,
    /// Where each topic begins.
    pub(super) starts: Vec<StartFrom>,
    /// The number of subscriptions without a reply.
    pub(super) pending: usize,
    pub(super) has_begun: bool,
    pub(super) is_padded: bool,
}

impl<O: EventOutput> EventStreamTransport<O> {
    pub(super) fn new(
        sink: Rc<RefCell<EventSink<O>>>,
        has_payloads: bool,
        opening: Opening,
    ) -> EventStreamTransport<O> {
        let wire = if has_payloads { encoder::SSE_PAYLOAD } else { encoder::SSE_FRAMES };
        let opening = RefCell::new(Some(Box::new(opening)));
        EventStreamTransport { sink, wire, opening, is_ended: Cell::new(false) }
    }

    pub(super) fn event_sink(&self) -> &Rc<RefCell<EventSink<O>>> {
        &self.sink
    }

    /// Whether the response has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.opening.borrow().as_ref().is_none_or(|opening| opening.has_begun)
    }

    /// Begins the response, unless it has begun.
    pub(super) fn begin(&self) {
        self.begin_at(None, None);
    }

    /// Begins the response with the position that the stream begins at and the one that the client resumes from.
    /// Returns whether it had not begun before.
    fn begin_at(&self, position: Option<Position>, resume: Option<Position>) -> bool {
        let mut opening = self.opening.borrow_mut();
        let Some(opening) = opening.as_deref_mut().filter(|opening| !opening.has_begun) else {
            return false;
        };
        opening.has_begun = true;
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, opening.response.cache_control.clone());
        headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
        headers.insert(VARY, HeaderValue::from_static("authorization, accept, last-event-id"));
        if let Some(value) =
            position.and_then(|position| HeaderValue::from_str(&position.to_string()).ok())
        {
            headers.insert(POSITION, value);
        }
        let mut block = EventBlock::new(0);
        if opening.is_padded {
            block = block.padding(PADDING_BYTES);
        }
        block = block.retry(rand::rng().random_range(RETRY_MS));
        let block = match resume {
            Some(position) => block.position(position).finish(),
            None => block.begin(),
        };
        let head = opening.response.finish(response).map(drop);
        self.sink.borrow_mut().output.begin(head, block);
        true
    }

    /// A subscription begins: the client learns where it resumes if the stream is lost before the first message.
    fn on_subscribed(&self, request: Option<u64>, newest: Position) {
        let Some(index) = request.and_then(|id| usize::try_from(id).ok()?.checked_sub(1)) else {
            return;
        };
        let (start, is_last) = {
            let mut opening = self.opening.borrow_mut();
            let Some(opening) = opening.as_deref_mut() else { return };
            opening.pending -= 1;
            (opening.starts.get(index).copied(), opening.pending == 0)
        };
        let reached = match start {
            Some(StartFrom::Position(position)) => Some(position),
            Some(StartFrom::Now | StartFrom::Last(0)) => Some(newest),
            // The first message tells, if there is one. Its frames were not offered yet.
            _ => (newest == Position::ZERO).then_some(newest),
        };
        if let Some(positions) = &mut self.sink.borrow_mut().positions {
            positions.set(index, reached);
        }
        let block = match &self.sink.borrow().positions {
            Some(positions) => is_last.then(|| EventBlock::new(0).positions(positions).finish()),
            None => reached.map(|position| EventBlock::new(0).position(position).finish()),
        };
        let is_single = self.sink.borrow().positions.is_none();
        let has_begun_now = is_single && self.begin_at(Some(newest), reached);
        if let Some(block) = block.filter(|_| !has_begun_now) {
            self.sink.borrow_mut().output.push(block);
        }
        if is_last {
            self.opening.replace(None);
        }
    }

    /// A client of several topics learns of each when it is live, with the delivery that it was granted. The events of
    /// a stream of one topic are its messages, and its response has the position.
    fn report_subscribed(&self, event: &ServerEvent) {
        let mut sink = self.sink.borrow_mut();
        if sink.positions.is_some() {
            let frame = Encoding::Json.encode_event(event);
            sink.output.push(encode_frame(Some("subscribed"), None, &frame));
        }
    }

    /// Ends the stream because of an error. Before the response has begun, an error that a retry cannot fix is the
    /// response: a browser that gets it does not connect again.
    fn on_error(&self, code: ErrorCode, message: &str, retry_after_ms: u32, event: &ServerEvent) {
        if !self.has_begun() && !code.is_retryable() && self.reject(code, message) {
            return;
        }
        let name = if code == ErrorCode::TokenExpired { "expired" } else { "error" };
        let block = EventBlock::new(256).name(name).json(&Encoding::Json.encode_event(event));
        let block = if retry_after_ms > 0 { block.retry(retry_after_ms) } else { block };
        self.end(block.finish());
    }

    /// Responds with an error instead of a stream. Returns false if the response has begun.
    fn reject(&self, code: ErrorCode, message: &str) -> bool {
        let Some(opening) = self.opening.replace(None).filter(|opening| !opening.has_begun) else {
            return false;
        };
        let error = HttpError::from_code(code, message.to_owned()).into_http_response();
        let (head, body) = opening.response.finish(error).into_parts();
        // The body is in memory.
        let body = body::to_bytes(body, usize::MAX).now_or_never().and_then(Result::ok);
        let mut sink = self.sink.borrow_mut();
        sink.output.begin(Response::from_parts(head, ()), body.unwrap_or_default());
        sink.output.push_last(Bytes::new());
        self.is_ended.set(true);
        true
    }

    fn end(&self, block: Bytes) {
        if self.is_ended.replace(true) {
            return;
        }
        self.begin();
        self.sink.borrow_mut().output.push_last(block);
    }
}

impl<O: EventOutput> SessionTransport for EventStreamTransport<O> {
    fn kind(&self) -> TransportKind {
        TransportKind::EventStream
    }

    fn wire(&self) -> WireFormat {
        self.wire
    }

    fn sink(&self) -> Rc<RefCell<dyn FrameSink>> {
        self.sink.clone()
    }

    fn age_max(&self, config: &Config) -> Option<Duration> {
        let jitter = rand::rng().random_range(100 - AGE_JITTER_PERCENT..=100 + AGE_JITTER_PERCENT);
        let rotation = config.sse_age_max.map(|age| age * jitter / 100);
        config.session_age_max.into_iter().chain(rotation).min()
    }

    fn open_subscription(
        &self,
        _: u32,
        _: &Topic,
        delivery: Delivery,
        _: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>> {
        if delivery != Delivery::All {
            self.sink.borrow_mut().output.limit_unsent();
        }
        std::future::ready(Ok(())).boxed_local()
    }

    fn close_subscription(&self, _: u32) {}

    fn reply_event(&self, event: &ServerEvent) {
        match event {
            ServerEvent::Subscribed { id, position, .. } => {
                self.report_subscribed(event);
                self.on_subscribed(*id, *position);
            }
            ServerEvent::Error { code, message, retry_after_ms, .. } => {
                self.on_error(*code, message, *retry_after_ms, event);
            }
            ServerEvent::Goaway { after_ms, retry_after_ms, .. } => {
                let spread = (*after_ms).max(ROTATION_RETRY_MS.end);
                let retry = rand::rng().random_range(ROTATION_RETRY_MS.start..spread);
                let frame = Encoding::Json.encode_event(event);
                let block = EventBlock::new(frame.len()).name("rotate").json(&frame);
                self.end(block.retry(retry.max(*retry_after_ms)).finish());
            }
            _ => {}
        }
    }

    /// Event streams send no requests that have other replies.
    fn reply(&self, _: Bytes) {}

    fn send_heartbeat(&self, _: Vec<(u32, Topic, Position)>) {
        if self.has_begun() {
            self.sink.borrow_mut().output.push(event::COMMENT);
        }
    }

    /// A proxy may end a connection that is silent for 30 seconds, which is little more than an interval.
    fn needs_half_intervals(&self) -> bool {
        true
    }

    fn on_half_interval(&self) {
        if !self.sink.borrow().output.has_pending() {
            self.send_heartbeat(Vec::new());
        }
    }

    fn send_ping(&self) {}

    fn close(&self, close: &'static CloseCode, reason: &str) {
        let text = serde_json::json!({"close": {"code": close.code, "reason": reason}});
        self.end(encode_frame(Some("error"), None, text.to_string().as_bytes()));
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        self.sink.borrow().output.remote_address()
    }

    /// A client sends nothing: whether it is there, the acknowledgements of TCP tell the kernel.
    fn take_activity(&self) -> Activity {
        let output = &mut self.sink.borrow_mut().output;
        Activity {
            received: true,
            blocked: output.has_pending(),
            progressed: output.take_progressed(),
        }
    }
}

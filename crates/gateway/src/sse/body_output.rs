//! An event stream as the body of an HTTP/2 response.
//!
//! The body takes frames from a short queue whenever the client has room for them, and hyper holds no more than a
//! few KiB for each stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use bytes::Bytes;
use futures::Stream;
use http::Response;
use pushonce_fanout::{FrameRun, FrameSink, OfferOutcome, SinkClosed};
use tokio::sync::oneshot;

use super::output::EventOutput;
use crate::lane::LaneState;
use crate::metrics::TransportKind;

/// Bytes in the queue at which no more frames are accepted: the frames of one turn.
const QUEUE_BYTES_MAX: usize = 32 << 10;

/// The session's end of the body.
pub(super) struct BodyOutput {
    queue: SharedQueue,
    /// Receives the response, until it has begun.
    response: Option<oneshot::Sender<Response<Body>>>,
    address: Option<SocketAddr>,
    lane: Rc<LaneState>,
}

/// The queue between a session and its body. Both are on one thread, but a response body must be `Send`.
#[derive(Clone, Default)]
pub(super) struct SharedQueue(Arc<Mutex<BodyQueue>>);

#[derive(Default)]
struct BodyQueue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    bytes_max: usize,
    /// The last bytes are in the queue.
    is_ended: bool,
    /// The client is gone.
    is_dropped: bool,
    /// Frames were rejected: the lane must be notified when there is room.
    is_blocked: bool,
    has_progressed: bool,
    body_waker: Option<Waker>,
    session_waker: Option<Waker>,
}

/// The body.
struct EventBody(SharedQueue);

/// What the session has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyState {
    /// Nothing.
    Open,
    /// The queue has room again.
    Unblocked,
    /// The stream has ended.
    Ended,
}

impl SharedQueue {
    fn lock(&self) -> MutexGuard<'_, BodyQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the session has to do, and wakes its task at the next change.
    pub(super) fn poll_state(&self, cx: &Context<'_>) -> BodyState {
        let mut queue = self.lock();
        queue.session_waker = Some(cx.waker().clone());
        if queue.is_dropped || queue.is_ended {
            BodyState::Ended
        } else if queue.is_blocked && queue.frames.is_empty() {
            queue.is_blocked = false;
            BodyState::Unblocked
        } else {
            BodyState::Open
        }
    }
}

impl BodyOutput {
    pub(super) fn new(
        lane: Rc<LaneState>,
        address: Option<SocketAddr>,
        response: oneshot::Sender<Response<Body>>,
    ) -> BodyOutput {
        let queue = SharedQueue::default();
        queue.lock().bytes_max = QUEUE_BYTES_MAX;
        BodyOutput { queue, response: Some(response), address, lane }
    }

    pub(super) fn queue(&self) -> SharedQueue {
        self.queue.clone()
    }

    fn enqueue(&mut self, bytes: Bytes, is_last: bool) {
        let mut queue = self.queue.lock();
        if queue.is_ended || queue.is_dropped {
            return;
        }
        if !bytes.is_empty() {
            queue.push(bytes);
        }
        queue.is_ended = is_last;
        queue.wake_body();
        if is_last && let Some(session) = queue.session_waker.take() {
            session.wake();
        }
    }
}

impl BodyQueue {
    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.frames.push_back(bytes);
    }

    fn wake_body(&mut self) {
        if let Some(body) = self.body_waker.take() {
            body.wake();
        }
    }
}

impl FrameSink for BodyOutput {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        let mut queue = self.queue.lock();
        if queue.is_ended || queue.is_dropped {
            return Err(SinkClosed);
        }
        let (mut accepted, mut bytes) = (0, 0);
        for frame in runs.iter().flat_map(|run| run.frames) {
            if queue.bytes >= queue.bytes_max {
                queue.is_blocked = true;
                break;
            }
            queue.push(frame.clone());
            accepted += 1;
            bytes += frame.len();
        }
        queue.wake_body();
        let is_blocked = queue.is_blocked;
        drop(queue);
        let metrics = self.lane.metrics.for_transport(TransportKind::EventStream);
        metrics.bytes_out.increment(bytes as u64);
        metrics.writes.increment(1);
        Ok(OfferOutcome { accepted, is_blocked })
    }
}

impl EventOutput for BodyOutput {
    fn begin(&mut self, head: Response<()>, body: Bytes) {
        self.enqueue(body, false);
        if let Some(response) = self.response.take() {
            let body = Body::from_stream(EventBody(self.queue.clone()));
            // Fails when the client has reset the stream, which then drops the body.
            let _ = response.send(head.map(|()| body));
        }
    }

    fn push(&mut self, bytes: Bytes) {
        self.enqueue(bytes, false);
    }

    fn push_last(&mut self, bytes: Bytes) {
        self.enqueue(bytes, true);
    }

    /// A frame is accepted only when the client has taken the one before.
    fn limit_unsent(&mut self) {
        self.queue.lock().bytes_max = 1;
    }

    fn has_pending(&self) -> bool {
        let queue = self.queue.lock();
        queue.is_blocked || !queue.frames.is_empty()
    }

    fn take_progressed(&mut self) -> bool {
        std::mem::take(&mut self.queue.lock().has_progressed)
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Stream for EventBody {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.0.lock();
        match queue.frames.pop_front() {
            Some(frame) => {
                queue.bytes -= frame.len();
                queue.has_progressed = true;
                if queue.is_blocked
                    && queue.frames.is_empty()
                    && let Some(session) = queue.session_waker.take()
                {
                    session.wake();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None if queue.is_ended => Poll::Ready(None),
            None => {
                queue.frames.shrink_to(0);
                queue.body_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The client reset the stream, or the connection ended.
impl Drop for EventBody {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_dropped = true;
        queue.frames = VecDeque::new();
        if let Some(session) = queue.session_waker.take() {
            session.wake();
        }
    }
}

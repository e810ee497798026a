//! One event stream: a task that writes what its socket did not accept at once, and notices the end of the client.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use futures::future::LocalBoxFuture;
use http::Response;
use pushonce_core::ClientAddress;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};

use super::body_output::{BodyOutput, BodyState, SharedQueue};
use super::opening::EventStreamOpening;
use super::output::EventOutput;
use super::transport::EventStreamTransport;
use crate::driver::SessionDriver;
use crate::lane::LaneState;
use crate::metrics::TransportKind;
use crate::socket::{self, SessionSocket, Tcp as _};
use crate::socket_sink::SocketSink;
use crate::{connection, linger};

/// How long the response waits for the reply to the subscription, so that its head can have the position or an
/// error. Some milliseconds pass where the owner of the topic is available.
const REPLY_TIMEOUT: Duration = Duration::from_millis(250);

/// Maximum time to send the last events.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes after the request at which a client is disconnected: it has nothing to send.
const INPUT_BYTES_MAX: usize = 64 << 10;

type Driver<O> = Rc<SessionDriver<EventStreamTransport<O>>>;

/// Starts a session on a connection and returns the future that runs it until its end.
pub(crate) fn run<S: SessionSocket>(
    lane: Rc<LaneState>,
    stream: S,
    opening: EventStreamOpening,
) -> impl Future<Output = ()> + use<S> {
    let address = connection::client_address(stream.tcp());
    let stream = Rc::new(stream);
    let output = SocketSink::new(stream.clone(), lane.clone(), TransportKind::EventStream);
    let driver = opening.start(lane.clone(), output, address);
    let opening_timer = opening_timer(&driver);
    SocketSession { lane, driver, stream, opening_timer, received: 0, closing: None }
}

/// Starts a session whose events are the body of the response that `response` receives, and returns the future that
/// runs it until its end.
pub(crate) fn run_on_body(
    lane: Rc<LaneState>,
    address: Option<SocketAddr>,
    opening: EventStreamOpening,
    response: oneshot::Sender<Response<Body>>,
) -> impl Future<Output = ()> {
    let client = ClientAddress::from(address.map(|address| address.ip()));
    let output = BodyOutput::new(lane.clone(), address, response);
    let queue = output.queue();
    let driver = opening.start(lane, output, client);
    let opening_timer = opening_timer(&driver);
    BodySession { driver, queue, opening_timer }
}

/// The time until the response begins in any case.
fn opening_timer<O: EventOutput>(driver: &Driver<O>) -> Option<Pin<Box<Sleep>>> {
    (!driver.transport().has_begun()).then(|| Box::pin(sleep(REPLY_TIMEOUT)))
}

/// Begins the response when the time for the reply is over.
fn poll_opening<O: EventOutput>(
    driver: &Driver<O>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) {
    let Some(sleep) = timer else { return };
    if driver.transport().has_begun() || sleep.as_mut().poll(cx).is_ready() {
        driver.transport().begin();
        *timer = None;
    }
}

/// A stream on the socket of an HTTP/1 connection.
struct SocketSession<S: SessionSocket> {
    lane: Rc<LaneState>,
    driver: Driver<SocketSink<S>>,
    stream: Rc<S>,
    opening_timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that the client sent.
    received: usize,
    /// Sends the last events.
    closing: Option<LocalBoxFuture<'static, ()>>,
}

impl<S: SessionSocket> SocketSession<S> {
    /// Ready when the stream is over except for what is queued; with whether the client is still there.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        poll_opening(&self.driver, &mut self.opening_timer, cx);
        loop {
            let wrote = self.poll_write(cx);
            let sink = self.driver.transport().event_sink().borrow();
            if sink.output.has_failed() {
                return Poll::Ready(false);
            }
            if !sink.output.is_open() {
                return Poll::Ready(true);
            }
            drop(sink);
            if let Poll::Ready(is_connected) = self.poll_discard(cx) {
                if !is_connected {
                    return Poll::Ready(false);
                }
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
        let sink = self.driver.transport().event_sink();
        if !sink.borrow().output.needs_socket()
            || self.stream.tcp().poll_write_ready(cx).is_pending()
        {
            return Poll::Pending;
        }
        sink.borrow_mut().output.flush();
        let is_unblocked = sink.borrow_mut().output.on_socket_writable();
        if is_unblocked {
            self.driver.on_writable();
        }
        Poll::Ready(())
    }

    /// Reads and discards one buffer; ready with whether the client may go on.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut scratch = self.lane.scratch.borrow_mut();
        while self.stream.poll_read_ready(cx).is_ready() {
            match self.stream.try_read(&mut scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => return Poll::Ready(true),
                Ok(0) | Err(_) => return Poll::Ready(false),
                Ok(len) => {
                    self.received += len;
                    return Poll::Ready(self.received <= INPUT_BYTES_MAX);
                }
            }
        }
        Poll::Pending
    }

    /// Sends what is queued, and ends the connection.
    fn close(&self) -> LocalBoxFuture<'static, ()> {
        let (lane, driver, stream) = (self.lane.clone(), self.driver.clone(), self.stream.clone());
        Box::pin(async move {
            let sink = driver.transport().event_sink();
            let needs_socket = || sink.borrow().output.needs_socket();
            let flushed = async {
                while needs_socket() && socket::writable(stream.tcp()).await.is_ok() {
                    sink.borrow_mut().output.flush();
                    sink.borrow_mut().output.on_socket_writable();
                }
            };
            if timeout(CLOSE_TIMEOUT, flushed).await.is_ok() {
                linger::close(&lane, &*stream).await;
            }
        })
    }
}

/// Implemented by hand to save memory in idle sessions: an async block would contain the session twice.
impl<S: SessionSocket> Future for SocketSession<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing.is_none() {
            let is_connected = ready!(self.poll_open(cx));
            self.driver.stop();
            if !is_connected {
                return Poll::Ready(());
            }
            self.closing = Some(self.close());
        }
        self.closing.as_mut().map_or(Poll::Ready(()), |closing| closing.as_mut().poll(cx))
    }
}

/// Stops the driver also when the lane drops the session: the driver and the lane refer to each other.
impl<S: SessionSocket> Drop for SocketSession<S> {
    fn drop(&mut self) {
        self.driver.stop();
    }
}

/// A stream that is a response body.
struct BodySession {
    driver: Driver<BodyOutput>,
    queue: SharedQueue,
    opening_timer: Option<Pin<Box<Sleep>>>,
}

impl Future for BodySession {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        poll_opening(&this.driver, &mut this.opening_timer, cx);
        loop {
            match this.queue.poll_state(cx) {
                BodyState::Open => return Poll::Pending,
                BodyState::Unblocked => this.driver.on_writable(),
                BodyState::Ended => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for BodySession {
    fn drop(&mut self) {
        self.driver.stop();
    }
}

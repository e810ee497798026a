//! The ways out of one QUIC session: the control stream, and one stream a subscription.
//!
//! Frames go straight into the connection's send buffer, which `SEND_WINDOW_BYTES` bounds for all
//! streams together. What does not fit stays with the hub, except one frame of each topic and the
//! answers on the control stream: those of [`CONGESTED`], of one more read, and of what was on its
//! way to the hub or the publisher.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use metrics::Counter;
use pushonce_core::Topic;
use pushonce_fanout::{Closed, Offered};
use quinn::{SendStream, VarInt, WriteError};

/// Answers in the queue beyond which no more requests are read.
const CONGESTED: usize = 32;

/// One stream.
struct Way {
    stream: SendStream,
    /// Of a subscription: one frame at most, whole or the rest of it.
    queue: VecDeque<Bytes>,
    progressed: bool,
    bytes_out: Counter,
}

pub(super) struct Outlet {
    control: Way,
    subscriptions: HashMap<u32, Subscription>,
    /// Those the hub waits to hear of.
    refused: BTreeSet<u32>,
    /// The client wants no more of these.
    stopped: Vec<Topic>,
    state: State,
    waker: Waker,
    bytes_out: Counter,
}

struct Subscription {
    topic: Topic,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Answers that are queued are still sent, nothing else is taken.
    Leaving,
    /// The connection failed.
    Dead,
}

/// Why a stream takes nothing now.
enum Full {
    /// There is no room yet; the session is woken when there is.
    Blocked,
    /// The client stopped this one.
    Stopped,
    Dead,
}

// === impl Way ===

impl Way {
    fn new(stream: SendStream, bytes_out: Counter) -> Way {
        Way { stream, queue: VecDeque::new(), progressed: false, bytes_out }
    }

    /// Writes what is queued. An error: something is left, and unless the stream is over, `cx` is
    /// woken when there is room.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Full> {
        while let Some(front) = self.queue.front_mut() {
            let written = write(&mut self.stream, cx, front)?;
            self.progressed = true;
            self.bytes_out.increment(written as u64);
            front.advance(written);
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        // What a burst made large an idle session does not keep.
        self.queue.shrink_to(0);
        Ok(())
    }

    /// Writes frames from the front, and queues the rest of one that was cut. How many it took.
    fn push(&mut self, cx: &mut Context<'_>, frames: &[Bytes]) -> Result<usize, Full> {
        let mut taken = 0;
        while taken < frames.len() {
            match self.flush(cx) {
                Ok(()) => {}
                Err(Full::Blocked) => return Ok(taken),
                Err(full) => return Err(full),
            }
            // Queued to be written by the next flush, which asks to be woken if it cannot be.
            self.queue.push_back(frames[taken].clone());
            taken += 1;
        }
        match self.flush(cx) {
            Ok(()) | Err(Full::Blocked) => Ok(taken),
            Err(full) => Err(full),
        }
    }

    /// A stream that ends within a frame says so; the client need not wait for the rest.
    fn finish(mut self) {
        // An error only says that the stream has ended already.
        let _ = match self.queue.is_empty() {
            true => self.stream.finish(),
            false => self.stream.reset(VarInt::from_u32(0)),
        };
    }
}

fn write(stream: &mut SendStream, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Full> {
    match Pin::new(stream).poll_write(cx, bytes) {
        Poll::Ready(Ok(written)) => Ok(written),
        Poll::Ready(Err(WriteError::Stopped(_))) => Err(Full::Stopped),
        Poll::Ready(Err(_)) => Err(Full::Dead),
        Poll::Pending => Err(Full::Blocked),
    }
}

// === impl Outlet ===

impl Outlet {
    pub(super) fn new(control: SendStream, bytes_out: Counter) -> Outlet {
        Outlet {
            control: Way::new(control, bytes_out.clone()),
            subscriptions: HashMap::new(),
            refused: BTreeSet::new(),
            stopped: Vec::new(),
            state: State::Open,
            waker: Waker::noop().clone(),
            bytes_out,
        }
    }

    /// Who is to be woken when a stream has room, or something else is to be done.
    pub(super) fn register(&mut self, waker: &Waker) {
        self.waker.clone_from(waker);
    }

    /// Queues an answer, and sends it if that can be done at once.
    pub(super) fn answer(&mut self, frame: Bytes) {
        if self.state == State::Open {
            self.control.queue.push_back(frame);
            self.flush_control();
        }
    }

    /// Sends a heartbeat on the stream of a subscription, if there is room: one that waits is late.
    pub(super) fn beat(&mut self, token: u32, frame: Bytes) {
        let Some(Subscription { way, .. }) = self.subscriptions.get_mut(&token) else { return };
        if self.state != State::Open || !way.queue.is_empty() {
            return;
        }
        // A stream that has ended is noticed by the flush.
        let _ = way.push(&mut Context::from_waker(&self.waker), &[frame]);
        if !way.queue.is_empty() {
            self.refused.insert(token);
        }
    }

    /// Takes no more; answers that are queued are still sent.
    pub(super) fn leave(&mut self) {
        if self.state == State::Open {
            self.state = State::Leaving;
            self.waker.wake_by_ref();
        }
    }

    /// The stream of a subscription, with the frame it begins with.
    pub(super) fn open(&mut self, token: u32, topic: Topic, stream: SendStream, first: Bytes) {
        let mut way = Way::new(stream, self.bytes_out.clone());
        way.queue.push_back(first);
        self.subscriptions.insert(token, Subscription { topic, way });
        self.refused.insert(token);
        self.waker.wake_by_ref();
    }

    pub(super) fn shut(&mut self, token: u32) {
        self.refused.remove(&token);
        if let Some(subscription) = self.subscriptions.remove(&token) {
            subscription.way.finish();
        }
    }

    /// Sends what is queued. Whether the hub waits to hear of room that there may now be.
    pub(super) fn flush(&mut self) -> bool {
        self.flush_control();
        let mut room = false;
        for token in std::mem::take(&mut self.refused) {
            let Some(subscription) = self.subscriptions.get_mut(&token) else { continue };
            match subscription.way.flush(&mut Context::from_waker(&self.waker)) {
                Ok(()) => room = true,
                Err(Full::Blocked) => {
                    self.refused.insert(token);
                }
                Err(Full::Stopped) => self.stop(token),
                Err(Full::Dead) => self.state = State::Dead,
            }
        }
        room
    }

    fn flush_control(&mut self) {
        match self.control.flush(&mut Context::from_waker(&self.waker)) {
            Ok(()) | Err(Full::Blocked) => {}
            // Who does not want answers has no session.
            Err(Full::Stopped | Full::Dead) => {
                self.state = State::Dead;
                self.waker.wake_by_ref();
            }
        }
    }

    /// Topics whose stream the client stopped since this was asked last.
    pub(super) fn take_stopped(&mut self) -> Vec<Topic> {
        std::mem::take(&mut self.stopped)
    }

    pub(super) fn open_for_requests(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn congested(&self) -> bool {
        self.control.queue.len() > CONGESTED
    }

    pub(super) fn blocked(&self) -> bool {
        !self.control.queue.is_empty() || !self.refused.is_empty()
    }

    pub(super) fn take_progressed(&mut self) -> bool {
        let ways = self.subscriptions.values_mut().map(|subscription| &mut subscription.way);
        let mut progressed = false;
        for way in ways.chain([&mut self.control]) {
            progressed |= std::mem::take(&mut way.progressed);
        }
        progressed
    }

    /// Ready when every answer has reached the client, or none will any more.
    pub(super) fn poll_finish(&mut self) -> Poll<()> {
        self.flush_control();
        match self.state {
            State::Dead => Poll::Ready(()),
            _ if self.control.queue.is_empty() => {
                let _ = self.control.stream.finish();
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }

    /// Ends when the client has acknowledged all of the control stream.
    pub(super) fn acknowledged(&self) -> impl Future<Output = ()> + use<> {
        let stopped = self.control.stream.stopped();
        async move {
            let _ = stopped.await;
        }
    }

    fn stop(&mut self, token: u32) {
        if let Some(Subscription { topic, way }) = self.subscriptions.remove(&token) {
            way.finish();
            self.stopped.push(topic);
            self.waker.wake_by_ref();
        }
    }
}

impl pushonce_fanout::Outlet for Outlet {
    fn offer(&mut self, token: u32, frames: &[Bytes]) -> Result<Offered, Closed> {
        if self.state != State::Open {
            return Err(Closed);
        }
        let Some(subscription) = self.subscriptions.get_mut(&token) else {
            // Stopped: its frames are wanted by nobody.
            return Ok(Offered { taken: frames.len(), blocked: false });
        };
        let mut cx = Context::from_waker(&self.waker);
        match subscription.way.push(&mut cx, frames) {
            Ok(taken) => {
                let blocked = taken < frames.len() || !subscription.way.queue.is_empty();
                if blocked {
                    self.refused.insert(token);
                }
                Ok(Offered { taken, blocked })
            }
            Err(Full::Stopped) => {
                self.stop(token);
                Ok(Offered { taken: frames.len(), blocked: false })
            }
            Err(Full::Blocked | Full::Dead) => {
                self.state = State::Dead;
                self.waker.wake_by_ref();
                Err(Closed)
            }
        }
    }
}

//! The ways out of one QUIC session: the control stream, and those of each subscription.
//!
//! Frames go straight into the connection's send buffer, which `SEND_WINDOW_BYTES` bounds for all
//! streams together. What does not fit stays with the hub, except the rest of one frame of each
//! topic and the answers on the control stream: those of [`CONGESTED`], of one more read, and of
//! what was on its way to the hub or the publisher.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use bytes::Bytes;
use metrics::Counter;
use pushonce_core::Topic;
use pushonce_fanout::{Closed, Offered, Run};
use quinn_proto::StreamId;

use super::link::{Full, Link};
use super::subscription::Subscription;
use super::way::Way;

/// Answers in the queue beyond which no more requests are read.
const CONGESTED: usize = 32;

pub(super) struct Outlet {
    link: Rc<Link>,
    control: Way,
    subscriptions: HashMap<u32, Subscription>,
    /// Those the hub waits to hear of.
    refused: BTreeSet<u32>,
    /// The client wants no more of these.
    stopped: Vec<Topic>,
    state: State,
    bytes_out: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Answers that are queued are still sent, nothing else is taken.
    Leaving,
    /// The client takes no answers.
    Dead,
}

// === impl Outlet ===

impl Outlet {
    pub(super) fn new(link: Rc<Link>, control: StreamId, bytes_out: Counter) -> Outlet {
        Outlet {
            link,
            control: Way::new(control),
            subscriptions: HashMap::new(),
            refused: BTreeSet::new(),
            stopped: Vec::new(),
            state: State::Open,
            bytes_out,
        }
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
        let _ = way.push(&self.link, &self.bytes_out, &[frame]);
        if !way.queue.is_empty() {
            self.refused.insert(token);
        }
    }

    /// Takes no more; answers that are queued are still sent.
    pub(super) fn leave(&mut self) {
        if self.state == State::Open {
            self.state = State::Leaving;
            self.link.call();
        }
    }

    /// A subscription has its stream.
    pub(super) fn open(&mut self, token: u32, subscription: Subscription) {
        self.subscriptions.insert(token, subscription);
        self.refused.insert(token);
        self.link.call();
    }

    pub(super) fn shut(&mut self, token: u32) {
        self.refused.remove(&token);
        if let Some(subscription) = self.subscriptions.remove(&token) {
            subscription.way.finish(&self.link);
        }
    }

    /// Sends what is queued. Whether the hub waits to hear of room that there may now be.
    pub(super) fn flush(&mut self) -> bool {
        self.flush_control();
        let mut room = false;
        for token in std::mem::take(&mut self.refused) {
            let Some(subscription) = self.subscriptions.get_mut(&token) else { continue };
            match subscription.flush(&self.link, &self.bytes_out) {
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

    /// A packet was lost: what may have been in it is sent by the next [flush](Outlet::flush).
    pub(super) fn doubt(&mut self) {
        for (token, subscription) in &mut self.subscriptions {
            if subscription.doubt() {
                self.refused.insert(*token);
            }
        }
    }

    fn flush_control(&mut self) {
        match self.control.flush(&self.link, &self.bytes_out) {
            Ok(()) | Err(Full::Blocked) => {}
            // Who does not want answers has no session.
            Err(Full::Stopped | Full::Dead) => self.die(),
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

    /// Ends the control stream behind the last answer. Once is enough.
    pub(super) fn finish(&mut self) -> Finish {
        self.flush_control();
        match self.state {
            State::Dead => Finish::InVain,
            _ if !self.control.queue.is_empty() => Finish::NotYet,
            _ if self.link.finish(self.control.stream) => Finish::Done,
            _ => Finish::InVain,
        }
    }

    /// Writes frames of one subscription to its stream. Blocked: the rest of the last one is queued.
    fn take(&mut self, run: &Run<'_>) -> Result<Offered, Closed> {
        let Run { token, frames, .. } = *run;
        if self.state != State::Open {
            return Err(Closed);
        }
        let Some(subscription) = self.subscriptions.get_mut(&token) else {
            // Stopped: its frames are wanted by nobody.
            return Ok(Offered { taken: frames.len(), blocked: false });
        };
        match subscription.push(&self.link, &self.bytes_out, frames) {
            Ok(taken) => {
                let whole = taken == frames.len();
                let blocked = whole && !subscription.way.queue.is_empty();
                if blocked || !whole {
                    self.refused.insert(token);
                }
                Ok(Offered { taken, blocked })
            }
            Err(Full::Stopped) => {
                self.stop(token);
                Ok(Offered { taken: frames.len(), blocked: false })
            }
            Err(Full::Blocked | Full::Dead) => {
                self.die();
                Err(Closed)
            }
        }
    }

    fn stop(&mut self, token: u32) {
        if let Some(Subscription { topic, way, .. }) = self.subscriptions.remove(&token) {
            way.finish(&self.link);
            self.stopped.push(topic);
            self.link.call();
        }
    }

    fn die(&mut self) {
        if self.state != State::Dead {
            self.state = State::Dead;
            self.link.call();
        }
    }
}

/// How far the last answers came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// They wait for room, and the session has another turn when there is.
    NotYet,
    /// They are on their way.
    Done,
    /// Nobody takes them.
    InVain,
}

impl pushonce_fanout::Outlet for Outlet {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        let mut taken = 0;
        for run in runs.iter().filter(|run| !run.frames.is_empty()) {
            let offered = self.take(run)?;
            taken += offered.taken;
            if offered.blocked || offered.taken < run.frames.len() {
                return Ok(Offered { taken, blocked: offered.blocked });
            }
        }
        Ok(Offered { taken, blocked: false })
    }
}

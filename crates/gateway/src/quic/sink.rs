//! The ways out of one QUIC session: the control stream, and those of each subscription.
//!
//! Frames go straight into the connection's send buffer, which `SEND_WINDOW_BYTES` bounds for all
//! streams together. What does not fit stays with the hub, except the rest of one frame of each
//! topic and the answers on the control stream: those of [`QUEUED_REPLIES_MAX`], of one more read, and of
//! what was on its way to the hub or the publisher.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use bytes::Bytes;
use metrics::Counter;
use pushonce_core::Topic;
use pushonce_fanout::{FrameRun, OfferOutcome, SinkClosed};
use pushonce_quic::{Connection, StreamId, StreamWriteError};

use super::stream_writer::StreamWriter;
use super::subscription::QuicSubscription;

/// Answers in the queue beyond which no more requests are read.
const QUEUED_REPLIES_MAX: usize = 32;

pub(super) struct QuicSink {
    connection: Rc<Connection>,
    control: StreamWriter,
    subscriptions: HashMap<u32, QuicSubscription>,
    /// Those the hub waits to hear of.
    blocked: BTreeSet<u32>,
    /// The client wants no more of these.
    stopped_topics: Vec<Topic>,
    state: QuicSinkState,
    bytes_out: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuicSinkState {
    Open,
    /// Answers that are queued are still sent, nothing else is taken.
    Closing,
    /// The client takes no answers.
    Failed,
}

// === impl Outlet ===

impl QuicSink {
    pub(super) fn new(
        connection: Rc<Connection>,
        control: StreamId,
        bytes_out: Counter,
    ) -> QuicSink {
        QuicSink {
            connection,
            control: StreamWriter::new(control),
            subscriptions: HashMap::new(),
            blocked: BTreeSet::new(),
            stopped_topics: Vec::new(),
            state: QuicSinkState::Open,
            bytes_out,
        }
    }

    /// Queues an answer, and sends it if that can be done at once.
    pub(super) fn push_reply(&mut self, frame: Bytes) {
        if self.state == QuicSinkState::Open {
            self.control.queue.push_back(frame);
            self.flush_control();
        }
    }

    /// Sends a heartbeat on the stream of a subscription, if there is room: one that waits is late.
    pub(super) fn push_heartbeat(&mut self, token: u32, frame: Bytes) {
        let Some(QuicSubscription { writer, .. }) = self.subscriptions.get_mut(&token) else {
            return;
        };
        if self.state != QuicSinkState::Open || !writer.queue.is_empty() {
            return;
        }
        // A stream that has ended is noticed by the flush.
        let _ = writer.push(&self.connection, &self.bytes_out, &[frame]);
        if !writer.queue.is_empty() {
            self.blocked.insert(token);
        }
    }

    /// Takes no more; answers that are queued are still sent.
    pub(super) fn start_closing(&mut self) {
        if self.state == QuicSinkState::Open {
            self.state = QuicSinkState::Closing;
            self.connection.wake_handler();
        }
    }

    /// A subscription has its stream.
    pub(super) fn add_subscription(&mut self, token: u32, subscription: QuicSubscription) {
        self.subscriptions.insert(token, subscription);
        self.blocked.insert(token);
        self.connection.wake_handler();
    }

    pub(super) fn remove_subscription(&mut self, token: u32) {
        self.blocked.remove(&token);
        if let Some(subscription) = self.subscriptions.remove(&token) {
            subscription.writer.finish(&self.connection);
        }
    }

    /// Sends what is queued. Whether the hub waits to hear of room that there may now be.
    pub(super) fn flush(&mut self) -> bool {
        self.flush_control();
        let mut has_room = false;
        for token in std::mem::take(&mut self.blocked) {
            let Some(subscription) = self.subscriptions.get_mut(&token) else { continue };
            match subscription.flush(&self.connection, &self.bytes_out) {
                Ok(()) => has_room = true,
                Err(StreamWriteError::Blocked) => {
                    self.blocked.insert(token);
                }
                Err(StreamWriteError::Stopped) => self.on_stream_stopped(token),
                Err(StreamWriteError::Closed) => self.state = QuicSinkState::Failed,
            }
        }
        has_room
    }

    /// A packet was lost: what may have been in it is sent by the next [flush](Outlet::flush).
    pub(super) fn on_packet_lost(&mut self) {
        for (token, subscription) in &mut self.subscriptions {
            if subscription.on_packet_lost() {
                self.blocked.insert(*token);
            }
        }
    }

    fn flush_control(&mut self) {
        match self.control.flush(&self.connection, &self.bytes_out) {
            Ok(()) | Err(StreamWriteError::Blocked) => {}
            // Who does not want answers has no session.
            Err(StreamWriteError::Stopped | StreamWriteError::Closed) => self.fail(),
        }
    }

    /// Topics whose stream the client stopped since this was asked last.
    pub(super) fn take_stopped_topics(&mut self) -> Vec<Topic> {
        std::mem::take(&mut self.stopped_topics)
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == QuicSinkState::Open
    }

    pub(super) fn is_congested(&self) -> bool {
        self.control.queue.len() > QUEUED_REPLIES_MAX
    }

    pub(super) fn is_blocked(&self) -> bool {
        !self.control.queue.is_empty() || !self.blocked.is_empty()
    }

    pub(super) fn take_progressed(&mut self) -> bool {
        let writers = self.subscriptions.values_mut().map(|subscription| &mut subscription.writer);
        let mut progressed = false;
        for writer in writers.chain([&mut self.control]) {
            progressed |= std::mem::take(&mut writer.progressed);
        }
        progressed
    }

    /// Ends the control stream behind the last answer. Once is enough.
    pub(super) fn finish_control(&mut self) -> FinishProgress {
        self.flush_control();
        match self.state {
            QuicSinkState::Failed => FinishProgress::Failed,
            _ if !self.control.queue.is_empty() => FinishProgress::Pending,
            _ if self.connection.finish_stream(self.control.id) => FinishProgress::Done,
            _ => FinishProgress::Failed,
        }
    }

    /// Writes frames of one subscription to its stream. Blocked: the rest of the last one is queued.
    fn write_run(&mut self, run: &FrameRun<'_>) -> Result<OfferOutcome, SinkClosed> {
        let FrameRun { token, frames, .. } = *run;
        if self.state != QuicSinkState::Open {
            return Err(SinkClosed);
        }
        let Some(subscription) = self.subscriptions.get_mut(&token) else {
            // Stopped: its frames are wanted by nobody.
            return Ok(OfferOutcome { accepted: frames.len(), is_blocked: false });
        };
        match subscription.push(&self.connection, &self.bytes_out, frames) {
            Ok(taken) => {
                let is_complete = taken == frames.len();
                let blocked = is_complete && !subscription.writer.queue.is_empty();
                if blocked || !is_complete {
                    self.blocked.insert(token);
                }
                Ok(OfferOutcome { accepted: taken, is_blocked: blocked })
            }
            Err(StreamWriteError::Stopped) => {
                self.on_stream_stopped(token);
                Ok(OfferOutcome { accepted: frames.len(), is_blocked: false })
            }
            Err(StreamWriteError::Blocked | StreamWriteError::Closed) => {
                self.fail();
                Err(SinkClosed)
            }
        }
    }

    fn on_stream_stopped(&mut self, token: u32) {
        if let Some(QuicSubscription { topic, writer, .. }) = self.subscriptions.remove(&token) {
            writer.finish(&self.connection);
            self.stopped_topics.push(topic);
            self.connection.wake_handler();
        }
    }

    fn fail(&mut self) {
        if self.state != QuicSinkState::Failed {
            self.state = QuicSinkState::Failed;
            self.connection.wake_handler();
        }
    }
}

/// How far the last answers came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinishProgress {
    /// They wait for room, and the session has another turn when there is.
    Pending,
    /// They are on their way.
    Done,
    /// Nobody takes them.
    Failed,
}

impl pushonce_fanout::FrameSink for QuicSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        let mut taken = 0;
        for run in runs.iter().filter(|run| !run.frames.is_empty()) {
            let offered = self.write_run(run)?;
            taken += offered.accepted;
            if offered.is_blocked || offered.accepted < run.frames.len() {
                return Ok(OfferOutcome { accepted: taken, is_blocked: offered.is_blocked });
            }
        }
        Ok(OfferOutcome { accepted: taken, is_blocked: false })
    }
}

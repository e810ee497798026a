//! Writes the frames of one QUIC session: replies to the control stream, messages to the streams and
//! datagrams of the subscriptions.
//!
//! Frames are written directly into the send buffer of the connection, which `SEND_WINDOW_BYTES` limits for
//! all streams together. Frames that do not fit stay in the hub, except the remainder of one frame per topic
//! and the replies on the control stream: [`QUEUED_REPLIES_MAX`] replies, the replies to one more read, and
//! the replies to pending subscriptions and publishes.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use bytes::Bytes;
use pushonce_core::Topic;
use pushonce_fanout::{FrameRun, OfferOutcome, SinkClosed};
use pushonce_quic::{Connection, StreamId, StreamWriteError};
use pushonce_telemetry::Counter;

use super::stream_writer::StreamWriter;
use super::subscription::QuicSubscription;

/// Queued replies beyond which no more requests are read.
const QUEUED_REPLIES_MAX: usize = 32;

/// The sink of one QUIC session: its control stream and the streams of its subscriptions.
pub(super) struct QuicSink {
    connection: Rc<Connection>,
    control: StreamWriter,
    subscriptions: HashMap<u32, QuicSubscription>,
    /// Tokens of the subscriptions that wait for room in the send buffer. The hub must be notified when there
    /// is room.
    blocked: BTreeSet<u32>,
    /// Topics whose stream the client stopped.
    stopped_topics: Vec<Topic>,
    state: QuicSinkState,
    bytes_out: Counter,
    may_reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QuicSinkState {
    Open,
    /// Queued replies are still sent, new frames are rejected.
    Closing,
    /// The connection is closed, or the client stopped the control stream.
    Failed,
}

// === impl QuicSink ===

impl QuicSink {
    pub(super) fn new(
        connection: Rc<Connection>,
        control: StreamId,
        bytes_out: Counter,
        may_reset: bool,
    ) -> QuicSink {
        QuicSink {
            connection,
            control: StreamWriter::new(control),
            subscriptions: HashMap::new(),
            blocked: BTreeSet::new(),
            stopped_topics: Vec::new(),
            state: QuicSinkState::Open,
            bytes_out,
            may_reset,
        }
    }

    /// Queues a reply and sends it at once if possible.
    pub(super) fn push_reply(&mut self, frame: Bytes) {
        if self.state == QuicSinkState::Open {
            self.control.queue.push_back(frame);
            self.flush_control();
        }
    }

    /// Sends a heartbeat on the stream of a subscription, unless frames are queued there: a queued heartbeat
    /// would be outdated when it is sent.
    pub(super) fn push_heartbeat(&mut self, token: u32, frame: Bytes) {
        let Some(QuicSubscription { writer, .. }) = self.subscriptions.get_mut(&token) else {
            return;
        };
        if self.state != QuicSinkState::Open || !writer.queue.is_empty() {
            return;
        }
        // The next flush detects a stream that has ended.
        let _ = writer.push(&self.connection, &self.bytes_out, &[frame]);
        if !writer.queue.is_empty() {
            self.blocked.insert(token);
        }
    }

    /// Rejects new frames from now on. Queued replies are still sent.
    pub(super) fn start_closing(&mut self) {
        if self.state == QuicSinkState::Open {
            self.state = QuicSinkState::Closing;
            self.connection.wake_handler();
        }
    }

    /// Adds a subscription whose stream is open.
    pub(super) fn add_subscription(&mut self, token: u32, subscription: QuicSubscription) {
        self.subscriptions.insert(token, subscription);
        self.blocked.insert(token);
        self.connection.wake_handler();
    }

    pub(super) fn remove_subscription(&mut self, token: u32) {
        self.blocked.remove(&token);
        if let Some(subscription) = self.subscriptions.remove(&token) {
            subscription.writer.finish(&self.connection, self.may_reset);
        }
    }

    /// Sends queued frames. Returns whether the hub must be notified that there may be room.
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

    /// Handles the loss of a packet: the next [flush](QuicSink::flush) resends the newest messages that may
    /// have been in it.
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
            // A client that does not accept replies has no session.
            Err(StreamWriteError::Stopped | StreamWriteError::Closed) => self.fail(),
        }
    }

    /// Returns the topics whose stream the client stopped since the previous call.
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

    /// Whether bytes were written since the previous call.
    pub(super) fn take_progressed(&mut self) -> bool {
        let writers = self.subscriptions.values_mut().map(|subscription| &mut subscription.writer);
        let mut progressed = false;
        for writer in writers.chain([&mut self.control]) {
            progressed |= std::mem::take(&mut writer.progressed);
        }
        progressed
    }

    /// Sends the queued replies and then finishes the control stream. To be called until it returns
    /// [`FinishProgress::Done`] or [`FinishProgress::Failed`].
    pub(super) fn finish_control(&mut self) -> FinishProgress {
        self.flush_control();
        match self.state {
            QuicSinkState::Failed => FinishProgress::Failed,
            _ if !self.control.queue.is_empty() => FinishProgress::Pending,
            _ if self.connection.finish_stream(self.control.id) => FinishProgress::Done,
            _ => FinishProgress::Failed,
        }
    }

    /// Writes frames of one subscription to its stream. The outcome is blocked if the remainder of the last
    /// frame was queued.
    fn write_run(&mut self, run: &FrameRun<'_>) -> Result<OfferOutcome, SinkClosed> {
        let FrameRun { token, frames, .. } = *run;
        if self.state != QuicSinkState::Open {
            return Err(SinkClosed);
        }
        let Some(subscription) = self.subscriptions.get_mut(&token) else {
            // The client stopped the stream: its frames are dropped.
            return Ok(OfferOutcome { accepted: frames.len(), is_blocked: false });
        };
        match subscription.push(&self.connection, &self.bytes_out, frames) {
            Ok(accepted) => {
                let is_complete = accepted == frames.len();
                let is_blocked = is_complete && !subscription.writer.queue.is_empty();
                if is_blocked || !is_complete {
                    self.blocked.insert(token);
                }
                Ok(OfferOutcome { accepted, is_blocked })
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
            // The client knows the stream. Without a reset it would stay open, and count as one of those that the
            // client allows.
            self.connection.reset_stream(writer.id);
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

/// The progress of [`QuicSink::finish_control`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinishProgress {
    /// Replies wait for room. The session is driven again when there is room.
    Pending,
    /// All replies were written and the stream is finished.
    Done,
    /// The replies cannot be sent.
    Failed,
}

impl pushonce_fanout::FrameSink for QuicSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        let mut accepted = 0;
        for run in runs.iter().filter(|run| !run.frames.is_empty()) {
            let offered = self.write_run(run)?;
            accepted += offered.accepted;
            if offered.is_blocked || offered.accepted < run.frames.len() {
                return Ok(OfferOutcome { accepted, is_blocked: offered.is_blocked });
            }
        }
        Ok(OfferOutcome { accepted, is_blocked: false })
    }
}

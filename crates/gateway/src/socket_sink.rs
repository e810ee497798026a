//! Writes the frames of one session directly to its socket: of a WebSocket, or of an event stream over HTTP/1.
//!
//! Replies and the remainder of a partly written frame form one queue that is sent before anything new, so
//! that no frame is interrupted by another. The queue is bounded. For a session that does not read it holds
//! the remainder of one message, [`QUEUED_REPLIES_MAX`] replies, at which reading stops, the replies to the
//! last read buffer, and the replies to pending subscriptions and publishes.
//!
//! A session with a subscription of `latest` or `rate` has two more limits, so that a slow client receives
//! the newest message and none that is seconds old: the kernel holds no unsent bytes when a frame is written,
//! and an [`InFlightWindow`] limits the frames that the client of a WebSocket has not read yet. The client of an
//! event stream confirms nothing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use pushonce_fanout::{FrameRun, OfferOutcome, SinkClosed};
use pushonce_websocket::frame;
use socket2::SockRef;

use crate::lane::LaneState;
use crate::metrics::TransportKind;
use crate::socket::{SessionSocket, Tcp as _};
use crate::ws::InFlightWindow;

/// Maximum number of slices in one write: as many as a turn of the lane has offers, so that one message from
/// each topic of a session is one write. Slices that do not fit into the socket buffer cost only their list
/// entry. The system allows four times as many.
const SLICES_PER_WRITE: usize = 256;

/// Queued replies beyond which no more requests are read.
const QUEUED_REPLIES_MAX: usize = 32;

/// Size of the kernel's send buffer for a session with a subscription of `latest` or `rate`. On a slow
/// network the default buffer would grow to some MiB, which is seconds of messages that can no longer be
/// replaced by newer ones.
const LATEST_SEND_BUFFER_BYTES: usize = 64 << 10;

/// Low-water mark of such a session: its socket is writable only while the kernel holds no unsent byte.
#[cfg(target_os = "linux")]
const LATEST_UNSENT_BYTES_MAX: u32 = 1;

pub(crate) struct SocketSink<S> {
    stream: Rc<S>,
    queue: VecDeque<Bytes>,
    /// Set when an offer was not accepted completely. The lane must then be notified when there is room.
    blocked_on: Option<BlockedOn>,
    /// The window of a session with a subscription of `latest` or `rate`. Boxed, because most sessions have
    /// none.
    window: Option<Box<InFlightWindow>>,
    /// Whether frames are written only while the kernel holds no unsent bytes.
    limits_unsent: bool,
    progressed: bool,
    kind: TransportKind,
    state: SinkState,
    lane: Rc<LaneState>,
}

/// What the sink waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockedOn {
    /// Room in the socket buffer.
    Socket,
    /// Confirmation by the client of the frames in flight.
    Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SinkState {
    Open,
    /// Queued frames are still sent, new ones are rejected.
    Closing,
    /// The socket failed.
    Failed,
}

impl<S: SessionSocket> SocketSink<S> {
    pub(crate) fn new(stream: Rc<S>, lane: Rc<LaneState>, kind: TransportKind) -> SocketSink<S> {
        SocketSink {
            stream,
            queue: VecDeque::new(),
            blocked_on: None,
            window: None,
            limits_unsent: false,
            progressed: false,
            kind,
            state: SinkState::Open,
            lane,
        }
    }

    /// Queues a frame and sends it at once if possible.
    pub(crate) fn push(&mut self, frame: Bytes) {
        if self.state == SinkState::Open {
            self.queue.push_back(frame);
            self.flush();
            self.wake();
        }
    }

    /// Limits the bytes and frames in flight from now on, so that a slow client gets the newest messages when
    /// it reads. This holds for the rest of the session: the kernel does not resume automatic sizing of a
    /// send buffer whose size was set.
    pub(crate) fn limit_in_flight(&mut self) {
        if self.window.is_some() {
            return;
        }
        self.window = Some(Box::new(InFlightWindow::new()));
        self.limit_unsent();
    }

    /// Limits the bytes that the kernel holds, for a client that confirms nothing.
    pub(crate) fn limit_unsent(&mut self) {
        if std::mem::replace(&mut self.limits_unsent, true) {
            return;
        }
        let socket = SockRef::from(self.stream.tcp());
        // A failure means that the connection is gone.
        let _ = socket.set_send_buffer_size(LATEST_SEND_BUFFER_BYTES);
        #[cfg(target_os = "linux")]
        let _ = socket.set_tcp_notsent_lowat(LATEST_UNSENT_BYTES_MAX);
    }

    /// Sends a keepalive ping. A client may answer only the last of several pings, so this repeats the one
    /// that the window waits for.
    pub(crate) fn ping(&mut self) {
        let outstanding = self.window.as_ref().and_then(|window| window.outstanding_ping());
        let ping = outstanding.map_or_else(|| frame::ping(&[]), |payload| frame::ping(&payload));
        self.push(ping);
    }

    /// Handles a pong. Returns whether the lane must be notified that there is room.
    pub(crate) fn on_pong(&mut self, payload: &[u8]) -> bool {
        let Some(window) = &mut self.window else { return false };
        let ping = window.on_pong(payload, Instant::now());
        let has_room = window.available() > 0;
        if let Some(payload) = ping {
            self.push(frame::ping(&payload));
        }
        let is_unblocked = self.blocked_on == Some(BlockedOn::Window) && has_room;
        if is_unblocked {
            self.blocked_on = None;
        }
        is_unblocked
    }

    /// Queues the last frame of the session.
    pub(crate) fn push_last(&mut self, frame: Bytes) {
        self.push(frame);
        if self.state == SinkState::Open {
            self.state = SinkState::Closing;
            self.wake();
        }
    }

    /// Writes queued frames until the socket is full.
    pub(crate) fn flush(&mut self) {
        if self.stream.has_unsent() {
            match self.stream.flush_unsent() {
                Ok(0) => return,
                Ok(sent) => self.on_written(sent),
                Err(_) => return self.fail(),
            }
        }
        while let Some(front) = self.queue.front_mut() {
            match self.stream.try_write(front) {
                Ok(written) => {
                    front.advance(written);
                    if front.is_empty() {
                        self.queue.pop_front();
                    }
                    self.on_written(written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.fail(),
            }
        }
        // An idle session does not keep the capacity that a burst needed.
        self.queue.shrink_to(0);
    }

    /// Whether frames or parts of them wait to be sent, here or in the socket.
    fn has_queued(&self) -> bool {
        !self.queue.is_empty() || self.stream.has_unsent()
    }

    /// Whether frames wait to be sent, here or in the hub.
    pub(crate) fn has_pending(&self) -> bool {
        self.has_queued() || self.blocked_on.is_some()
    }

    /// Whether the session must be woken when the socket has room.
    pub(crate) fn needs_socket(&self) -> bool {
        self.has_queued() || self.blocked_on == Some(BlockedOn::Socket)
    }

    /// Handles a writable socket. Returns whether the lane must be notified that there is room, once for each
    /// time it was blocked.
    pub(crate) fn on_socket_writable(&mut self) -> bool {
        let is_unblocked = !self.has_queued() && self.blocked_on == Some(BlockedOn::Socket);
        if is_unblocked {
            self.blocked_on = None;
        }
        is_unblocked
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.queue.len() > QUEUED_REPLIES_MAX
    }

    /// The address of the client, while the connection lasts.
    pub(crate) fn remote_address(&self) -> Option<SocketAddr> {
        self.stream.tcp().peer_addr().ok()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == SinkState::Open
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state == SinkState::Failed
    }

    pub(crate) fn take_progressed(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    fn wake(&self) {
        if self.needs_socket() || self.state != SinkState::Open {
            self.wake_session();
        }
    }

    /// Has the session polled again.
    pub(super) fn wake_session(&self) {
        self.stream.tcp().wake();
    }

    fn fail(&mut self) {
        self.state = SinkState::Failed;
        self.queue = VecDeque::new();
    }

    fn on_written(&mut self, bytes: usize) {
        self.progressed = true;
        let metrics = self.lane.metrics.for_transport(self.kind);
        metrics.bytes_out.increment(bytes as u64);
        metrics.writes.increment(1);
    }

    /// Writes frames until the socket is full and queues the remainder of a partly written one. Returns the
    /// number of accepted frames.
    fn write_runs(&mut self, runs: &[FrameRun<'_>]) -> usize {
        let written = self.write_pieces(runs);
        let (complete, remainder) =
            split_at_written(runs.iter().flat_map(|run| run.frames), written);
        let cut = usize::from(remainder.is_some());
        self.queue.extend(remainder);
        complete + cut
    }

    /// Writes frames as [`Self::write_runs`], but no more than the window allows.
    fn write_runs_in_window(
        &mut self,
        window: &mut InFlightWindow,
        runs: &[FrameRun<'_>],
    ) -> usize {
        let available = window.available();
        if available == 0 {
            self.blocked_on = Some(BlockedOn::Window);
            return 0;
        }
        let frame_count: usize = runs.iter().map(|run| run.frames.len()).sum();
        let taken = if frame_count <= available {
            self.write_runs(runs)
        } else {
            self.write_runs(&first_frames(runs, available))
        };
        if let Some(payload) = window.on_sent(taken, Instant::now()) {
            self.queue.push_back(frame::ping(&payload));
            self.flush();
        }
        if taken < frame_count && !self.has_queued() {
            let is_full = window.available() == 0;
            self.blocked_on = Some(if is_full { BlockedOn::Window } else { BlockedOn::Socket });
        }
        taken
    }

    /// Writes the pieces of all runs and returns the number of written bytes.
    fn write_pieces(&mut self, runs: &[FrameRun<'_>]) -> usize {
        let mut pieces = runs.iter().flat_map(FrameRun::pieces);
        match (pieces.next(), pieces.next()) {
            (None, _) => 0,
            // The common case needs no list.
            (Some(piece), None) => self.on_write_result(self.stream.try_write(piece)),
            (Some(first), Some(second)) => {
                let pieces = [first, second].into_iter().chain(pieces);
                let slices: Vec<_> = pieces.map(|piece| IoSlice::new(piece)).collect();
                self.write_slices(&slices)
            }
        }
    }

    fn write_slices(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let mut total = 0;
        for slices in slices.chunks(SLICES_PER_WRITE) {
            let written = self.on_write_result(self.stream.try_write_vectored(slices));
            total += written;
            if written < slices.iter().map(|slice| slice.len()).sum() {
                break;
            }
        }
        total
    }

    /// Records the result of a write and returns the number of written bytes.
    fn on_write_result(&mut self, written: io::Result<usize>) -> usize {
        match written {
            Ok(written) => {
                self.on_written(written);
                written
            }
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    self.fail();
                }
                0
            }
        }
    }
}

impl<S: SessionSocket> pushonce_fanout::FrameSink for SocketSink<S> {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        self.flush();
        let frame_count = runs.iter().map(|run| run.frames.len()).sum();
        let mut ready = self.state == SinkState::Open && !self.has_queued();
        if ready && self.limits_unsent && !self.stream.tcp().is_send_buffer_empty() {
            self.blocked_on = Some(BlockedOn::Socket);
            ready = false;
        }
        let window = self.window.take();
        let (taken, window) = match window {
            Some(mut window) if ready => {
                (self.write_runs_in_window(&mut window, runs), Some(window))
            }
            window => (if ready { self.write_runs(runs) } else { 0 }, window),
        };
        self.window = window;
        if self.has_queued() || (taken < frame_count && self.blocked_on.is_none()) {
            self.blocked_on = Some(BlockedOn::Socket);
        }
        self.wake();
        match self.state {
            SinkState::Open => Ok(OfferOutcome { accepted: taken, is_blocked: self.has_queued() }),
            SinkState::Closing | SinkState::Failed => Err(SinkClosed),
        }
    }
}

/// Returns the first `count` frames of the runs.
fn first_frames<'a>(runs: &[FrameRun<'a>], count: usize) -> Vec<FrameRun<'a>> {
    let mut remaining = count;
    let mut cut = Vec::new();
    for run in runs {
        let frames = &run.frames[..run.frames.len().min(remaining)];
        let joined = run.concatenated.filter(|_| frames.len() == run.frames.len());
        remaining -= frames.len();
        cut.push(FrameRun { token: run.token, frames, concatenated: joined, cursors: run.cursors });
        if remaining == 0 {
            break;
        }
    }
    cut
}

/// Returns how many frames `written` bytes cover completely, and the remainder of a partly written one.
fn split_at_written<'a>(
    frames: impl Iterator<Item = &'a Bytes>,
    written: usize,
) -> (usize, Option<Bytes>) {
    let (mut complete, mut remaining) = (0, written);
    for frame in frames {
        if remaining < frame.len() {
            return (complete, (remaining > 0).then(|| frame.slice(remaining..)));
        }
        remaining -= frame.len();
        complete += 1;
    }
    (complete, None)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use pushonce_fanout::FrameSink as _;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::reactor::SessionTcp;
    use crate::testing::{self, LaneHarness};

    /// Returns a client, and a sink for its connection.
    async fn connected_sink() -> (TcpStream, SocketSink<SessionTcp>) {
        let lane = LaneHarness::new().lane;
        let (client, tcp) = testing::connected_pair(&lane.reactor).await;
        (client, SocketSink::new(Rc::new(tcp), lane, TransportKind::WebSocket))
    }

    #[tokio::test]
    async fn full_socket_queues_the_rest_of_one_frame_and_loses_nothing() {
        let (mut client, mut sink) = connected_sink().await;
        let frames: Vec<Bytes> = (0..300).map(|n| format!("{n:>1000}").into()).collect();
        let topics: Vec<FrameRun<'_>> = (0..)
            .zip(&frames)
            .map(|(token, frame)| FrameRun {
                token,
                frames: slice::from_ref(frame),
                concatenated: None,
                cursors: &[],
            })
            .collect();
        let mut expected = Vec::new();
        loop {
            let OfferOutcome { accepted, is_blocked } = sink.offer(&topics).unwrap();
            expected.extend(frames[..accepted].concat());
            if accepted < topics.len() {
                assert_eq!(is_blocked, !sink.queue.is_empty());
                break;
            }
        }
        assert!(sink.queue.len() <= 1 && sink.queue.iter().all(|rest| rest.len() < 1000));
        assert_eq!(sink.offer(&topics).map(|offered| offered.accepted), Ok(0));
        let mut received = vec![0; expected.len()];
        let reading = client.read_exact(&mut received);
        let writing = async {
            while !sink.queue.is_empty() {
                tokio::task::yield_now().await;
                sink.flush();
            }
        };
        let (read, ()) = futures::join!(reading, writing);
        assert_eq!(read.unwrap(), expected.len());
        assert!(received == expected, "frames are incomplete or out of order");
        assert!(sink.on_socket_writable(), "the lane must be notified");
    }

    #[tokio::test]
    async fn joined_frames_are_taken_by_whole_frames() {
        let (mut client, mut sink) = connected_sink().await;
        let frames: Vec<Bytes> = (0..60).map(|n| format!("{n:>1000}").into()).collect();
        let joined = Bytes::from(frames.concat());
        let run = FrameRun { token: 0, frames: &frames, concatenated: Some(&joined), cursors: &[] };
        let mut expected = Vec::new();
        let frame_count = loop {
            let OfferOutcome { accepted, .. } = sink.offer(&[run]).unwrap();
            expected.extend(frames[..accepted].concat());
            if accepted < frames.len() {
                break accepted;
            }
        };
        // The remainder in the queue is the end of the last accepted frame.
        let remainder = sink.queue.front().cloned().unwrap_or_default();
        assert!(frame_count == 0 || frames[frame_count - 1].ends_with(&remainder));
        let mut received = vec![0; expected.len() - remainder.len()];
        client.read_exact(&mut received).await.unwrap();
        assert!(expected.starts_with(&received));
    }

    #[test]
    fn written_bytes_are_split_into_whole_frames_and_one_remainder() {
        let frames = ["abc", "de", "f"].map(|text| Bytes::from_static(text.as_bytes()));
        let split_written = |written| split_at_written(frames.iter(), written);
        assert_eq!(split_written(0), (0, None));
        assert_eq!(split_written(2), (0, Some(Bytes::from_static(b"c"))));
        assert_eq!(split_written(3), (1, None));
        assert_eq!(split_written(4), (1, Some(Bytes::from_static(b"e"))));
        assert_eq!(split_written(6), (3, None));
    }
}

//! The way out of one WebSocket session: ready frames straight to the socket.
//!
//! Answers and the rest of a part-written frame are one queue, and go before anything new; so no
//! frame is ever cut by another. Of messages a session that does not read holds one rest here; of
//! answers those of [`QUEUED_REPLIES_MAX`], where reading stops, of the buffer that was read last, and of
//! subscriptions and publishes that were on their way. That is the bound of the queue.
//!
//! A session with a subscription of `latest` or `rate` has two more bounds, so that a client that reads
//! slowly is shown the newest message and none that is seconds old: the kernel holds nothing unsent
//! when a frame is written, and a [`InFlightWindow`] bounds the frames that the client has not read yet.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use bytes::{Buf, Bytes};
use pushonce_fanout::{FrameRun, OfferOutcome, SinkClosed};
use pushonce_websocket::frame;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::in_flight::InFlightWindow;
use crate::lane::LaneState;
use crate::metrics::TransportKind;

/// Pieces in one write: as many as a turn of the lane has offers, so that one message of each of a
/// session's topics is one write. What a socket's buffer has no room for costs nothing but its place in
/// the list; the system takes four times as many.
const SLICES_PER_WRITE: usize = 256;

/// Without a signal if the socket is closed.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// There that was said when the socket was made.
#[cfg(target_vendor = "apple")]
const QUIETLY: SendFlags = SendFlags::empty();

/// Answers in the queue beyond which no more requests are read.
const QUEUED_REPLIES_MAX: usize = 32;

/// Bytes of a session with a subscription of `latest` or `rate` that the kernel holds and the client has
/// not acknowledged. A slow network would otherwise fill a send buffer of some MiB, which is seconds of
/// messages that cannot be replaced by newer ones any more.
const LATEST_SEND_BUFFER_BYTES: usize = 64 << 10;

/// The kernel takes no more of such a session while it holds a byte that it has not sent.
#[cfg(target_os = "linux")]
const LATEST_UNSENT_BYTES_MAX: u32 = 1;

pub(crate) struct WebSocketSink {
    stream: Rc<TcpStream>,
    queue: VecDeque<Bytes>,
    /// An offer was not taken whole: the lane waits to hear that there is room.
    blocked_on: Option<BlockedOn>,
    /// Of a session that wants the newest of some topic only. Boxed: most sessions have none.
    window: Option<Box<InFlightWindow>>,
    progressed: bool,
    state: WebSocketSinkState,
    waker: Option<Waker>,
    lane: Rc<LaneState>,
}

/// Where there must be room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockedOn {
    Socket,
    /// Until the client confirms what was sent.
    Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WebSocketSinkState {
    Open,
    /// What is queued is still sent, nothing else is taken.
    Closing,
    /// The socket failed.
    Failed,
}

impl WebSocketSink {
    pub(super) fn new(stream: Rc<TcpStream>, lane: Rc<LaneState>) -> WebSocketSink {
        WebSocketSink {
            stream,
            queue: VecDeque::new(),
            blocked_on: None,
            window: None,
            progressed: false,
            state: WebSocketSinkState::Open,
            waker: None,
            lane,
        }
    }

    /// Queues a frame, and sends it if that can be done at once.
    pub(super) fn push(&mut self, frame: Bytes) {
        if self.state == WebSocketSinkState::Open {
            self.queue.push_back(frame);
            self.flush();
            self.wake();
        }
    }

    /// From now on little is under way to the client at any time, so that a slow one gets the newest
    /// messages there are when it reads. For the rest of the session: a send buffer that was given a
    /// size does not grow by itself again.
    pub(super) fn limit_in_flight(&mut self) {
        if self.window.is_some() {
            return;
        }
        self.window = Some(Box::new(InFlightWindow::new()));
        let socket = SockRef::from(&*self.stream);
        // A failure means that the connection is gone.
        let _ = socket.set_send_buffer_size(LATEST_SEND_BUFFER_BYTES);
        #[cfg(target_os = "linux")]
        let _ = socket.set_tcp_notsent_lowat(LATEST_UNSENT_BYTES_MAX);
    }

    /// Asks whether somebody is there. Of several pings a client may answer the last only, so the one
    /// that the window waits for is asked again.
    pub(super) fn ping(&mut self) {
        let outstanding = self.window.as_ref().and_then(|window| window.outstanding_ping());
        let ping = outstanding.map_or_else(|| frame::ping(&[]), |payload| frame::ping(&payload));
        self.push(ping);
    }

    /// The client answered a ping. Whether the lane waits to hear of room that there now is.
    pub(super) fn on_pong(&mut self, payload: &[u8]) -> bool {
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

    /// Queues the last frame.
    pub(super) fn push_last(&mut self, frame: Bytes) {
        self.push(frame);
        if self.state == WebSocketSinkState::Open {
            self.state = WebSocketSinkState::Closing;
            self.wake();
        }
    }

    /// Writes what is queued, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
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
        // What a burst made large an idle session does not keep.
        self.queue.shrink_to(0);
    }

    /// Whether something waits to be sent.
    pub(super) fn has_pending(&self) -> bool {
        !self.queue.is_empty() || self.blocked_on.is_some()
    }

    /// Whether the session must be woken when the socket has room.
    pub(super) fn needs_socket(&self) -> bool {
        !self.queue.is_empty() || self.blocked_on == Some(BlockedOn::Socket)
    }

    /// The socket has room. Whether the lane waits to hear of it. Asked once: it is told then.
    pub(super) fn on_socket_writable(&mut self) -> bool {
        let is_unblocked = self.queue.is_empty() && self.blocked_on == Some(BlockedOn::Socket);
        if is_unblocked {
            self.blocked_on = None;
        }
        is_unblocked
    }

    pub(super) fn is_congested(&self) -> bool {
        self.queue.len() > QUEUED_REPLIES_MAX
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == WebSocketSinkState::Open
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state == WebSocketSinkState::Failed
    }

    pub(super) fn take_progressed(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// Who is to be woken when something is left to write.
    pub(super) fn register_waker(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(current) => current.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker
            && (self.needs_socket() || self.state != WebSocketSinkState::Open)
        {
            waker.wake_by_ref();
        }
    }

    fn fail(&mut self) {
        self.state = WebSocketSinkState::Failed;
        self.queue = VecDeque::new();
    }

    fn on_written(&mut self, bytes: usize) {
        self.progressed = true;
        let metrics = self.lane.metrics.for_transport(TransportKind::WebSocket);
        metrics.bytes_out.increment(bytes as u64);
        metrics.writes.increment(1);
    }

    /// Takes frames from the front as far as the socket does; the rest of one that was cut is queued.
    fn write_runs(&mut self, runs: &[FrameRun<'_>]) -> usize {
        let written = self.write_pieces(runs);
        let (complete, remainder) =
            split_at_written(runs.iter().flat_map(|run| run.frames), written);
        let cut = usize::from(remainder.is_some());
        self.queue.extend(remainder);
        complete + cut
    }

    /// The same for a session that wants the newest only: no more than its window has room for, and
    /// nothing behind bytes that the kernel has not sent yet.
    fn write_runs_in_window(
        &mut self,
        window: &mut InFlightWindow,
        runs: &[FrameRun<'_>],
    ) -> usize {
        let available = window.available();
        if available == 0 || !is_send_buffer_empty(&self.stream) {
            self.blocked_on =
                Some(if available == 0 { BlockedOn::Window } else { BlockedOn::Socket });
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
        if taken < frame_count && self.queue.is_empty() {
            let is_full = window.available() == 0;
            self.blocked_on = Some(if is_full { BlockedOn::Window } else { BlockedOn::Socket });
        }
        taken
    }

    /// Writes what there is. Says how many bytes the socket took.
    fn write_pieces(&mut self, runs: &[FrameRun<'_>]) -> usize {
        let mut pieces = runs.iter().flat_map(FrameRun::pieces);
        match (pieces.next(), pieces.next()) {
            (None, _) => 0,
            // As it mostly is: no list is made.
            (Some(piece), None) => self.on_write_result(send_one(&self.stream, piece)),
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
            let written = self.on_write_result(send_vectored(&self.stream, slices));
            total += written;
            if written < slices.iter().map(|slice| slice.len()).sum() {
                break;
            }
        }
        total
    }

    /// What came of a write: so many bytes.
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

impl pushonce_fanout::FrameSink for WebSocketSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        self.flush();
        let frame_count = runs.iter().map(|run| run.frames.len()).sum();
        let ready = self.state == WebSocketSinkState::Open && self.queue.is_empty();
        let window = self.window.take();
        let (taken, window) = match window {
            Some(mut window) if ready => {
                (self.write_runs_in_window(&mut window, runs), Some(window))
            }
            window => (if ready { self.write_runs(runs) } else { 0 }, window),
        };
        self.window = window;
        if !self.queue.is_empty() || (taken < frame_count && self.blocked_on.is_none()) {
            self.blocked_on = Some(BlockedOn::Socket);
        }
        self.wake();
        match self.state {
            WebSocketSinkState::Open => {
                Ok(OfferOutcome { accepted: taken, is_blocked: !self.queue.is_empty() })
            }
            WebSocketSinkState::Closing | WebSocketSinkState::Failed => Err(SinkClosed),
        }
    }
}

/// The first `count` frames.
fn first_frames<'a>(runs: &[FrameRun<'a>], count: usize) -> Vec<FrameRun<'a>> {
    let mut remaining = count;
    let mut cut = Vec::new();
    for run in runs {
        let frames = &run.frames[..run.frames.len().min(remaining)];
        let joined = run.concatenated.filter(|_| frames.len() == run.frames.len());
        remaining -= frames.len();
        cut.push(FrameRun { token: run.token, frames, concatenated: joined });
        if remaining == 0 {
            break;
        }
    }
    cut
}

/// Whether the kernel holds nothing that it has not sent, by the low-water mark of the socket. To write
/// alone does not tell: small writes join the last packet that waits, whatever the mark. If it does,
/// the runtime waits until it does not.
fn is_send_buffer_empty(stream: &TcpStream) -> bool {
    let check = || {
        let mut socket = [PollFd::new(stream, PollFlags::OUT)];
        match poll(&mut socket, Some(&Timespec::default())) {
            Ok(0) => Err(ErrorKind::WouldBlock.into()),
            // An error of the socket is found by the write.
            Ok(_) | Err(_) => Ok(()),
        }
    };
    match stream.try_io(Interest::WRITABLE, check) {
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(()) => true,
    }
}

/// Without a look at the runtime's record of the socket, which of thousands is in no cache. A socket that
/// is full is asked once more by the runtime, so that this knows what to wait for.
fn send_one(stream: &TcpStream, piece: &[u8]) -> io::Result<usize> {
    match send(stream, piece, NO_SIGNAL) {
        Err(Errno::AGAIN) => stream.try_write(piece),
        sent => Ok(sent?),
    }
}

/// The same for several pieces.
fn send_vectored(stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    match sendmsg(stream, pieces, &mut SendAncillaryBuffer::default(), NO_SIGNAL) {
        Err(Errno::AGAIN) => stream.try_write_vectored(pieces),
        sent => Ok(sent?),
    }
}

/// How many frames `written` bytes are, and the rest of the one they end in.
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
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::LaneHarness;

    /// A client, and an outlet whose socket is known to have room.
    async fn connected_sink() -> (TcpStream, Rc<TcpStream>, WebSocketSink) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Rc::new(listener.accept().await.unwrap().0);
        stream.writable().await.unwrap();
        let sink = WebSocketSink::new(stream.clone(), LaneHarness::new().lane);
        (client, stream, sink)
    }

    #[tokio::test]
    async fn full_socket_queues_the_rest_of_one_frame_and_loses_nothing() {
        let (mut client, stream, mut sink) = connected_sink().await;
        let frames: Vec<Bytes> = (0..300).map(|n| format!("{n:>1000}").into()).collect();
        let topics: Vec<FrameRun<'_>> = (0..)
            .zip(&frames)
            .map(|(token, frame)| FrameRun {
                token,
                frames: slice::from_ref(frame),
                concatenated: None,
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
                stream.writable().await.unwrap();
                sink.flush();
            }
        };
        let (read, ()) = futures::join!(reading, writing);
        assert_eq!(read.unwrap(), expected.len());
        assert!(received == expected, "every frame whole and in order");
        assert!(sink.on_socket_writable(), "the lane waits to hear of it");
    }

    #[tokio::test]
    async fn joined_frames_are_taken_by_whole_frames() {
        let (mut client, _, mut sink) = connected_sink().await;
        let frames: Vec<Bytes> = (0..60).map(|n| format!("{n:>1000}").into()).collect();
        let joined = Bytes::from(frames.concat());
        let run = FrameRun { token: 0, frames: &frames, concatenated: Some(&joined) };
        let mut expected = Vec::new();
        let frame_count = loop {
            let OfferOutcome { accepted, .. } = sink.offer(&[run]).unwrap();
            expected.extend(frames[..accepted].concat());
            if accepted < frames.len() {
                break accepted;
            }
        };
        // What the socket cut is the end of the last that was taken.
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

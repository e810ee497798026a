//! The way out of one WebSocket session: ready frames straight to the socket.
//!
//! Answers and the rest of a part-written frame are one queue, and go before anything new; so no
//! frame is ever cut by another. Of messages a session that does not read holds one rest here; of
//! answers those of [`CONGESTED`], where reading stops, of the buffer that was read last, and of
//! subscriptions and publishes that were on their way. That is the bound of the queue.
//!
//! A session with a subscription of `latest` or `rate` has two more bounds, so that a client that reads
//! slowly is shown the newest message and none that is seconds old: the kernel holds nothing unsent
//! when a frame is written, and a [`Window`] bounds the frames that the client has not read yet.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use bytes::{Buf, Bytes};
use pushonce_fanout::{Closed, Offered, Run};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::frame;
use super::window::Window;
use crate::lane::Local;
use crate::metrics::Door;

/// Pieces in one write: as many as a turn of the lane has offers, so that one message of each of a
/// session's topics is one write. What a socket's buffer has no room for costs nothing but its place in
/// the list; the system takes four times as many.
const PIECES: usize = 256;

/// Without a signal if the socket is closed.
#[cfg(not(target_vendor = "apple"))]
const QUIETLY: SendFlags = SendFlags::NOSIGNAL;
/// There that was said when the socket was made.
#[cfg(target_vendor = "apple")]
const QUIETLY: SendFlags = SendFlags::empty();

/// Answers in the queue beyond which no more requests are read.
const CONGESTED: usize = 32;

/// Bytes of a session with a subscription of `latest` or `rate` that the kernel holds and the client has
/// not acknowledged. A slow network would otherwise fill a send buffer of some MiB, which is seconds of
/// messages that cannot be replaced by newer ones any more.
const FRESH_SEND_BUFFER_BYTES: usize = 64 << 10;

/// The kernel takes no more of such a session while it holds a byte that it has not sent.
#[cfg(target_os = "linux")]
const FRESH_UNSENT_BYTES: u32 = 1;

pub(crate) struct Outlet {
    stream: Rc<TcpStream>,
    queue: VecDeque<Bytes>,
    /// An offer was not taken whole: the lane waits to hear that there is room.
    refused: Option<Room>,
    /// Of a session that wants the newest of some topic only. Boxed: most sessions have none.
    fresh: Option<Box<Window>>,
    progressed: bool,
    state: State,
    waker: Option<Waker>,
    local: Rc<Local>,
}

/// Where there must be room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Socket,
    /// Until the client confirms what was sent.
    Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// What is queued is still sent, nothing else is taken.
    Leaving,
    /// The socket failed.
    Dead,
}

impl Outlet {
    pub(super) fn new(stream: Rc<TcpStream>, local: Rc<Local>) -> Outlet {
        Outlet {
            stream,
            queue: VecDeque::new(),
            refused: None,
            fresh: None,
            progressed: false,
            state: State::Open,
            waker: None,
            local,
        }
    }

    /// Queues a frame, and sends it if that can be done at once.
    pub(super) fn push(&mut self, frame: Bytes) {
        if self.state == State::Open {
            self.queue.push_back(frame);
            self.flush();
            self.wake();
        }
    }

    /// From now on little is under way to the client at any time, so that a slow one gets the newest
    /// messages there are when it reads. For the rest of the session: a send buffer that was given a
    /// size does not grow by itself again.
    pub(super) fn keep_fresh(&mut self) {
        if self.fresh.is_some() {
            return;
        }
        self.fresh = Some(Box::new(Window::new()));
        let socket = SockRef::from(&*self.stream);
        // A failure means that the connection is gone.
        let _ = socket.set_send_buffer_size(FRESH_SEND_BUFFER_BYTES);
        #[cfg(target_os = "linux")]
        let _ = socket.set_tcp_notsent_lowat(FRESH_UNSENT_BYTES);
    }

    /// Asks whether somebody is there. Of several pings a client may answer the last only, so the one
    /// that the window waits for is asked again.
    pub(super) fn ping(&mut self) {
        let outstanding = self.fresh.as_ref().and_then(|window| window.outstanding());
        let ping = outstanding.map_or_else(|| frame::ping(&[]), |payload| frame::ping(&payload));
        self.push(ping);
    }

    /// The client answered a ping. Whether the lane waits to hear of room that there now is.
    pub(super) fn on_pong(&mut self, payload: &[u8]) -> bool {
        let Some(window) = &mut self.fresh else { return false };
        let ping = window.on_pong(payload, Instant::now());
        let room = window.room() > 0;
        if let Some(payload) = ping {
            self.push(frame::ping(&payload));
        }
        let waits = self.refused == Some(Room::Window) && room;
        if waits {
            self.refused = None;
        }
        waits
    }

    /// Queues the last frame.
    pub(super) fn push_last(&mut self, frame: Bytes) {
        self.push(frame);
        if self.state == State::Open {
            self.state = State::Leaving;
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
                    self.wrote(written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.die(),
            }
        }
        // What a burst made large an idle session does not keep.
        self.queue.shrink_to(0);
    }

    /// Whether something waits to be sent.
    pub(super) fn waits(&self) -> bool {
        !self.queue.is_empty() || self.refused.is_some()
    }

    /// Whether the session must be woken when the socket has room.
    pub(super) fn waits_for_socket(&self) -> bool {
        !self.queue.is_empty() || self.refused == Some(Room::Socket)
    }

    /// The socket has room. Whether the lane waits to hear of it. Asked once: it is told then.
    pub(super) fn take_room(&mut self) -> bool {
        let waits = self.queue.is_empty() && self.refused == Some(Room::Socket);
        if waits {
            self.refused = None;
        }
        waits
    }

    pub(super) fn congested(&self) -> bool {
        self.queue.len() > CONGESTED
    }

    pub(super) fn open(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn dead(&self) -> bool {
        self.state == State::Dead
    }

    pub(super) fn take_progressed(&mut self) -> bool {
        std::mem::take(&mut self.progressed)
    }

    /// Who is to be woken when something is left to write.
    pub(super) fn register(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker
            && (self.waits_for_socket() || self.state != State::Open)
        {
            waker.wake_by_ref();
        }
    }

    fn die(&mut self) {
        self.state = State::Dead;
        self.queue = VecDeque::new();
    }

    fn wrote(&mut self, bytes: usize) {
        self.progressed = true;
        let meters = self.local.meters.of(Door::WebSocket);
        meters.bytes_out.increment(bytes as u64);
        meters.writes.increment(1);
    }

    /// Takes frames from the front as far as the socket does; the rest of one that was cut is queued.
    fn take(&mut self, runs: &[Run<'_>]) -> usize {
        let written = self.write(runs);
        let (whole, rest) = split(runs.iter().flat_map(|run| run.frames), written);
        let cut = usize::from(rest.is_some());
        self.queue.extend(rest);
        whole + cut
    }

    /// The same for a session that wants the newest only: no more than its window has room for, and
    /// nothing behind bytes that the kernel has not sent yet.
    fn take_fresh(&mut self, window: &mut Window, runs: &[Run<'_>]) -> usize {
        let room = window.room();
        if room == 0 || !is_drained(&self.stream) {
            self.refused = Some(if room == 0 { Room::Window } else { Room::Socket });
            return 0;
        }
        let all: usize = runs.iter().map(|run| run.frames.len()).sum();
        let taken = if all <= room { self.take(runs) } else { self.take(&first(runs, room)) };
        if let Some(payload) = window.on_sent(taken, Instant::now()) {
            self.queue.push_back(frame::ping(&payload));
            self.flush();
        }
        if taken < all && self.queue.is_empty() {
            let full = window.room() == 0;
            self.refused = Some(if full { Room::Window } else { Room::Socket });
        }
        taken
    }

    /// Writes what there is. Says how many bytes the socket took.
    fn write(&mut self, runs: &[Run<'_>]) -> usize {
        let mut pieces = runs.iter().flat_map(Run::pieces);
        match (pieces.next(), pieces.next()) {
            (None, _) => 0,
            // As it mostly is: no list is made.
            (Some(piece), None) => self.count(write_one(&self.stream, piece)),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(pieces);
                let slices: Vec<_> = all.map(|piece| IoSlice::new(piece)).collect();
                self.write_all(&slices)
            }
        }
    }

    fn write_all(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let mut all = 0;
        for slices in slices.chunks(PIECES) {
            let written = self.count(write_some(&self.stream, slices));
            all += written;
            if written < slices.iter().map(|slice| slice.len()).sum() {
                break;
            }
        }
        all
    }

    /// What came of a write: so many bytes.
    fn count(&mut self, written: io::Result<usize>) -> usize {
        match written {
            Ok(written) => {
                self.wrote(written);
                written
            }
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    self.die();
                }
                0
            }
        }
    }
}

impl pushonce_fanout::Outlet for Outlet {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        self.flush();
        let all = runs.iter().map(|run| run.frames.len()).sum();
        let ready = self.state == State::Open && self.queue.is_empty();
        let fresh = self.fresh.take();
        let (taken, fresh) = match fresh {
            Some(mut window) if ready => (self.take_fresh(&mut window, runs), Some(window)),
            fresh => (if ready { self.take(runs) } else { 0 }, fresh),
        };
        self.fresh = fresh;
        if !self.queue.is_empty() || (taken < all && self.refused.is_none()) {
            self.refused = Some(Room::Socket);
        }
        self.wake();
        match self.state {
            State::Open => Ok(Offered { taken, blocked: !self.queue.is_empty() }),
            State::Leaving | State::Dead => Err(Closed),
        }
    }
}

/// The first `count` frames.
fn first<'a>(runs: &[Run<'a>], count: usize) -> Vec<Run<'a>> {
    let mut left = count;
    let mut cut = Vec::new();
    for run in runs {
        let frames = &run.frames[..run.frames.len().min(left)];
        let joined = run.joined.filter(|_| frames.len() == run.frames.len());
        left -= frames.len();
        cut.push(Run { token: run.token, frames, joined });
        if left == 0 {
            break;
        }
    }
    cut
}

/// Whether the kernel holds nothing that it has not sent, by the low-water mark of the socket. To write
/// alone does not tell: small writes join the last packet that waits, whatever the mark. If it does,
/// the runtime waits until it does not.
fn is_drained(stream: &TcpStream) -> bool {
    let look = || {
        let mut socket = [PollFd::new(stream, PollFlags::OUT)];
        match poll(&mut socket, Some(&Timespec::default())) {
            Ok(0) => Err(ErrorKind::WouldBlock.into()),
            // An error of the socket is found by the write.
            Ok(_) | Err(_) => Ok(()),
        }
    };
    match stream.try_io(Interest::WRITABLE, look) {
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(()) => true,
    }
}

/// Without a look at the runtime's record of the socket, which of thousands is in no cache. A socket that
/// is full is asked once more by the runtime, so that this knows what to wait for.
fn write_one(stream: &TcpStream, piece: &[u8]) -> io::Result<usize> {
    match send(stream, piece, QUIETLY) {
        Err(Errno::AGAIN) => stream.try_write(piece),
        sent => Ok(sent?),
    }
}

/// The same for several pieces.
fn write_some(stream: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    match sendmsg(stream, pieces, &mut SendAncillaryBuffer::default(), QUIETLY) {
        Err(Errno::AGAIN) => stream.try_write_vectored(pieces),
        sent => Ok(sent?),
    }
}

/// How many frames `written` bytes are, and the rest of the one they end in.
fn split<'a>(frames: impl Iterator<Item = &'a Bytes>, written: usize) -> (usize, Option<Bytes>) {
    let (mut whole, mut left) = (0, written);
    for frame in frames {
        if left < frame.len() {
            return (whole, (left > 0).then(|| frame.slice(left..)));
        }
        left -= frame.len();
        whole += 1;
    }
    (whole, None)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use pushonce_fanout::Outlet as _;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::Bench;

    /// A client, and an outlet whose socket is known to have room.
    async fn connected() -> (TcpStream, Rc<TcpStream>, Outlet) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Rc::new(listener.accept().await.unwrap().0);
        stream.writable().await.unwrap();
        let outlet = Outlet::new(stream.clone(), Bench::new().local);
        (client, stream, outlet)
    }

    #[tokio::test]
    async fn a_socket_that_is_full_leaves_the_rest_of_one_frame_and_nothing_is_lost() {
        let (mut client, stream, mut outlet) = connected().await;
        let frames: Vec<Bytes> = (0..300).map(|n| format!("{n:>1000}").into()).collect();
        let topics: Vec<Run<'_>> = (0..)
            .zip(&frames)
            .map(|(token, frame)| Run { token, frames: slice::from_ref(frame), joined: None })
            .collect();
        let mut wanted = Vec::new();
        loop {
            let Offered { taken, blocked } = outlet.offer(&topics).unwrap();
            wanted.extend(frames[..taken].concat());
            if taken < topics.len() {
                assert_eq!(blocked, !outlet.queue.is_empty());
                break;
            }
        }
        assert!(outlet.queue.len() <= 1 && outlet.queue.iter().all(|rest| rest.len() < 1000));
        assert_eq!(outlet.offer(&topics).map(|offered| offered.taken), Ok(0));
        let mut got = vec![0; wanted.len()];
        let reading = client.read_exact(&mut got);
        let writing = async {
            while !outlet.queue.is_empty() {
                stream.writable().await.unwrap();
                outlet.flush();
            }
        };
        let (read, ()) = futures::join!(reading, writing);
        assert_eq!(read.unwrap(), wanted.len());
        assert!(got == wanted, "every frame whole and in order");
        assert!(outlet.take_room(), "the lane waits to hear of it");
    }

    #[tokio::test]
    async fn a_piece_of_several_frames_is_taken_by_the_frame() {
        let (mut client, _, mut outlet) = connected().await;
        let frames: Vec<Bytes> = (0..60).map(|n| format!("{n:>1000}").into()).collect();
        let joined = Bytes::from(frames.concat());
        let run = Run { token: 0, frames: &frames, joined: Some(&joined) };
        let mut wanted = Vec::new();
        let taken = loop {
            let Offered { taken, .. } = outlet.offer(&[run]).unwrap();
            wanted.extend(frames[..taken].concat());
            if taken < frames.len() {
                break taken;
            }
        };
        // What the socket cut is the end of the last that was taken.
        let rest = outlet.queue.front().cloned().unwrap_or_default();
        assert!(taken == 0 || frames[taken - 1].ends_with(&rest));
        let mut got = vec![0; wanted.len() - rest.len()];
        client.read_exact(&mut got).await.unwrap();
        assert!(wanted.starts_with(&got));
    }

    #[test]
    fn what_was_written_is_counted_in_whole_frames_and_one_rest() {
        let frames = ["abc", "de", "f"].map(|text| Bytes::from_static(text.as_bytes()));
        let split = |written| split(frames.iter(), written);
        assert_eq!(split(0), (0, None));
        assert_eq!(split(2), (0, Some(Bytes::from_static(b"c"))));
        assert_eq!(split(3), (1, None));
        assert_eq!(split(4), (1, Some(Bytes::from_static(b"e"))));
        assert_eq!(split(6), (3, None));
    }
}

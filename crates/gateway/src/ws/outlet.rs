//! The way out of one WebSocket session: ready frames straight to the socket.
//!
//! Answers and the rest of a part-written frame are one queue, and go before anything new; so no
//! frame is ever cut by another. Of messages a session that does not read holds one rest here; of
//! answers those of [`CONGESTED`], where reading stops, of the buffer that was read last, and of
//! subscriptions and publishes that were on their way. That is the bound of the queue.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::rc::Rc;
use std::task::Waker;

use bytes::{Buf, Bytes};
use pushonce_fanout::{Closed, Offered, Run};
use tokio::net::TcpStream;

use crate::lane::Local;
use crate::metrics::Door;

/// Frames in one write: as many as a turn of the lane has offers, so that one message of each of a
/// session's topics is one write. What a socket's buffer has no room for costs nothing but its place in
/// the list; the system takes four times as many.
const BATCH: usize = 256;

/// Answers in the queue beyond which no more requests are read.
const CONGESTED: usize = 32;

pub(crate) struct Outlet {
    stream: Rc<TcpStream>,
    queue: VecDeque<Bytes>,
    /// An offer was not taken whole: the lane waits to hear that there is room.
    refused: bool,
    progressed: bool,
    state: State,
    waker: Option<Waker>,
    local: Rc<Local>,
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
            refused: false,
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

    /// Whether the session must be woken when the socket has room.
    pub(super) fn waits(&self) -> bool {
        !self.queue.is_empty() || self.refused
    }

    /// Whether the lane waits to hear of room that there now is. Asked once: it is told then.
    pub(super) fn take_room(&mut self) -> bool {
        self.queue.is_empty() && std::mem::take(&mut self.refused)
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
            && (self.waits() || self.state != State::Open)
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

    /// Writes whole frames from the front; the rest of one that was cut is queued.
    fn write(&mut self, frames: &[&Bytes]) -> usize {
        let mut taken = 0;
        while taken < frames.len() {
            let batch = &frames[taken..frames.len().min(taken + BATCH)];
            match try_write(&self.stream, batch) {
                Ok(written) => {
                    self.wrote(written);
                    let (whole, rest) = split(batch, written);
                    taken += whole;
                    if let Some(rest) = rest {
                        self.queue.push_back(rest);
                        return taken + 1;
                    }
                    if whole < batch.len() {
                        return taken;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                Err(_) => {
                    self.die();
                    return taken;
                }
            }
        }
        taken
    }
}

impl pushonce_fanout::Outlet for Outlet {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        self.flush();
        let all = runs.iter().map(|run| run.frames.len()).sum();
        let mut frames = runs.iter().flat_map(|run| run.frames);
        let taken = match frames.next() {
            _ if self.state != State::Open || !self.queue.is_empty() => 0,
            // As it mostly is: no list is made.
            Some(frame) if all == 1 => self.write(&[frame]),
            first => self.write(&first.into_iter().chain(frames).collect::<Vec<_>>()),
        };
        self.refused |= taken < all || !self.queue.is_empty();
        self.wake();
        match self.state {
            State::Open => Ok(Offered { taken, blocked: !self.queue.is_empty() }),
            State::Leaving | State::Dead => Err(Closed),
        }
    }
}

fn try_write(stream: &TcpStream, frames: &[&Bytes]) -> std::io::Result<usize> {
    if let [frame] = frames {
        return stream.try_write(frame);
    }
    let slices: Vec<IoSlice<'_>> = frames.iter().map(|frame| IoSlice::new(frame)).collect();
    stream.try_write_vectored(&slices)
}

/// How many frames `written` bytes are, and the rest of the one they end in.
fn split(frames: &[&Bytes], written: usize) -> (usize, Option<Bytes>) {
    let mut left = written;
    for (index, frame) in frames.iter().enumerate() {
        if left < frame.len() {
            return (index, (left > 0).then(|| frame.slice(left..)));
        }
        left -= frame.len();
    }
    (frames.len(), None)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use pushonce_fanout::Outlet as _;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::Bench;

    #[tokio::test]
    async fn a_socket_that_is_full_leaves_the_rest_of_one_frame_and_nothing_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Rc::new(listener.accept().await.unwrap().0);
        let mut outlet = Outlet::new(stream.clone(), Bench::new().local);
        let frames: Vec<Bytes> = (0..300).map(|n| format!("{n:>1000}").into()).collect();
        let topics: Vec<Run<'_>> = (0..)
            .zip(&frames)
            .map(|(token, frame)| Run { token, frames: slice::from_ref(frame) })
            .collect();
        stream.writable().await.unwrap();
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

    #[test]
    fn what_was_written_is_counted_in_whole_frames_and_one_rest() {
        let frames = ["abc", "de", "f"].map(|text| Bytes::from_static(text.as_bytes()));
        let frames = frames.each_ref();
        assert_eq!(split(&frames, 0), (0, None));
        assert_eq!(split(&frames, 2), (0, Some(Bytes::from_static(b"c"))));
        assert_eq!(split(&frames, 3), (1, None));
        assert_eq!(split(&frames, 4), (1, Some(Bytes::from_static(b"e"))));
        assert_eq!(split(&frames, 6), (3, None));
    }
}

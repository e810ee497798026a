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
use metrics::Counter;
use pushonce_fanout::{Closed, Offered};
use tokio::net::TcpStream;

/// Frames in one write. A lagging session catches up by so many at a time; twice as many would not
/// fit the socket's buffer more often than not.
const BATCH: usize = 32;

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
    bytes_out: Counter,
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
    pub(super) fn new(stream: Rc<TcpStream>, bytes_out: Counter) -> Outlet {
        Outlet {
            stream,
            queue: VecDeque::new(),
            refused: false,
            progressed: false,
            state: State::Open,
            waker: None,
            bytes_out,
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
                    self.progressed = true;
                    self.bytes_out.increment(written as u64);
                    front.advance(written);
                    if front.is_empty() {
                        self.queue.pop_front();
                    }
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

    /// Writes whole frames from the front; the rest of one that was cut is queued.
    fn write(&mut self, frames: &[Bytes]) -> usize {
        let mut taken = 0;
        while taken < frames.len() {
            let batch = &frames[taken..frames.len().min(taken + BATCH)];
            match try_write(&self.stream, batch) {
                Ok(written) => {
                    self.progressed = true;
                    self.bytes_out.increment(written as u64);
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
    fn offer(&mut self, _: u32, frames: &[Bytes]) -> Result<Offered, Closed> {
        self.flush();
        let taken = match self.state {
            State::Open if self.queue.is_empty() => self.write(frames),
            _ => 0,
        };
        let blocked = taken < frames.len() || !self.queue.is_empty();
        self.refused |= blocked;
        self.wake();
        match self.state {
            State::Open => Ok(Offered { taken, blocked }),
            State::Leaving | State::Dead => Err(Closed),
        }
    }
}

fn try_write(stream: &TcpStream, frames: &[Bytes]) -> std::io::Result<usize> {
    if let [frame] = frames {
        return stream.try_write(frame);
    }
    let mut slices = [IoSlice::new(&[]); BATCH];
    for (slice, frame) in slices.iter_mut().zip(frames) {
        *slice = IoSlice::new(frame);
    }
    stream.try_write_vectored(&slices[..frames.len()])
}

/// How many frames `written` bytes are, and the rest of the one they end in.
fn split(frames: &[Bytes], written: usize) -> (usize, Option<Bytes>) {
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
    use super::*;

    #[test]
    fn what_was_written_is_counted_in_whole_frames_and_one_rest() {
        let frames = ["abc", "de", "f"].map(|text| Bytes::from_static(text.as_bytes()));
        assert_eq!(split(&frames, 0), (0, None));
        assert_eq!(split(&frames, 2), (0, Some(Bytes::from_static(b"c"))));
        assert_eq!(split(&frames, 3), (1, None));
        assert_eq!(split(&frames, 4), (1, Some(Bytes::from_static(b"e"))));
        assert_eq!(split(&frames, 6), (3, None));
    }
}

//! One stream, as a way out.

use std::collections::VecDeque;

use bytes::Bytes;
use metrics::Counter;
use quinn_proto::StreamId;

use super::link::{Full, Link};

pub(super) struct Way {
    pub(super) stream: StreamId,
    /// Of a subscription: one frame at most, whole or the rest of it.
    pub(super) queue: VecDeque<Bytes>,
    pub(super) progressed: bool,
}

impl Way {
    pub(super) fn new(stream: StreamId) -> Way {
        Way { stream, queue: VecDeque::new(), progressed: false }
    }

    /// Writes what is queued.
    pub(super) fn flush(&mut self, link: &Link, bytes_out: &Counter) -> Result<(), Full> {
        while let Some(mut front) = self.queue.pop_front() {
            if let Err(full) = self.write(link, bytes_out, &mut front) {
                self.queue.push_front(front);
                return Err(full);
            }
        }
        // What a burst made large an idle session does not keep.
        self.queue.shrink_to(0);
        Ok(())
    }

    /// Writes frames from the front, and queues the rest of one that was cut. How many it took.
    pub(super) fn push(
        &mut self,
        link: &Link,
        bytes_out: &Counter,
        frames: &[Bytes],
    ) -> Result<usize, Full> {
        for (taken, frame) in frames.iter().enumerate() {
            let mut rest = frame.clone();
            let wrote = match self.flush(link, bytes_out) {
                Ok(()) => self.write(link, bytes_out, &mut rest),
                full => full,
            };
            match wrote {
                Ok(()) => {}
                Err(Full::Blocked) if rest.len() == frame.len() => return Ok(taken),
                Err(Full::Blocked) => {
                    self.queue.push_back(rest);
                    return Ok(taken + 1);
                }
                Err(full) => return Err(full),
            }
        }
        Ok(frames.len())
    }

    fn write(&mut self, link: &Link, bytes_out: &Counter, frame: &mut Bytes) -> Result<(), Full> {
        let len = frame.len();
        let wrote = link.write(self.stream, frame);
        self.progressed |= frame.len() < len;
        bytes_out.increment((len - frame.len()) as u64);
        wrote
    }

    /// A stream that ends within a frame says so; the client need not wait for the rest.
    pub(super) fn finish(self, link: &Link) {
        match self.queue.is_empty() {
            // An error only says that the stream has ended already.
            true => drop(link.finish(self.stream)),
            false => link.reset(self.stream),
        }
    }
}

//! Writes frames to one QUIC stream.

use std::collections::VecDeque;

use bytes::Bytes;
use pushonce_quic::{Connection, StreamId, StreamWriteError};
use pushonce_telemetry::Counter;

pub(super) struct StreamWriter {
    pub(super) id: StreamId,
    /// Frames that wait for room in the send buffer. A subscription queues at most one frame or the remainder
    /// of one.
    pub(super) queue: VecDeque<Bytes>,
    /// Whether bytes were written since the flag was last cleared.
    pub(super) progressed: bool,
}

impl StreamWriter {
    pub(super) fn new(id: StreamId) -> StreamWriter {
        StreamWriter { id, queue: VecDeque::new(), progressed: false }
    }

    /// Writes the queued frames.
    ///
    /// # Errors
    /// [`StreamWriteError`] when the stream is full, stopped or closed.
    pub(super) fn flush(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
    ) -> Result<(), StreamWriteError> {
        while let Some(mut front) = self.queue.pop_front() {
            if let Err(error) = self.write(connection, bytes_out, &mut front) {
                self.queue.push_front(front);
                return Err(error);
            }
        }
        // An idle session does not keep the capacity that a burst needed.
        self.queue.shrink_to(0);
        Ok(())
    }

    /// Writes frames in order and queues the remainder of a partly written one. Returns the number of
    /// accepted frames.
    ///
    /// # Errors
    /// [`StreamWriteError`] when the stream is stopped or closed.
    pub(super) fn push(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
        frames: &[Bytes],
    ) -> Result<usize, StreamWriteError> {
        for (accepted, frame) in frames.iter().enumerate() {
            let mut unwritten = frame.clone();
            let flushed = self.flush(connection, bytes_out);
            let written = flushed.and_then(|()| self.write(connection, bytes_out, &mut unwritten));
            match written {
                Ok(()) => {}
                Err(StreamWriteError::Blocked) if unwritten.len() == frame.len() => {
                    return Ok(accepted);
                }
                Err(StreamWriteError::Blocked) => {
                    self.queue.push_back(unwritten);
                    return Ok(accepted + 1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(frames.len())
    }

    /// Writes as much of `frame` as fits, and leaves the remainder in it.
    fn write(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
        frame: &mut Bytes,
    ) -> Result<(), StreamWriteError> {
        let len = frame.len();
        let result = connection.write(self.id, frame);
        self.progressed |= frame.len() < len;
        bytes_out.increment((len - frame.len()) as u64);
        result
    }

    /// Ends the stream: after the last frame, or with a reset when the remainder of a frame is queued, so that
    /// the client does not wait for it. Without `may_reset` such a stream ends within a frame: a reset may overtake
    /// the header of a WebTransport stream, and the client could not tell whose stream it is.
    pub(super) fn finish(self, connection: &Connection, may_reset: bool) {
        match self.queue.is_empty() || !may_reset {
            // An error means that the stream has already ended.
            true => drop(connection.finish_stream(self.id)),
            false => connection.reset_stream(self.id),
        }
    }
}

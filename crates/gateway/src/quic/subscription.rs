//! The ways of one subscription: its stream, and datagrams for its messages if it asked for them.
//!
//! A datagram that is lost is not sent again, so nothing waits for it. The newest message must not be
//! lost all the same, and which packets are, the transport finds by itself: after a loss the newest
//! goes on the stream as well, unless a newer one has gone before. While nothing is lost that costs
//! nothing.

use bytes::Bytes;
use metrics::Counter;
use pushonce_core::Topic;
use quinn_proto::StreamId;

use super::link::{Full, Link};
use super::way::Way;
use crate::encoder;

pub(super) struct Subscription {
    pub(super) topic: Topic,
    pub(super) way: Way,
    /// If messages go as datagrams.
    newest: Option<Newest>,
}

/// How the newest message went.
enum Newest {
    /// There is none yet. The first goes on the stream: a client begins with it, and it is there.
    ToCome,
    /// On the stream, where nothing is lost.
    Streamed,
    /// As a datagram.
    Thrown(Bytes),
    /// As a datagram, and a packet was lost since.
    Doubted(Bytes),
}

impl Subscription {
    /// One whose stream begins with the frame `first`.
    pub(super) fn new(
        topic: Topic,
        stream: StreamId,
        first: Bytes,
        datagrams: bool,
    ) -> Subscription {
        let mut way = Way::new(stream);
        way.queue.push_back(first);
        Subscription { topic, way, newest: datagrams.then_some(Newest::ToCome) }
    }

    /// Sends frames from the front. How many it took.
    pub(super) fn push(
        &mut self,
        link: &Link,
        bytes_out: &Counter,
        frames: &[Bytes],
    ) -> Result<usize, Full> {
        if self.newest.is_none() {
            return self.way.push(link, bytes_out, frames);
        }
        for (taken, frame) in frames.iter().enumerate() {
            let took = match encoder::datagram(frame) {
                Some(message) => self.push_message(link, bytes_out, frame, message),
                None => self.push_to_stream(link, bytes_out, frame),
            };
            match took {
                Ok(()) => {}
                Err(Full::Blocked) => return Ok(taken),
                Err(full) => return Err(full),
            }
        }
        Ok(frames.len())
    }

    /// As a datagram, if it fits into one and is not the first.
    fn push_message(
        &mut self,
        link: &Link,
        bytes_out: &Counter,
        frame: &Bytes,
        message: Bytes,
    ) -> Result<(), Full> {
        let (len, first) = (message.len(), matches!(self.newest, Some(Newest::ToCome)));
        if !first && link.send_datagram(message)? {
            bytes_out.increment(len as u64);
            self.way.progressed = true;
            self.newest = Some(Newest::Thrown(frame.clone()));
            return Ok(());
        }
        self.push_to_stream(link, bytes_out, frame)?;
        self.newest = Some(Newest::Streamed);
        Ok(())
    }

    fn push_to_stream(
        &mut self,
        link: &Link,
        bytes_out: &Counter,
        frame: &Bytes,
    ) -> Result<(), Full> {
        match self.way.push(link, bytes_out, std::slice::from_ref(frame))? {
            0 => Err(Full::Blocked),
            _ => Ok(()),
        }
    }

    /// A packet was lost. Whether the newest message must go on the stream as well.
    pub(super) fn doubt(&mut self) -> bool {
        self.newest = match self.newest.take() {
            Some(Newest::Thrown(frame)) => Some(Newest::Doubted(frame)),
            other => other,
        };
        matches!(self.newest, Some(Newest::Doubted(_)))
    }

    /// Writes what waits for room in the stream.
    pub(super) fn flush(&mut self, link: &Link, bytes_out: &Counter) -> Result<(), Full> {
        self.way.flush(link, bytes_out)?;
        if let Some(Newest::Doubted(frame)) = &self.newest {
            self.way.queue.push_back(frame.clone());
            self.newest = Some(Newest::Streamed);
            self.way.flush(link, bytes_out)?;
        }
        Ok(())
    }
}

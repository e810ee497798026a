//! The ways of one subscription: its stream, and datagrams for its messages if it asked for them.
//!
//! A datagram that is lost is not sent again, so nothing waits for it. The newest message must not be
//! lost all the same, and which packets are, the transport finds by itself: after a loss the newest
//! goes on the stream as well, unless a newer one has gone before. While nothing is lost that costs
//! nothing.

use bytes::Bytes;
use metrics::Counter;
use pushonce_core::Topic;
use pushonce_quic::{Connection, StreamId, StreamWriteError};

use super::stream_writer::StreamWriter;
use crate::encoder;

pub(super) struct QuicSubscription {
    pub(super) topic: Topic,
    pub(super) writer: StreamWriter,
    /// If messages go as datagrams.
    newest_message: Option<NewestMessage>,
}

/// How the newest message went.
enum NewestMessage {
    /// There is none yet. The first goes on the stream: a client begins with it, and it is there.
    NotSent,
    /// On the stream, where nothing is lost.
    SentOnStream,
    /// As a datagram.
    SentAsDatagram(Bytes),
    /// As a datagram, and a packet was lost since.
    PossiblyLost(Bytes),
}

impl QuicSubscription {
    /// One whose stream begins with the frame `first`.
    pub(super) fn new(
        topic: Topic,
        stream: StreamId,
        first_frame: Bytes,
        datagrams: bool,
    ) -> QuicSubscription {
        let mut writer = StreamWriter::new(stream);
        writer.queue.push_back(first_frame);
        QuicSubscription {
            topic,
            writer,
            newest_message: datagrams.then_some(NewestMessage::NotSent),
        }
    }

    /// Sends frames from the front. How many it took.
    pub(super) fn push(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
        frames: &[Bytes],
    ) -> Result<usize, StreamWriteError> {
        if self.newest_message.is_none() {
            return self.writer.push(connection, bytes_out, frames);
        }
        for (taken, frame) in frames.iter().enumerate() {
            let result = match encoder::datagram_payload(frame) {
                Some(message) => self.push_message(connection, bytes_out, frame, message),
                None => self.push_to_stream(connection, bytes_out, frame),
            };
            match result {
                Ok(()) => {}
                Err(StreamWriteError::Blocked) => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
        Ok(frames.len())
    }

    /// As a datagram, if it fits into one and is not the first.
    fn push_message(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
        frame: &Bytes,
        message: Bytes,
    ) -> Result<(), StreamWriteError> {
        let (len, is_first) =
            (message.len(), matches!(self.newest_message, Some(NewestMessage::NotSent)));
        if !is_first && connection.send_datagram(message)? {
            bytes_out.increment(len as u64);
            self.writer.progressed = true;
            self.newest_message = Some(NewestMessage::SentAsDatagram(frame.clone()));
            return Ok(());
        }
        self.push_to_stream(connection, bytes_out, frame)?;
        self.newest_message = Some(NewestMessage::SentOnStream);
        Ok(())
    }

    fn push_to_stream(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
        frame: &Bytes,
    ) -> Result<(), StreamWriteError> {
        match self.writer.push(connection, bytes_out, std::slice::from_ref(frame))? {
            0 => Err(StreamWriteError::Blocked),
            _ => Ok(()),
        }
    }

    /// A packet was lost. Whether the newest message must go on the stream as well.
    pub(super) fn on_packet_lost(&mut self) -> bool {
        self.newest_message = match self.newest_message.take() {
            Some(NewestMessage::SentAsDatagram(frame)) => Some(NewestMessage::PossiblyLost(frame)),
            other => other,
        };
        matches!(self.newest_message, Some(NewestMessage::PossiblyLost(_)))
    }

    /// Writes what waits for room in the stream.
    pub(super) fn flush(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
    ) -> Result<(), StreamWriteError> {
        self.writer.flush(connection, bytes_out)?;
        if let Some(NewestMessage::PossiblyLost(frame)) = &self.newest_message {
            self.writer.queue.push_back(frame.clone());
            self.newest_message = Some(NewestMessage::SentOnStream);
            self.writer.flush(connection, bytes_out)?;
        }
        Ok(())
    }
}

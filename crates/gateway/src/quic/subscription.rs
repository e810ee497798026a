//! Writes the frames of one subscription: to its stream, and as datagrams if the client requested them.
//!
//! A lost datagram is not resent, so no later message waits for it. The newest message must still arrive. The
//! transport detects lost packets: after a loss, the newest message is also sent on the stream, unless a
//! newer one was sent in the meantime. This costs nothing while no packet is lost.

use std::rc::Rc;

use bytes::Bytes;
use pushonce_core::Topic;
use pushonce_quic::{Connection, StreamId, StreamWriteError};
use pushonce_telemetry::Counter;

use super::carrier::Carrier;
use super::stream_writer::StreamWriter;
use crate::encoder;

pub(super) struct QuicSubscription {
    pub(super) topic: Topic,
    pub(super) writer: StreamWriter,
    /// How the newest message was sent, if messages are sent as datagrams.
    newest_message: Option<NewestMessage>,
    carrier: Rc<Carrier>,
}

/// How the newest message was sent.
enum NewestMessage {
    /// There is no message yet. The first one is sent on the stream, so that a client certainly has it.
    NotSent,
    /// Sent on the stream, which is reliable.
    SentOnStream,
    /// Sent as a datagram.
    SentAsDatagram(Bytes),
    /// Sent as a datagram, and a packet was lost since.
    PossiblyLost(Bytes),
}

impl QuicSubscription {
    /// Creates a subscription whose stream begins with the header of the carrier and `first_frame`.
    pub(super) fn new(
        topic: Topic,
        stream: StreamId,
        first_frame: Bytes,
        datagrams: bool,
        carrier: Rc<Carrier>,
    ) -> QuicSubscription {
        let mut writer = StreamWriter::new(stream);
        if !carrier.stream_header.is_empty() {
            writer.queue.push_back(carrier.stream_header.clone());
        }
        writer.queue.push_back(first_frame);
        QuicSubscription {
            topic,
            writer,
            carrier,
            newest_message: datagrams.then_some(NewestMessage::NotSent),
        }
    }

    /// Sends frames in order and returns the number of accepted frames.
    ///
    /// # Errors
    /// [`StreamWriteError`] when the stream is stopped or closed.
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
            let result = match encoder::datagram_payload(self.carrier.wire, frame) {
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

    /// Sends a message as a datagram, or on the stream if it is the first or does not fit into a datagram.
    fn push_message(
        &mut self,
        connection: &Connection,
        bytes_out: &Counter,
        frame: &Bytes,
        message: Bytes,
    ) -> Result<(), StreamWriteError> {
        let (len, is_first) =
            (message.len(), matches!(self.newest_message, Some(NewestMessage::NotSent)));
        if !is_first && connection.send_datagram(self.carrier.datagram(message))? {
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

    /// Handles the loss of a packet. Returns whether the newest message must also be sent on the stream.
    pub(super) fn on_packet_lost(&mut self) -> bool {
        self.newest_message = match self.newest_message.take() {
            Some(NewestMessage::SentAsDatagram(frame)) => Some(NewestMessage::PossiblyLost(frame)),
            other => other,
        };
        matches!(self.newest_message, Some(NewestMessage::PossiblyLost(_)))
    }

    /// Writes the frames that wait for room in the stream.
    ///
    /// # Errors
    /// [`StreamWriteError`] when the stream is full, stopped or closed.
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

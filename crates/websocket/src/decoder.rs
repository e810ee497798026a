//! Turns the bytes of one client into messages (RFC 6455, 5).
//!
//! Strict: a client frame must be masked, reserved bits must be zero except the mark of a compressed
//! message where permessage-deflate was negotiated, a length must have its shortest form, control frames must
//! be whole and at most 125 bytes, text must be UTF-8, and a close code must be one that a client may send.

use bytes::Bytes;

use crate::ProtocolViolation;
use crate::deflate::{InflateError, inflate};
use crate::header::{FrameHeader, HEADER_BYTES_MAX, Opcode, header_len};

/// Limits of one message. A message that exceeds one is a violation with close code 1009.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLimits {
    /// Payload bytes of all fragments together, and of the inflated message.
    pub message_bytes_max: usize,
    /// Number of fragments. Without this limit a client could send empty ones forever.
    pub fragments_max: u32,
}

/// A complete message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncomingMessage {
    /// Valid UTF-8.
    Text(Bytes),
    /// Any bytes.
    Binary(Bytes),
    /// To be answered by a pong with the same payload.
    Ping(Bytes),
    /// Carries the payload of the ping that it answers.
    Pong(Bytes),
    /// The client closes the connection, with a code if it gave one. No message follows.
    Close(Option<u16>),
}

/// Decodes one connection. It holds the payload of a message only while the message is incomplete.
pub struct MessageDecoder {
    limits: DecoderLimits,
    /// permessage-deflate was negotiated.
    deflate: bool,
    state: DecoderState,
    message: Option<PartialMessage>,
}

enum DecoderState {
    Header { bytes: [u8; HEADER_BYTES_MAX], filled: usize },
    Payload(PartialFrame),
    Closed,
    Failed(ProtocolViolation),
}

/// The frame whose payload is being read.
struct PartialFrame {
    opcode: Opcode,
    fin: bool,
    remaining: usize,
    mask: [u8; 4],
    /// The payload of a control frame. That of a data frame is in [`PartialMessage::bytes`].
    control: Vec<u8>,
}

/// The data message whose fragments are being joined.
#[derive(Default)]
struct PartialMessage {
    is_text: bool,
    is_deflated: bool,
    bytes: Vec<u8>,
    /// Length of the prefix of `bytes` that is valid UTF-8.
    utf8_checked_len: usize,
    fragments: u32,
}

// === impl MessageDecoder ===

impl MessageDecoder {
    /// A decoder at the start of a connection. `deflate`: permessage-deflate was negotiated.
    pub fn new(limits: DecoderLimits, deflate: bool) -> MessageDecoder {
        MessageDecoder { limits, deflate, state: DecoderState::START, message: None }
    }

    /// Replaces [`DecoderLimits::message_bytes_max`] for all later messages and for the rest of the
    /// current one.
    pub fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.limits.message_bytes_max = message_bytes_max;
    }

    /// Consumes the front of `input` up to the end of the next message. `None`: all of `input` was
    /// consumed and the message is not complete. After a close frame, `input` is discarded.
    ///
    /// # Errors
    /// [`ProtocolViolation`]. Every later call returns the same one.
    pub fn decode(
        &mut self,
        input: &mut &[u8],
    ) -> Result<Option<IncomingMessage>, ProtocolViolation> {
        let result = self.decode_next(input);
        match &result {
            Err(violation) => {
                self.state = DecoderState::Failed(*violation);
                self.message = None;
            }
            Ok(Some(IncomingMessage::Close(_))) => self.state = DecoderState::Closed,
            Ok(_) => {}
        }
        result
    }

    /// Bytes of memory that are allocated for incomplete messages and control frames.
    pub fn buffered_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |message| message.bytes.capacity());
        match &self.state {
            DecoderState::Payload(frame) => message + frame.control.capacity(),
            _ => message,
        }
    }

    /// Bytes of the payload of the current frame that were not received yet; 0 between frames.
    pub fn remaining_payload_bytes(&self) -> usize {
        match &self.state {
            DecoderState::Payload(frame) => frame.remaining,
            _ => 0,
        }
    }

    /// Whether a message was begun that is not complete. Between its fragments it is not either.
    pub fn is_within_message(&self) -> bool {
        self.message.is_some()
    }

    fn decode_next(
        &mut self,
        input: &mut &[u8],
    ) -> Result<Option<IncomingMessage>, ProtocolViolation> {
        loop {
            match &mut self.state {
                DecoderState::Header { bytes, filled } => {
                    let need = header_len(&bytes[..*filled]);
                    let taken = split_front(input, need - *filled);
                    bytes[*filled..*filled + taken.len()].copy_from_slice(taken);
                    *filled += taken.len();
                    if *filled < need {
                        return Ok(None);
                    }
                    // Already after two bytes: an unmasked frame may end before four more arrive.
                    FrameHeader::parse(bytes, self.deflate)?;
                    if header_len(&bytes[..*filled]) == *filled {
                        let header = *bytes;
                        self.on_header(&header)?;
                    }
                }
                DecoderState::Payload(frame) => {
                    let taken = split_front(input, frame.remaining);
                    frame.remaining -= taken.len();
                    if frame.opcode.is_control() {
                        extend_unmasked(&mut frame.control, taken, frame.mask);
                    } else if let Some(message) = &mut self.message {
                        extend_unmasked(&mut message.bytes, taken, frame.mask);
                        message.check_utf8()?;
                    }
                    frame.mask.rotate_left(taken.len() % 4);
                    if frame.remaining > 0 {
                        return Ok(None);
                    }
                    if let Some(incoming) = self.on_payload_end()? {
                        return Ok(Some(incoming));
                    }
                }
                DecoderState::Closed => {
                    *input = &[];
                    return Ok(None);
                }
                DecoderState::Failed(violation) => return Err(*violation),
            }
        }
    }

    /// Handles a complete header.
    fn on_header(&mut self, bytes: &[u8; HEADER_BYTES_MAX]) -> Result<(), ProtocolViolation> {
        let header = FrameHeader::parse(bytes, self.deflate)?;
        header.check_minimal_len(bytes)?;
        let at = header_len(bytes) - 4;
        let mask = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let remaining = if header.opcode.is_control() {
            header.control_len()?
        } else {
            self.on_data_header(&header)?
        };
        let FrameHeader { opcode, fin, .. } = header;
        let control = Vec::new();
        self.state = DecoderState::Payload(PartialFrame { opcode, fin, remaining, mask, control });
        Ok(())
    }

    fn on_data_header(&mut self, header: &FrameHeader) -> Result<usize, ProtocolViolation> {
        let FrameHeader { opcode, is_deflated, len, .. } = *header;
        let limits = self.limits;
        let message = match (opcode, &mut self.message) {
            (Opcode::Continuation, None) => {
                return Err(ProtocolViolation::protocol_error(
                    "a continuation frame has no message to continue",
                ));
            }
            (Opcode::Continuation, Some(message)) => message,
            (_, Some(_)) => {
                return Err(ProtocolViolation::protocol_error(
                    "a new message starts before the last fragment of the previous one",
                ));
            }
            (_, slot) => {
                let is_text = opcode == Opcode::Text;
                slot.insert(PartialMessage { is_text, is_deflated, ..PartialMessage::default() })
            }
        };
        message.fragments += 1;
        if message.fragments > limits.fragments_max {
            return Err(ProtocolViolation::TOO_MANY_FRAGMENTS);
        }
        let len_max = limits.message_bytes_max.saturating_sub(message.bytes.len());
        let len = usize::try_from(len).ok().filter(|&len| len <= len_max);
        len.ok_or(ProtocolViolation::TOO_LONG)
    }

    /// Handles a complete payload.
    fn on_payload_end(&mut self) -> Result<Option<IncomingMessage>, ProtocolViolation> {
        let DecoderState::Payload(frame) = std::mem::replace(&mut self.state, DecoderState::START)
        else {
            return Ok(None);
        };
        match frame.opcode {
            Opcode::Ping => Ok(Some(IncomingMessage::Ping(frame.control.into()))),
            Opcode::Pong => Ok(Some(IncomingMessage::Pong(frame.control.into()))),
            Opcode::Close => {
                parse_close(&frame.control).map(|code| Some(IncomingMessage::Close(code)))
            }
            _ if frame.fin => {
                let bytes_max = self.limits.message_bytes_max;
                self.message.take().map(|message| message.into_message(bytes_max)).transpose()
            }
            _ => Ok(None),
        }
    }
}

impl DecoderState {
    const START: DecoderState = DecoderState::Header { bytes: [0; HEADER_BYTES_MAX], filled: 0 };
}

// === impl PartialMessage ===

impl PartialMessage {
    /// Fails as soon as the text can no longer become UTF-8, not only at the end of a long message.
    fn check_utf8(&mut self) -> Result<(), ProtocolViolation> {
        if !self.is_text || self.is_deflated {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.utf8_checked_len..]) {
            Ok(_) => self.utf8_checked_len = self.bytes.len(),
            Err(error) if error.error_len().is_none() => {
                self.utf8_checked_len += error.valid_up_to()
            }
            Err(_) => return Err(ProtocolViolation::NOT_UTF8),
        }
        Ok(())
    }

    fn into_message(mut self, bytes_max: usize) -> Result<IncomingMessage, ProtocolViolation> {
        if std::mem::take(&mut self.is_deflated) {
            self.bytes = inflate(&self.bytes, bytes_max).map_err(|error| match error {
                InflateError::InvalidData => ProtocolViolation::NOT_DEFLATE,
                InflateError::TooLong => ProtocolViolation::TOO_LONG,
            })?;
            self.check_utf8()?;
        }
        match self.is_text {
            true if self.utf8_checked_len < self.bytes.len() => Err(ProtocolViolation::NOT_UTF8),
            true => Ok(IncomingMessage::Text(self.bytes.into())),
            false => Ok(IncomingMessage::Binary(self.bytes.into())),
        }
    }
}

fn split_front<'a>(input: &mut &'a [u8], len_max: usize) -> &'a [u8] {
    let (taken, remaining) = input.split_at(len_max.min(input.len()));
    *input = remaining;
    taken
}

fn extend_unmasked(bytes: &mut Vec<u8>, masked: &[u8], mask: [u8; 4]) {
    let start = bytes.len();
    bytes.extend_from_slice(masked);
    for chunk in bytes[start..].chunks_mut(4) {
        chunk.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// The code of a close frame, if it has one.
fn parse_close(payload: &[u8]) -> Result<Option<u16>, ProtocolViolation> {
    let [high, low, reason @ ..] = payload else {
        return match payload {
            [] => Ok(None),
            _ => Err(ProtocolViolation::protocol_error("a close code must have two bytes")),
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    // 1004 to 1006 and 1015 must not appear in a frame (RFC 6455, 7.4).
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(ProtocolViolation::protocol_error("the close code must not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(ProtocolViolation::CLOSE_REASON_NOT_UTF8),
    }
}

#[cfg(test)]
#[path = "decoder/decoder_test.rs"]
mod decoder_test;

//! RFC 6455 as a server reads it: bytes in, messages out. Knows no socket.
//!
//! Strict: a client frame must be masked, reserved bits zero but for the mark of a message that is
//! deflated where that was agreed on, control frames whole and at most [`CONTROL_BYTES_MAX`] bytes,
//! text UTF-8, close codes of those a client may send. The answer does not depend on how the bytes
//! were cut when they came. A length that a frame only announces reserves no memory.

use bytes::Bytes;

use super::deflate::{InflateError, inflate};

/// The longest payload of a ping, pong or close frame (RFC 6455, 5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// The reserved bit that permessage-deflate took (RFC 7692, 6): the message is deflated.
pub(super) const RSV1: u8 = 0x40;

/// Two bytes, eight of extended length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// What a decoder bears of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecoderLimits {
    /// Bytes of all its fragments together, and of what they are inflated to.
    pub(crate) message_bytes_max: usize,
    /// How many fragments. Without this bound a client sends empty ones for ever.
    pub(crate) fragments_max: u32,
}

/// One whole message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IncomingMessage {
    /// UTF-8, checked.
    Text(Bytes),
    Binary(Bytes),
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// With the payload of the ping that it answers.
    Pong(Bytes),
    /// The code, if one was given. Nothing comes after this.
    Close(Option<u16>),
}

/// A rule was broken; the connection ends with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolViolation {
    /// The close code that RFC 6455 gives the rule: 1002, 1007 or 1009.
    pub(crate) code: u16,
    /// What the client must change.
    pub(crate) reason: &'static str,
}

/// Reads one connection. Holds a message only while it is incomplete.
pub(crate) struct MessageDecoder {
    limits: DecoderLimits,
    /// permessage-deflate was agreed on.
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

/// What a frame says of itself.
struct FrameHeader {
    fin: bool,
    /// Begins a message that is deflated.
    is_deflated: bool,
    opcode: Opcode,
    len: u64,
}

/// The frame whose payload is being read.
struct PartialFrame {
    opcode: Opcode,
    fin: bool,
    remaining: usize,
    mask: [u8; 4],
    /// Of a control frame only; data goes into the message.
    control: Vec<u8>,
}

/// The data message whose fragments are being joined.
#[derive(Default)]
struct PartialMessage {
    is_text: bool,
    is_deflated: bool,
    bytes: Vec<u8>,
    /// How much of `bytes` is known to be UTF-8.
    utf8_checked_len: usize,
    fragments: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

// === impl Decoder ===

impl MessageDecoder {
    pub(crate) fn new(limits: DecoderLimits, deflate: bool) -> MessageDecoder {
        MessageDecoder { limits, deflate, state: DecoderState::START, message: None }
    }

    /// Bounds the messages from here on, and the rest of the one that is being read.
    pub(super) fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.limits.message_bytes_max = message_bytes_max;
    }

    /// Takes from the front of `receiver` until a message is whole. `NoFault`: everything was taken and
    /// more is needed. After an error, the same error again.
    pub(crate) fn decode(
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
                    // Of two bytes as well: a frame that is not masked may be over before four more come.
                    parse_header(bytes, self.deflate)?;
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

    /// A header is whole.
    fn on_header(&mut self, header: &[u8; HEADER_BYTES_MAX]) -> Result<(), ProtocolViolation> {
        let FrameHeader { fin, is_deflated, opcode, len } = parse_header(header, self.deflate)?;
        let at = header_len(header) - 4;
        let mask = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let remaining = if opcode.is_control() {
            check_control(fin, len)?
        } else {
            self.on_data_header(opcode, is_deflated, len)?
        };
        self.state = DecoderState::Payload(PartialFrame {
            opcode,
            fin,
            remaining,
            mask,
            control: Vec::new(),
        });
        Ok(())
    }

    fn on_data_header(
        &mut self,
        opcode: Opcode,
        is_deflated: bool,
        len: u64,
    ) -> Result<usize, ProtocolViolation> {
        let limits = self.limits;
        let message = match (opcode, &mut self.message) {
            (Opcode::Continuation, None) => {
                return Err(protocol_error("a continuation frame without a message to continue"));
            }
            (Opcode::Continuation, Some(message)) => message,
            (_, Some(_)) => {
                return Err(protocol_error(
                    "a new message before the last fragment of the one before",
                ));
            }
            (_, slot) => {
                let is_text = opcode == Opcode::Text;
                slot.insert(PartialMessage { is_text, is_deflated, ..PartialMessage::default() })
            }
        };
        message.fragments += 1;
        if message.fragments > limits.fragments_max {
            return Err(ProtocolViolation {
                code: 1009,
                reason: "the message has too many fragments",
            });
        }
        let len_max = limits.message_bytes_max.saturating_sub(message.bytes.len());
        usize::try_from(len).ok().filter(|&len| len <= len_max).ok_or(TOO_LONG)
    }

    /// A payload is whole.
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

// === impl Message ===

impl PartialMessage {
    /// Text that can no longer become UTF-8 fails at once, not at the end of a long message.
    fn check_utf8(&mut self) -> Result<(), ProtocolViolation> {
        if !self.is_text || self.is_deflated {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.utf8_checked_len..]) {
            Ok(_) => self.utf8_checked_len = self.bytes.len(),
            Err(error) if error.error_len().is_none() => {
                self.utf8_checked_len += error.valid_up_to()
            }
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    fn into_message(mut self, bytes_max: usize) -> Result<IncomingMessage, ProtocolViolation> {
        if std::mem::take(&mut self.is_deflated) {
            self.bytes = inflate(&self.bytes, bytes_max).map_err(|error| match error {
                InflateError::InvalidData => NOT_DEFLATE,
                InflateError::TooLong => TOO_LONG,
            })?;
            self.check_utf8()?;
        }
        match self.is_text {
            true if self.utf8_checked_len < self.bytes.len() => Err(NOT_UTF8),
            true => Ok(IncomingMessage::Text(self.bytes.into())),
            false => Ok(IncomingMessage::Binary(self.bytes.into())),
        }
    }
}

impl Opcode {
    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }

    fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }
}

const TOO_LONG: ProtocolViolation =
    ProtocolViolation { code: 1009, reason: "the message is too long for this server" };

const NOT_DEFLATE: ProtocolViolation =
    ProtocolViolation { code: 1007, reason: "a message that is marked as deflated and is not" };

const NOT_UTF8: ProtocolViolation =
    ProtocolViolation { code: 1007, reason: "a text message that is not UTF-8" };

fn protocol_error(reason: &'static str) -> ProtocolViolation {
    ProtocolViolation { code: 1002, reason }
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

/// How long the header is, as far as its first bytes tell.
fn header_len(bytes: &[u8]) -> usize {
    match bytes.get(1).map(|second| second & 0x7f) {
        None => 2,
        Some(126) => 2 + 2 + 4,
        Some(127) => 2 + 8 + 4,
        Some(_) => 2 + 4,
    }
}

fn parse_header(
    header: &[u8; HEADER_BYTES_MAX],
    deflate: bool,
) -> Result<FrameHeader, ProtocolViolation> {
    let [first, second, ..] = *header;
    let is_deflated = first & RSV1 != 0;
    if first & 0x30 != 0 || (is_deflated && !deflate) {
        return Err(protocol_error(
            "a reserved bit is set, and no extension was agreed on that has it",
        ));
    }
    let opcode = Opcode::from_bits(first & 0x0f)
        .ok_or(protocol_error("an opcode that RFC 6455 reserves"))?;
    if is_deflated && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(protocol_error("only the first frame of a message is marked as deflated"));
    }
    if second & 0x80 == 0 {
        return Err(protocol_error("a frame of a client that is not masked"));
    }
    let extended = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, b| (sum << 8) | u64::from(*b));
    let len = match second & 0x7f {
        126 => extended(&header[2..4]),
        127 => extended(&header[2..10]),
        len => u64::from(len),
    };
    if len >> 63 != 0 {
        return Err(protocol_error("a frame length whose highest bit is set"));
    }
    Ok(FrameHeader { fin: first & 0x80 != 0, is_deflated, opcode, len })
}

fn check_control(fin: bool, len: u64) -> Result<usize, ProtocolViolation> {
    if !fin {
        return Err(protocol_error("a control frame in fragments"));
    }
    match usize::try_from(len) {
        Ok(len) if len <= CONTROL_BYTES_MAX => Ok(len),
        _ => Err(protocol_error("a control frame of more than 125 bytes")),
    }
}

fn parse_close(payload: &[u8]) -> Result<Option<u16>, ProtocolViolation> {
    let [high, low, reason @ ..] = payload else {
        return match payload {
            [] => Ok(None),
            _ => Err(protocol_error("a close frame with half a code")),
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    // 1004 to 1006 and 1015 stand for what never was on a wire (RFC 6455, 7.4).
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol_error("a close code that must not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(ProtocolViolation { code: 1007, reason: "a close reason that is not UTF-8" }),
    }
}

#[cfg(test)]
#[path = "codec/codec_test.rs"]
mod codec_test;

//! RFC 6455 as a server reads it: bytes in, messages out. Knows no socket.
//!
//! Strict: a client frame must be masked, reserved bits zero but for the mark of a message that is
//! deflated where that was agreed on, control frames whole and at most [`CONTROL_BYTES_MAX`] bytes,
//! text UTF-8, close codes of those a client may send. The answer does not depend on how the bytes
//! were cut when they came. A length that a frame only announces reserves no memory.

use bytes::Bytes;

use super::deflate::{Unfit, inflate};

/// The longest payload of a ping, pong or close frame (RFC 6455, 5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// The reserved bit that permessage-deflate took (RFC 7692, 6): the message is deflated.
pub(super) const RSV1: u8 = 0x40;

/// Two bytes, eight of extended length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

/// What a decoder bears of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all its fragments together, and of what they are inflated to.
    pub(crate) message_bytes_max: usize,
    /// How many fragments. Without this bound a client sends empty ones for ever.
    pub(crate) fragments_max: u32,
}

/// One whole message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
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
pub(crate) struct Violation {
    /// The close code that RFC 6455 gives the rule: 1002, 1007 or 1009.
    pub(crate) code: u16,
    /// What the client must change.
    pub(crate) why: &'static str,
}

/// Reads one connection. Holds a message only while it is incomplete.
pub(crate) struct Decoder {
    limits: Limits,
    /// permessage-deflate was agreed on.
    deflate: bool,
    state: State,
    message: Option<Message>,
}

enum State {
    Header { bytes: [u8; HEADER_BYTES_MAX], filled: usize },
    Payload(Frame),
    Closed,
    Failed(Violation),
}

/// What a frame says of itself.
struct Header {
    fin: bool,
    /// Begins a message that is deflated.
    deflated: bool,
    opcode: Opcode,
    len: u64,
}

/// The frame whose payload is being read.
struct Frame {
    opcode: Opcode,
    fin: bool,
    left: usize,
    mask: [u8; 4],
    /// Of a control frame only; data goes into the message.
    control: Vec<u8>,
}

/// The data message whose fragments are being joined.
#[derive(Default)]
struct Message {
    text: bool,
    deflated: bool,
    bytes: Vec<u8>,
    /// How much of `bytes` is known to be UTF-8.
    checked: usize,
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

impl Decoder {
    pub(crate) fn new(limits: Limits, deflate: bool) -> Decoder {
        Decoder { limits, deflate, state: State::START, message: None }
    }

    /// Bounds the messages from here on, and the rest of the one that is being read.
    pub(super) fn limit(&mut self, message_bytes_max: usize) {
        self.limits.message_bytes_max = message_bytes_max;
    }

    /// Takes from the front of `input` until a message is whole. `None`: everything was taken and
    /// more is needed. After an error, the same error again.
    pub(crate) fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Violation> {
        let result = self.step(input);
        match &result {
            Err(violation) => {
                self.state = State::Failed(*violation);
                self.message = None;
            }
            Ok(Some(Incoming::Close(_))) => self.state = State::Closed,
            Ok(_) => {}
        }
        result
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Violation> {
        loop {
            match &mut self.state {
                State::Header { bytes, filled } => {
                    let need = header_len(&bytes[..*filled]);
                    let taken = take(input, need - *filled);
                    bytes[*filled..*filled + taken.len()].copy_from_slice(taken);
                    *filled += taken.len();
                    if *filled < need {
                        return Ok(None);
                    }
                    // Of two bytes as well: a frame that is not masked may be over before four more come.
                    read_header(bytes, self.deflate)?;
                    if header_len(&bytes[..*filled]) == *filled {
                        let header = *bytes;
                        self.begin(&header)?;
                    }
                }
                State::Payload(frame) => {
                    let taken = take(input, frame.left);
                    frame.left -= taken.len();
                    if frame.opcode.is_control() {
                        extend_unmasked(&mut frame.control, taken, frame.mask);
                    } else if let Some(message) = &mut self.message {
                        extend_unmasked(&mut message.bytes, taken, frame.mask);
                        message.check()?;
                    }
                    frame.mask.rotate_left(taken.len() % 4);
                    if frame.left > 0 {
                        return Ok(None);
                    }
                    if let Some(incoming) = self.finish()? {
                        return Ok(Some(incoming));
                    }
                }
                State::Closed => {
                    *input = &[];
                    return Ok(None);
                }
                State::Failed(violation) => return Err(*violation),
            }
        }
    }

    /// A header is whole.
    fn begin(&mut self, header: &[u8; HEADER_BYTES_MAX]) -> Result<(), Violation> {
        let Header { fin, deflated, opcode, len } = read_header(header, self.deflate)?;
        let at = header_len(header) - 4;
        let mask = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let left = if opcode.is_control() {
            check_control(fin, len)?
        } else {
            self.begin_data(opcode, deflated, len)?
        };
        self.state = State::Payload(Frame { opcode, fin, left, mask, control: Vec::new() });
        Ok(())
    }

    fn begin_data(&mut self, opcode: Opcode, deflated: bool, len: u64) -> Result<usize, Violation> {
        let limits = self.limits;
        let message = match (opcode, &mut self.message) {
            (Opcode::Continuation, None) => {
                return Err(protocol("a continuation frame without a message to continue"));
            }
            (Opcode::Continuation, Some(message)) => message,
            (_, Some(_)) => {
                return Err(protocol("a new message before the last fragment of the one before"));
            }
            (_, none) => {
                let text = opcode == Opcode::Text;
                none.insert(Message { text, deflated, ..Message::default() })
            }
        };
        message.fragments += 1;
        if message.fragments > limits.fragments_max {
            return Err(Violation { code: 1009, why: "the message has too many fragments" });
        }
        let room = limits.message_bytes_max.saturating_sub(message.bytes.len());
        usize::try_from(len).ok().filter(|&len| len <= room).ok_or(TOO_LONG)
    }

    /// A payload is whole.
    fn finish(&mut self) -> Result<Option<Incoming>, Violation> {
        let State::Payload(frame) = std::mem::replace(&mut self.state, State::START) else {
            return Ok(None);
        };
        match frame.opcode {
            Opcode::Ping => Ok(Some(Incoming::Ping(frame.control.into()))),
            Opcode::Pong => Ok(Some(Incoming::Pong(frame.control.into()))),
            Opcode::Close => read_close(&frame.control).map(|code| Some(Incoming::Close(code))),
            _ if frame.fin => {
                let bytes_max = self.limits.message_bytes_max;
                self.message.take().map(|message| message.whole(bytes_max)).transpose()
            }
            _ => Ok(None),
        }
    }
}

impl State {
    const START: State = State::Header { bytes: [0; HEADER_BYTES_MAX], filled: 0 };
}

// === impl Message ===

impl Message {
    /// Text that can no longer become UTF-8 fails at once, not at the end of a long message.
    fn check(&mut self) -> Result<(), Violation> {
        if !self.text || self.deflated {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    fn whole(mut self, bytes_max: usize) -> Result<Incoming, Violation> {
        if std::mem::take(&mut self.deflated) {
            self.bytes = inflate(&self.bytes, bytes_max).map_err(|unfit| match unfit {
                Unfit::Broken => NOT_DEFLATE,
                Unfit::TooLong => TOO_LONG,
            })?;
            self.check()?;
        }
        match self.text {
            true if self.checked < self.bytes.len() => Err(NOT_UTF8),
            true => Ok(Incoming::Text(self.bytes.into())),
            false => Ok(Incoming::Binary(self.bytes.into())),
        }
    }
}

impl Opcode {
    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }

    fn read(bits: u8) -> Option<Opcode> {
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

const TOO_LONG: Violation =
    Violation { code: 1009, why: "the message is too long for this server" };

const NOT_DEFLATE: Violation =
    Violation { code: 1007, why: "a message that is marked as deflated and is not" };

const NOT_UTF8: Violation = Violation { code: 1007, why: "a text message that is not UTF-8" };

fn protocol(why: &'static str) -> Violation {
    Violation { code: 1002, why }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

fn extend_unmasked(bytes: &mut Vec<u8>, masked: &[u8], mask: [u8; 4]) {
    let start = bytes.len();
    bytes.extend_from_slice(masked);
    for four in bytes[start..].chunks_mut(4) {
        four.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
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

fn read_header(header: &[u8; HEADER_BYTES_MAX], deflate: bool) -> Result<Header, Violation> {
    let [first, second, ..] = *header;
    let deflated = first & RSV1 != 0;
    if first & 0x30 != 0 || (deflated && !deflate) {
        return Err(protocol("a reserved bit is set, and no extension was agreed on that has it"));
    }
    let opcode = Opcode::read(first & 0x0f).ok_or(protocol("an opcode that RFC 6455 reserves"))?;
    if deflated && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(protocol("only the first frame of a message is marked as deflated"));
    }
    if second & 0x80 == 0 {
        return Err(protocol("a frame of a client that is not masked"));
    }
    let extended = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, b| (sum << 8) | u64::from(*b));
    let len = match second & 0x7f {
        126 => extended(&header[2..4]),
        127 => extended(&header[2..10]),
        short => u64::from(short),
    };
    if len >> 63 != 0 {
        return Err(protocol("a frame length whose highest bit is set"));
    }
    Ok(Header { fin: first & 0x80 != 0, deflated, opcode, len })
}

fn check_control(fin: bool, len: u64) -> Result<usize, Violation> {
    if !fin {
        return Err(protocol("a control frame in fragments"));
    }
    match usize::try_from(len) {
        Ok(len) if len <= CONTROL_BYTES_MAX => Ok(len),
        _ => Err(protocol("a control frame of more than 125 bytes")),
    }
}

fn read_close(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let [high, low, reason @ ..] = payload else {
        return match payload {
            [] => Ok(None),
            _ => Err(protocol("a close frame with half a code")),
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    // 1004 to 1006 and 1015 stand for what never was on a wire (RFC 6455, 7.4).
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol("a close code that must not be sent"));
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Violation { code: 1007, why: "a close reason that is not UTF-8" }),
    }
}

#[cfg(test)]
#[path = "codec/codec_test.rs"]
mod codec_test;

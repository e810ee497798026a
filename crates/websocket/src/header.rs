//! The header of a client's frame (RFC 6455, 5.2).

use crate::ProtocolViolation;

/// The longest header: two bytes, eight of extended length, four of mask.
pub(crate) const HEADER_BYTES_MAX: usize = 14;

/// The longest payload of a ping, pong or close frame (RFC 6455, 5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// The reserved bit of permessage-deflate (RFC 7692, 6): the message is compressed.
pub(crate) const RSV1: u8 = 0x40;

/// Everything in a header but the mask.
pub(crate) struct FrameHeader {
    pub(crate) fin: bool,
    /// Starts a compressed message.
    pub(crate) is_deflated: bool,
    pub(crate) opcode: Opcode,
    pub(crate) len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl FrameHeader {
    /// Parses a header. Its first two bytes are enough to find every violation but a length of
    /// 64 bits; the rest may still be zeros.
    pub(crate) fn parse(
        header: &[u8; HEADER_BYTES_MAX],
        deflate: bool,
    ) -> Result<FrameHeader, ProtocolViolation> {
        let [first, second, ..] = *header;
        let is_deflated = first & RSV1 != 0;
        if first & 0x30 != 0 || (is_deflated && !deflate) {
            return Err(ProtocolViolation::protocol_error(
                "a reserved bit is set that no negotiated extension uses",
            ));
        }
        let opcode = Opcode::from_bits(first & 0x0f)
            .ok_or(ProtocolViolation::protocol_error("the opcode is reserved by RFC 6455"))?;
        if is_deflated && !matches!(opcode, Opcode::Text | Opcode::Binary) {
            return Err(ProtocolViolation::protocol_error(
                "only the first frame of a message may be marked as compressed",
            ));
        }
        if second & 0x80 == 0 {
            return Err(ProtocolViolation::protocol_error("a frame of a client must be masked"));
        }
        let extended = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, b| (sum << 8) | u64::from(*b));
        let len = match second & 0x7f {
            126 => extended(&header[2..4]),
            127 => extended(&header[2..10]),
            len => u64::from(len),
        };
        if len >> 63 != 0 {
            return Err(ProtocolViolation::protocol_error("the highest bit of a length is set"));
        }
        Ok(FrameHeader { fin: first & 0x80 != 0, is_deflated, opcode, len })
    }

    /// Checks that the length has its shortest encoding (RFC 6455, 5.2): a second one would give a message two
    /// forms. Only for a complete header.
    pub(crate) fn check_minimal_len(
        &self,
        header: &[u8; HEADER_BYTES_MAX],
    ) -> Result<(), ProtocolViolation> {
        let is_minimal = match header_len(header) {
            HEADER_BYTES_MAX => self.len > u64::from(u16::MAX),
            8 => self.len > CONTROL_BYTES_MAX as u64,
            _ => true,
        };
        if is_minimal {
            return Ok(());
        }
        Err(ProtocolViolation::protocol_error("a length is not in its shortest form"))
    }

    /// The payload length of a control frame, which must be whole and short.
    pub(crate) fn control_len(&self) -> Result<usize, ProtocolViolation> {
        if !self.fin {
            return Err(ProtocolViolation::protocol_error(
                "a control frame must not be fragmented",
            ));
        }
        match usize::try_from(self.len) {
            Ok(len) if len <= CONTROL_BYTES_MAX => Ok(len),
            _ => Err(ProtocolViolation::protocol_error(
                "the payload of a control frame must not exceed 125 bytes",
            )),
        }
    }
}

impl Opcode {
    pub(crate) fn is_control(self) -> bool {
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

/// The length of the header, as far as its first bytes tell.
pub(crate) fn header_len(bytes: &[u8]) -> usize {
    match bytes.get(1).map(|second| second & 0x7f) {
        None => 2,
        Some(126) => 2 + 2 + 4,
        Some(127) => 2 + 8 + 4,
        Some(_) => 2 + 4,
    }
}

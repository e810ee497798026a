//! RFC 6455 as a server writes it: a whole frame in one piece, so that every session of a topic
//! can be sent the same bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{CONTROL_BYTES_MAX, Opcode, RSV1};
use super::deflate::deflate;

/// A text message.
pub(crate) fn text(payload: &[u8]) -> Bytes {
    encode(Opcode::Text, payload)
}

/// A binary message.
pub(crate) fn binary(payload: &[u8]) -> Bytes {
    encode(Opcode::Binary, payload)
}

/// A text message for sessions that agreed on permessage-deflate: deflated, if that makes it smaller.
pub(crate) fn compressed_text(payload: &[u8]) -> Bytes {
    encode_compressed(Opcode::Text, payload)
}

/// A binary message for such sessions.
pub(crate) fn compressed_binary(payload: &[u8]) -> Bytes {
    encode_compressed(Opcode::Binary, payload)
}

/// The question whether somebody is there, or has read everything before it.
pub(crate) fn ping(payload: &[u8]) -> Bytes {
    encode(Opcode::Ping, payload)
}

/// The answer to a ping. `payload` is the ping's.
pub(crate) fn pong(payload: &[u8]) -> Bytes {
    encode(Opcode::Pong, payload)
}

/// The last frame; `reason` is cut to what fits.
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    let len_max = reason.len().min(CONTROL_BYTES_MAX - 2);
    let fits = (0..=len_max).rev().find(|&at| reason.is_char_boundary(at)).unwrap_or(0);
    let mut payload = BytesMut::with_capacity(2 + fits);
    payload.put_u16(code);
    payload.put_slice(&reason.as_bytes()[..fits]);
    encode(Opcode::Close, &payload)
}

fn encode(opcode: Opcode, payload: &[u8]) -> Bytes {
    write_frame(opcode as u8, payload)
}

fn encode_compressed(opcode: Opcode, payload: &[u8]) -> Bytes {
    match deflate(payload) {
        Some(deflated) => write_frame(RSV1 | opcode as u8, &deflated),
        None => encode(opcode, payload),
    }
}

/// The last frame of its message, and the first. Servers do not mask.
fn write_frame(opcode_and_rsv: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(10 + payload.len());
    frame.put_u8(0x80 | opcode_and_rsv);
    match payload.len() {
        len @ 0..=125 => frame.put_u8(len as u8),
        len @ 126..=0xffff => {
            frame.put_u8(126);
            frame.put_u16(len as u16);
        }
        len => {
            frame.put_u8(127);
            frame.put_u64(len as u64);
        }
    }
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_grows_with_the_payload() {
        assert_eq!(&text(b"ab")[..], b"\x81\x02ab");
        assert_eq!(&binary(&[0; 125])[..2], b"\x82\x7d");
        assert_eq!(&binary(&[0; 126])[..4], b"\x82\x7e\x00\x7e");
        assert_eq!(&binary(&[0; 65_535])[..4], b"\x82\x7e\xff\xff");
        assert_eq!(&binary(&[0; 65_536])[..10], b"\x82\x7f\0\0\0\0\0\x01\0\0");
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let frame = close(1000, &"é".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}

//! Makes the frames that a server sends (RFC 6455, 5), each whole and in one piece, so that the same
//! bytes can be sent to any number of clients.

use bytes::{BufMut, Bytes, BytesMut};

use crate::deflate::deflate;
use crate::header::{CONTROL_BYTES_MAX, Opcode, RSV1};

/// A text message. `payload` must be UTF-8.
pub fn text(payload: &[u8]) -> Bytes {
    encode(Opcode::Text, payload)
}

/// A binary message.
pub fn binary(payload: &[u8]) -> Bytes {
    encode(Opcode::Binary, payload)
}

/// A text message for clients with permessage-deflate: compressed, if that makes it smaller.
pub fn compressed_text(payload: &[u8]) -> Bytes {
    encode_compressed(Opcode::Text, payload)
}

/// A binary message for clients with permessage-deflate: compressed, if that makes it smaller.
pub fn compressed_binary(payload: &[u8]) -> Bytes {
    encode_compressed(Opcode::Binary, payload)
}

/// A ping. Its pong proves that the client read everything before it. `payload` is cut to 125 bytes.
pub fn ping(payload: &[u8]) -> Bytes {
    encode(Opcode::Ping, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// The answer to a ping, whose payload it must repeat. `payload` is cut to 125 bytes.
pub fn pong(payload: &[u8]) -> Bytes {
    encode(Opcode::Pong, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// A close frame. `reason` is cut between characters to at most 123 bytes.
pub fn close(code: u16, reason: &str) -> Bytes {
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

/// An unfragmented message. Servers do not mask.
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
    fn header_length_follows_the_payload_length() {
        assert_eq!(&text(b"ab")[..], b"\x81\x02ab");
        assert_eq!(&binary(&[0; 125])[..2], b"\x82\x7d");
        assert_eq!(&binary(&[0; 126])[..4], b"\x82\x7e\x00\x7e");
        assert_eq!(&binary(&[0; 65_535])[..4], b"\x82\x7e\xff\xff");
        assert_eq!(&binary(&[0; 65_536])[..10], b"\x82\x7f\0\0\0\0\0\x01\0\0");
    }

    #[test]
    fn close_reason_is_cut_between_characters() {
        let frame = close(1000, &"é".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}

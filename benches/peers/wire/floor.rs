//! The protocol of the bare write loop: two bytes of length, then the payload, whose last two bytes are the
//! topic number. A connection starts with one byte for its role and two for the topic.

use super::{DecodeResult, Role, ServerMessage, split_front};

/// The length of a frame: that of Pushonce's frame of a 128-byte message, so that the kernel copies the same
/// number of bytes.
pub(crate) const FRAME_BYTES: usize = 222;

pub(super) fn opening_bytes(role: Role, topic: &str) -> Vec<u8> {
    let purpose = if role == Role::Subscriber { b's' } else { b'p' };
    let [high, low] = topic_number(topic);
    vec![purpose, high, low]
}

pub(super) fn decode_next<'a>(bytes: &mut &'a [u8]) -> DecodeResult<'a> {
    let Some(&[high, low]) = bytes.first_chunk() else { return Ok(None) };
    let mut remaining = &bytes[2..];
    let length = usize::from(u16::from_be_bytes([high, low]));
    let Some(payload) = split_front(&mut remaining, length) else { return Ok(None) };
    *bytes = remaining;
    Ok(Some(if payload.is_empty() {
        ServerMessage::Ready
    } else {
        ServerMessage::Message { payload, resume_token: None }
    }))
}

/// Truncates a payload that is longer than the frame; its stamp is at the front.
pub(super) fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
    let end = out.len() + FRAME_BYTES - 2;
    out.extend((FRAME_BYTES as u16 - 2).to_be_bytes());
    out.extend_from_slice(&payload[..payload.len().min(FRAME_BYTES - 4)]);
    out.resize(end, b'x');
    out.extend(topic_number(topic));
}

/// The number in a topic such as `bench/7`.
fn topic_number(topic: &str) -> [u8; 2] {
    let digits = topic.rsplit('/').next().unwrap_or_default();
    digits.parse::<u16>().unwrap_or_default().to_be_bytes()
}

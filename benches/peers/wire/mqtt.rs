//! MQTT 3.1.1 at QoS 0, with clean sessions and without keep-alive.

use super::{ConnectionSpec, DecodeResult, Role, ServerMessage, split_front};

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBACK: u8 = 0x90;

/// The client identifier is empty: the server assigns one.
pub(super) fn opening_bytes(spec: ConnectionSpec<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_packet(&mut out, 0x10, &[b"\0\x04MQTT\x04\x02\0\0\0\0"]);
    if spec.role == Role::Subscriber {
        let length = (spec.topic.len() as u16).to_be_bytes();
        write_packet(&mut out, 0x82, &[b"\0\x01", &length, spec.topic.as_bytes(), b"\0"]);
    }
    out
}

pub(super) fn decode_next<'a>(bytes: &mut &'a [u8], role: Role) -> DecodeResult<'a> {
    let Some((&kind, mut remaining)) = bytes.split_first() else { return Ok(None) };
    let Some(length) = read_length(&mut remaining)? else { return Ok(None) };
    let Some(body) = split_front(&mut remaining, length) else { return Ok(None) };
    *bytes = remaining;
    Ok(Some(match (kind & 0xf0, body) {
        (CONNACK, [_, 0]) if role == Role::Publisher => ServerMessage::Ready,
        (CONNACK, [_, 0]) => ServerMessage::Ignored,
        (CONNACK, _) => return Err(format!("the connection was rejected: {body:?}")),
        (SUBACK, [_, _, 0..=2]) => ServerMessage::Ready,
        (SUBACK, _) => return Err(format!("the subscription was rejected: {body:?}")),
        (PUBLISH, [high, low, named @ ..]) => {
            let topic = usize::from(u16::from_be_bytes([*high, *low]));
            let payload = named.get(topic..).ok_or("a message shorter than its topic")?;
            ServerMessage::Message { payload, resume_token: None }
        }
        _ => ServerMessage::Ignored,
    }))
}

pub(super) fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
    let length = (topic.len() as u16).to_be_bytes();
    write_packet(out, PUBLISH, &[&length, topic.as_bytes(), payload]);
}

fn write_packet(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    out.push(kind);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(parts.iter().flat_map(|part| *part));
}

/// Reads a length of up to four bytes: seven bits per byte, the lowest first.
fn read_length(bytes: &mut &[u8]) -> Result<Option<usize>, String> {
    let mut length = 0;
    for nth in 0..4 {
        let Some((&byte, rest)) = bytes.split_first() else { return Ok(None) };
        *bytes = rest;
        length |= usize::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            return Ok(Some(length));
        }
    }
    Err("a length of more than four bytes".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_length_round_trips() {
        for length in [0, 127, 128, 16_383, 16_384] {
            let mut out = Vec::new();
            publish(&mut out, "t", &vec![b'~'; length]);
            let mut bytes = out.as_slice();
            let decoded = decode_next(&mut bytes, Role::Subscriber);
            let Ok(Some(ServerMessage::Message { payload, .. })) = decoded else {
                panic!("{decoded:?}")
            };
            assert!(payload.len() == length && bytes.is_empty());
        }
    }
}

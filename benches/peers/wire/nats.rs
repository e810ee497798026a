//! The NATS client protocol: lines, and payloads after their length.

use super::{ConnectionSpec, DecodeResult, Role, ServerMessage, find_bytes, split_front};

/// The maximum length of a line.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Opens a connection. The PONG to this PING confirms the subscription.
pub(super) fn opening_bytes(spec: ConnectionSpec<'_>) -> Vec<u8> {
    let subscribe = match spec.role {
        Role::Subscriber => format!("SUB {} 1\r\n", spec.topic),
        Role::Publisher => String::new(),
    };
    format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\n{subscribe}PING\r\n").into()
}

pub(super) fn decode_next<'a>(bytes: &mut &'a [u8]) -> DecodeResult<'a> {
    let Some(end) = find_bytes(&bytes[..bytes.len().min(LINE_BYTES_MAX)], b"\r\n") else {
        return if bytes.len() < LINE_BYTES_MAX {
            Ok(None)
        } else {
            Err("a line of more than 8 KiB".into())
        };
    };
    let (line, mut remaining) = (&bytes[..end], &bytes[end + 2..]);
    let message = if line.starts_with(b"MSG ") {
        let digits = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
        let length: Option<usize> = std::str::from_utf8(digits).ok().and_then(|n| n.parse().ok());
        let length = length.ok_or("a message without a length")?;
        let Some(payload) = split_front(&mut remaining, length + 2) else { return Ok(None) };
        ServerMessage::Message { payload: &payload[..length], resume_token: None }
    } else if line == b"PING" {
        ServerMessage::Reply(b"PONG\r\n".to_vec())
    } else if line == b"PONG" {
        ServerMessage::Ready
    } else if line.starts_with(b"-ERR") {
        return Err(String::from_utf8_lossy(line).into_owned());
    } else {
        ServerMessage::Ignored
    };
    *bytes = remaining;
    Ok(Some(message))
}

pub(super) fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
    out.extend(format!("PUB {topic} {}\r\n", payload.len()).bytes());
    out.extend_from_slice(payload);
    out.extend(b"\r\n");
}

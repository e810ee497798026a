//! Event streams of Pushonce. Publishers use a WebSocket.

use super::{ConnectionSpec, DecodeResult, ServerMessage, find_bytes, split_front};

const HEAD_BYTES_MAX: usize = 8 << 10;

pub(super) fn opening_bytes(spec: ConnectionSpec<'_>) -> Vec<u8> {
    let id = spec.resume_token.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
    format!(
        "GET /topics/{} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{id}\r\n",
        spec.topic
    )
    .into()
}

/// The head of the response comes once the subscription has begun.
pub(super) fn decode_next<'a>(
    bytes: &mut &'a [u8],
    ready: bool,
    with_resume_tokens: bool,
) -> DecodeResult<'a> {
    if !ready {
        return read_head(bytes);
    }
    if bytes.starts_with(b":\n") {
        split_front(bytes, 2);
        return Ok(Some(ServerMessage::Ignored));
    }
    let Some(end) = find_bytes(bytes, b"\n\n") else { return Ok(None) };
    let block = split_front(bytes, end + 2).unwrap_or_default();
    if let Some(data) = block.strip_prefix(b"data: ") {
        let (payload, rest) = data.split_at(find_bytes(data, b"\n").unwrap_or(data.len()));
        let resume_token = rest.strip_prefix(b"\nid: ").filter(|_| with_resume_tokens);
        let resume_token = resume_token.and_then(|id| id.split(|&byte| byte == b'\n').next());
        return Ok(Some(ServerMessage::Message { payload, resume_token }));
    }
    if find_bytes(block, b"event: ").is_some() {
        return Err(String::from_utf8_lossy(block).into_owned());
    }
    Ok(Some(ServerMessage::Ignored))
}

fn read_head<'a>(bytes: &mut &'a [u8]) -> DecodeResult<'a> {
    let Some(end) = find_bytes(bytes, b"\r\n\r\n") else {
        return match bytes.len() > HEAD_BYTES_MAX {
            true => Err("a head of more than 8 KiB".to_owned()),
            false => Ok(None),
        };
    };
    let head = split_front(bytes, end + 4).unwrap_or_default();
    if !head.starts_with(b"HTTP/1.1 200 ") {
        let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
        return Err(String::from_utf8_lossy(line).into_owned());
    }
    Ok(Some(ServerMessage::Ready))
}

//! WebSocket framing, and the messages of Pushonce and nchan.

use serde_json::Value;

use super::{ConnectionSpec, DecodeResult, Role, ServerMessage, find_bytes, split_front};

const HEAD_BYTES_MAX: usize = 8 << 10;

pub(super) fn pushonce_opening_bytes(spec: ConnectionSpec<'_>) -> Vec<u8> {
    let path = match (spec.role, spec.resume_token) {
        (Role::Publisher, _) => "/ws".to_owned(),
        (Role::Subscriber, None) => format!("/ws?topic={}", spec.topic),
        (Role::Subscriber, Some(resume_token)) => {
            format!("/ws?topic={}&from={resume_token}", spec.topic)
        }
    };
    let mut out = handshake(&path, "");
    for topic in spec.other_topics {
        write_masked_frame(
            &mut out,
            TEXT,
            &[format!("{{\"subscribe\":{{\"topic\":\"{topic}\"}}}}").as_bytes()],
        );
    }
    out
}

/// nchan sends the position of a message only with its own subprotocol, in lines before the payload.
pub(super) fn nchan_opening_bytes(spec: ConnectionSpec<'_>) -> Vec<u8> {
    let location = if spec.role == Role::Publisher { "pub" } else { "sub" };
    let mut headers = String::new();
    if spec.with_resume_tokens {
        headers += "Sec-WebSocket-Protocol: ws+meta.nchan\r\n";
    }
    if let Some(resume_token) = spec.resume_token {
        headers += &format!("Last-Event-ID: {resume_token}\r\n");
    }
    handshake(&format!("/{location}/{}", spec.topic), &headers)
}

fn handshake(path: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{headers}\r\n"
    )
    .into()
}

pub(super) fn decode_next_pushonce<'a>(
    bytes: &mut &'a [u8],
    role: Role,
    ready: bool,
    with_resume_tokens: bool,
) -> DecodeResult<'a> {
    if !ready && !bytes.starts_with(&[TEXT]) {
        let message =
            if role == Role::Publisher { ServerMessage::Ready } else { ServerMessage::Ignored };
        return Ok(read_handshake(bytes)?.then_some(message));
    }
    let Some((kind, payload)) = read_frame(bytes)? else { return Ok(None) };
    if kind != TEXT {
        return on_control_frame(kind, payload).map(Some);
    }
    if payload.starts_with(br#"{"message""#) || payload.contains(&b'~') {
        let resume_token =
            with_resume_tokens.then(|| quoted_value(payload, br#""position":""#)).flatten();
        return Ok(Some(ServerMessage::Message { payload, resume_token }));
    }
    if find_bytes(payload, br#""subscribed""#).is_some() {
        return Ok(Some(ServerMessage::Ready));
    }
    if payload.starts_with(br#"{"gap""#) {
        return Ok(Some(ServerMessage::Skipped(
            gap_len(payload).ok_or("a gap that cannot be read")?,
        )));
    }
    if find_bytes(payload, br#""error""#).is_some() {
        return Err(String::from_utf8_lossy(payload).into_owned());
    }
    Ok(Some(ServerMessage::Ignored))
}

pub(super) fn decode_next_nchan<'a>(
    bytes: &mut &'a [u8],
    role: Role,
    ready: bool,
    with_resume_tokens: bool,
) -> DecodeResult<'a> {
    if !ready {
        return Ok(read_handshake(bytes)?.then_some(ServerMessage::Ready));
    }
    let Some((kind, payload)) = read_frame(bytes)? else { return Ok(None) };
    if kind != TEXT {
        return on_control_frame(kind, payload).map(Some);
    }
    if role == Role::Publisher {
        return Ok(Some(ServerMessage::Ignored));
    }
    let resume_token = with_resume_tokens.then(|| payload.strip_prefix(b"id: ")).flatten();
    let resume_token = resume_token.and_then(|rest| rest.split(|&byte| byte == b'\n').next());
    Ok(Some(ServerMessage::Message { payload, resume_token }))
}

pub(super) fn publish_pushonce(out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
    let before = format!("{{\"publish\":{{\"topic\":\"{topic}\",\"data\":\"");
    write_masked_frame(out, TEXT, &[before.as_bytes(), payload, b"\"}}"]);
}

pub(super) fn publish_nchan(out: &mut Vec<u8>, payload: &[u8]) {
    write_masked_frame(out, TEXT, &[payload]);
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Writes a frame masked with zeros, which leave the payload unchanged: the server still has to unmask it.
fn write_masked_frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(parts.iter().flat_map(|part| *part));
}

/// Removes the handshake response from `bytes`, if it is complete.
fn read_handshake(bytes: &mut &[u8]) -> Result<bool, String> {
    let Some(end) = find_bytes(bytes, b"\r\n\r\n") else {
        let is_too_long = bytes.len() > HEAD_BYTES_MAX;
        return if is_too_long {
            Err("a handshake response of more than 8 KiB".into())
        } else {
            Ok(false)
        };
    };
    if !bytes.starts_with(b"HTTP/1.1 101 ") {
        let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
        return Err(String::from_utf8_lossy(line).into_owned());
    }
    *bytes = &bytes[end + 4..];
    Ok(true)
}

/// Reads a complete frame: its first byte and its payload. Servers do not mask.
fn read_frame<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, String> {
    let &[kind, short, ref remaining @ ..] = *bytes else { return Ok(None) };
    let mut remaining = remaining;
    let length = match short {
        0..=125 => Some(usize::from(short)),
        126 => split_front(&mut remaining, 2)
            .map(|two| two.iter().fold(0, |n, &b| n << 8 | usize::from(b))),
        127 => split_front(&mut remaining, 8)
            .map(|eight| eight.iter().fold(0, |n, &b| n << 8 | usize::from(b))),
        _ => return Err("a masked frame from the server".into()),
    };
    let Some(payload) = length.and_then(|length| split_front(&mut remaining, length)) else {
        return Ok(None);
    };
    *bytes = remaining;
    Ok(Some((if kind == BINARY { TEXT } else { kind }, payload)))
}

fn on_control_frame(kind: u8, payload: &[u8]) -> Result<ServerMessage<'static>, String> {
    match kind {
        PING => {
            let mut pong = Vec::new();
            write_masked_frame(&mut pong, PONG, &[payload]);
            Ok(ServerMessage::Reply(pong))
        }
        CLOSE => {
            let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
            Err(format!("closed with {code}"))
        }
        _ => Ok(ServerMessage::Ignored),
    }
}

/// The bytes after `prefix`, up to the next quotation mark.
fn quoted_value<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let rest = &text[find_bytes(text, prefix)? + prefix.len()..];
    rest.split(|&byte| byte == b'"').next()
}

fn gap_len(frame: &[u8]) -> Option<u64> {
    let frame: Value = serde_json::from_slice(frame).ok()?;
    let offset =
        |end: &str| -> Option<u64> { frame["gap"][end].as_str()?.split_once(':')?.1.parse().ok() };
    (offset("to")? + 1).checked_sub(offset("from")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(payload: &str) -> Vec<u8> {
        let mut out = vec![TEXT, 126];
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend(payload.bytes());
        out
    }

    #[test]
    fn subscriber_is_ready_when_its_subscription_is_confirmed() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n".to_vec();
        stream.extend(text(r#"{"subscribed":{"topic":"t","position":"1:4"}}"#));
        let mut bytes = stream.as_slice();
        let mut next = || decode_next_pushonce(&mut bytes, Role::Subscriber, false, false);
        assert_eq!(next(), Ok(Some(ServerMessage::Ignored)));
        assert_eq!(next(), Ok(Some(ServerMessage::Ready)));
        assert_eq!(next(), Ok(None));
    }

    #[test]
    fn resume_token_is_found_in_each_protocol() {
        let pushonce_frame = text(r#"{"message":{"topic":"t","position":"12:4052","data":"~1"}}"#);
        let nchan_frame = text("id: 1790000000:0\ncontent-type: text/plain\n\n~1");
        let subscriber = Role::Subscriber;
        let Ok(Some(ServerMessage::Message { resume_token, .. })) =
            decode_next_pushonce(&mut pushonce_frame.as_slice(), subscriber, true, true)
        else {
            panic!("no message")
        };
        assert_eq!(resume_token, Some(b"12:4052".as_slice()));
        let Ok(Some(ServerMessage::Message { resume_token, .. })) =
            decode_next_nchan(&mut nchan_frame.as_slice(), subscriber, true, true)
        else {
            panic!("no message")
        };
        assert_eq!(resume_token, Some(b"1790000000:0".as_slice()));
    }

    #[test]
    fn gap_frame_counts_skipped_messages() {
        let gap = text(r#"{"gap":{"topic":"t","from":"12:5","to":"12:9","reason":"slow"}}"#);
        let decoded = decode_next_pushonce(&mut gap.as_slice(), Role::Subscriber, true, false);
        assert_eq!(decoded, Ok(Some(ServerMessage::Skipped(5))));
    }

    #[test]
    fn rejected_handshake_reports_the_status_line() {
        let decoded = decode_next_nchan(
            &mut &b"HTTP/1.1 403 Forbidden\r\n\r\n"[..],
            Role::Subscriber,
            false,
            false,
        );
        assert_eq!(decoded, Err("HTTP/1.1 403 Forbidden".to_owned()));
    }
}

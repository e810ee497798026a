//! WebSocket: frames, and what Pushonce and nchan put into them.

use serde_json::Value;

use super::{Heard, Opening, Role, Said, find, take};

const HEAD_BYTES_MAX: usize = 8 << 10;

pub(super) fn open_pushonce(opening: Opening<'_>) -> Vec<u8> {
    let path = match (opening.role, opening.mark) {
        (Role::Publisher, _) => "/ws".to_owned(),
        (Role::Subscriber, None) => format!("/ws?topic={}", opening.topic),
        (Role::Subscriber, Some(mark)) => format!("/ws?topic={}&from={mark}", opening.topic),
    };
    let mut out = handshake(&path, "");
    for topic in opening.others {
        masked(
            &mut out,
            TEXT,
            &[format!("{{\"subscribe\":{{\"topic\":\"{topic}\"}}}}").as_bytes()],
        );
    }
    out
}

/// nchan tells where a message stands under its own subprotocol only, in lines before the payload.
pub(super) fn open_nchan(opening: Opening<'_>) -> Vec<u8> {
    let door = if opening.role == Role::Publisher { "pub" } else { "sub" };
    let mut headers = String::new();
    if opening.marks {
        headers += "Sec-WebSocket-Protocol: ws+meta.nchan\r\n";
    }
    if let Some(mark) = opening.mark {
        headers += &format!("Last-Event-ID: {mark}\r\n");
    }
    handshake(&format!("/{door}/{}", opening.topic), &headers)
}

fn handshake(path: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{headers}\r\n"
    )
    .into()
}

pub(super) fn next_pushonce<'a>(
    bytes: &mut &'a [u8],
    role: Role,
    ready: bool,
    marks: bool,
) -> Heard<'a> {
    if !ready && !bytes.starts_with(&[TEXT]) {
        let said = if role == Role::Publisher { Said::Ready } else { Said::Aside };
        return Ok(head(bytes)?.then_some(said));
    }
    let Some((kind, payload)) = frame(bytes)? else { return Ok(None) };
    if kind != TEXT {
        return control(kind, payload).map(Some);
    }
    if payload.starts_with(br#"{"message""#) || payload.contains(&b'~') {
        let mark = marks.then(|| quoted(payload, br#""position":""#)).flatten();
        return Ok(Some(Said::Message { payload, mark }));
    }
    if find(payload, br#""subscribed""#).is_some() {
        return Ok(Some(Said::Ready));
    }
    if payload.starts_with(br#"{"gap""#) {
        return Ok(Some(Said::Told(left_out(payload).ok_or("a gap that cannot be read")?)));
    }
    if find(payload, br#""error""#).is_some() {
        return Err(String::from_utf8_lossy(payload).into_owned());
    }
    Ok(Some(Said::Aside))
}

pub(super) fn next_nchan<'a>(
    bytes: &mut &'a [u8],
    role: Role,
    ready: bool,
    marks: bool,
) -> Heard<'a> {
    if !ready {
        return Ok(head(bytes)?.then_some(Said::Ready));
    }
    let Some((kind, payload)) = frame(bytes)? else { return Ok(None) };
    if kind != TEXT {
        return control(kind, payload).map(Some);
    }
    if role == Role::Publisher {
        return Ok(Some(Said::Aside));
    }
    let mark = marks.then(|| payload.strip_prefix(b"id: ")).flatten();
    let mark = mark.and_then(|rest| rest.split(|&byte| byte == b'\n').next());
    Ok(Some(Said::Message { payload, mark }))
}

pub(super) fn publish_pushonce(out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
    let before = format!("{{\"publish\":{{\"topic\":\"{topic}\",\"data\":\"");
    masked(out, TEXT, &[before.as_bytes(), payload, b"\"}}"]);
}

pub(super) fn publish_nchan(out: &mut Vec<u8>, payload: &[u8]) {
    masked(out, TEXT, &[payload]);
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Under the mask of zeros, which changes nothing: the server has to unmask all the same.
fn masked(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
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

/// Takes off the answer to the handshake, if it is whole.
fn head(bytes: &mut &[u8]) -> Result<bool, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        let endless = bytes.len() > HEAD_BYTES_MAX;
        return if endless { Err("an endless head".into()) } else { Ok(false) };
    };
    if !bytes.starts_with(b"HTTP/1.1 101 ") {
        let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
        return Err(String::from_utf8_lossy(line).into_owned());
    }
    *bytes = &bytes[end + 4..];
    Ok(true)
}

/// A whole frame: its first byte and what it carries. Servers do not mask.
fn frame<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, String> {
    let &[kind, short, ref rest @ ..] = *bytes else { return Ok(None) };
    let mut rest = rest;
    let length = match short {
        0..=125 => Some(usize::from(short)),
        126 => take(&mut rest, 2).map(|two| two.iter().fold(0, |n, &b| n << 8 | usize::from(b))),
        127 => {
            take(&mut rest, 8).map(|eight| eight.iter().fold(0, |n, &b| n << 8 | usize::from(b)))
        }
        _ => return Err("a masked frame of a server".into()),
    };
    let Some(payload) = length.and_then(|length| take(&mut rest, length)) else { return Ok(None) };
    *bytes = rest;
    Ok(Some((if kind == BINARY { TEXT } else { kind }, payload)))
}

fn control(kind: u8, payload: &[u8]) -> Result<Said<'static>, String> {
    match kind {
        PING => {
            let mut pong = Vec::new();
            masked(&mut pong, PONG, &[payload]);
            Ok(Said::Ask(pong))
        }
        CLOSE => {
            let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
            Err(format!("closed with {code}"))
        }
        _ => Ok(Said::Aside),
    }
}

/// What stands behind `before`, up to the next quotation mark.
fn quoted<'a>(text: &'a [u8], before: &[u8]) -> Option<&'a [u8]> {
    let rest = &text[find(text, before)? + before.len()..];
    rest.split(|&byte| byte == b'"').next()
}

fn left_out(frame: &[u8]) -> Option<u64> {
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
    fn a_subscriber_is_ready_when_its_subscription_is_confirmed() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n".to_vec();
        stream.extend(text(r#"{"subscribed":{"topic":"t","position":"1:4"}}"#));
        let mut bytes = stream.as_slice();
        let mut next = || next_pushonce(&mut bytes, Role::Subscriber, false, false);
        assert_eq!(next(), Ok(Some(Said::Aside)));
        assert_eq!(next(), Ok(Some(Said::Ready)));
        assert_eq!(next(), Ok(None));
    }

    #[test]
    fn a_mark_is_found_where_each_puts_it() {
        let ours = text(r#"{"message":{"topic":"t","position":"12:4052","data":"~1"}}"#);
        let theirs = text("id: 1790000000:0\ncontent-type: text/plain\n\n~1");
        let subscriber = Role::Subscriber;
        let Ok(Some(Said::Message { mark, .. })) =
            next_pushonce(&mut ours.as_slice(), subscriber, true, true)
        else {
            panic!("no message")
        };
        assert_eq!(mark, Some(b"12:4052".as_slice()));
        let Ok(Some(Said::Message { mark, .. })) =
            next_nchan(&mut theirs.as_slice(), subscriber, true, true)
        else {
            panic!("no message")
        };
        assert_eq!(mark, Some(b"1790000000:0".as_slice()));
    }

    #[test]
    fn a_gap_tells_how_many_lie_in_it() {
        let gap = text(r#"{"gap":{"topic":"t","from":"12:5","to":"12:9","reason":"slow"}}"#);
        let heard = next_pushonce(&mut gap.as_slice(), Role::Subscriber, true, false);
        assert_eq!(heard, Ok(Some(Said::Told(5))));
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let heard =
            next_nchan(&mut &b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], Role::Subscriber, false, false);
        assert_eq!(heard, Err("HTTP/1.1 403 Forbidden".to_owned()));
    }
}

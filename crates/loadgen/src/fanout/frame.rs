//! A parser of unmasked, unfragmented WebSocket frames, as the server sends them. Pure.
//!
//! Frames are borrowed from one read buffer for all connections of a thread: `tokio-websockets` keeps a buffer for
//! each connection.

/// A frame in its read buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WebSocketFrame<'a> {
    pub(super) kind: WebSocketFrameKind,
    pub(super) payload: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WebSocketFrameKind {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
}

/// A frame that no Pushonce node sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid WebSocket frame: {0}")]
pub(super) struct InvalidWebSocketFrame(&'static str);

/// A payload of 1 MiB in base64, with the rest of its frame.
const PAYLOAD_BYTES_MAX: u64 = 2 << 20;

/// Parses a frame at the front of `input`; `None` when it is incomplete.
pub(super) fn parse_frame<'a>(
    input: &mut &'a [u8],
) -> Result<Option<WebSocketFrame<'a>>, InvalidWebSocketFrame> {
    let [first, second, after_header @ ..] = *input else { return Ok(None) };
    let kind = parse_kind(*first)?;
    let (len, after_length) = match *second {
        0x80.. => return Err(InvalidWebSocketFrame("it is masked")),
        126 => match after_header.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match after_header.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        len => (len.into(), after_header),
    };
    if len > PAYLOAD_BYTES_MAX {
        return Err(InvalidWebSocketFrame("it exceeds the maximum message size"));
    }
    let Some((payload, after_frame)) = after_length.split_at_checked(len as usize) else {
        return Ok(None);
    };
    *input = after_frame;
    Ok(Some(WebSocketFrame { kind, payload }))
}

fn parse_kind(first: u8) -> Result<WebSocketFrameKind, InvalidWebSocketFrame> {
    Ok(match first {
        0x81 => WebSocketFrameKind::Text,
        0x82 => WebSocketFrameKind::Binary,
        0x88 => WebSocketFrameKind::Close,
        0x89 => WebSocketFrameKind::Ping,
        0x8a => WebSocketFrameKind::Pong,
        _ => return Err(InvalidWebSocketFrame("it is fragmented, or of an unknown type")),
    })
}

/// The response to a ping. Masked, as a client must, with a zero mask.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    // The payload of a control frame is below 126 bytes; a longer one is invalid and gets a truncated answer.
    let len = payload.len().min(125);
    [&[0x8a, 0x80 | len as u8, 0, 0, 0, 0], &payload[..len]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(mut input: &[u8]) -> (Vec<(WebSocketFrameKind, usize)>, usize) {
        let mut frames = vec![];
        while let Some(frame) = parse_frame(&mut input).unwrap() {
            frames.push((frame.kind, frame.payload.len()));
        }
        (frames, input.len())
    }

    #[test]
    fn every_length_encoding_is_parsed() {
        let short = [&[0x81, 5][..], b"hello"].concat();
        let middle = [&[0x82, 126, 0x01, 0x00][..], &[7; 256]].concat();
        let long = [&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65_536]].concat();
        let frames = vec![
            (WebSocketFrameKind::Text, 5),
            (WebSocketFrameKind::Binary, 256),
            (WebSocketFrameKind::Text, 65_536),
        ];
        assert_eq!(parse_all(&[short, middle, long].concat()), (frames, 0));
    }

    #[test]
    fn incomplete_frame_is_left_in_the_input() {
        let bytes = [&[0x82, 126, 0x01, 0x00][..], &[7; 256]].concat();
        for end in 0..bytes.len() {
            assert_eq!(parse_all(&bytes[..end]), (vec![], end));
        }
    }

    #[test]
    fn masked_fragmented_or_oversized_frame_is_rejected() {
        for bytes in [&[0x81, 0x80][..], &[0x01, 0], &[0x80, 0], &[0x83, 0], &[0xc1, 0]] {
            assert!(parse_frame(&mut &*bytes).is_err(), "{bytes:?}");
        }
        let endless = [&[0x82, 127][..], &[0xff; 8]].concat();
        assert!(parse_frame(&mut &endless[..]).is_err());
    }

    #[test]
    fn pong_echoes_the_payload_of_the_ping() {
        assert_eq!(pong(b"hi"), [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(pong(&[0; 200]).len(), 6 + 125);
    }
}

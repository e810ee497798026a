//! WebSocket frames as a server sends them: unmasked and whole. Pure.

/// One frame, still in the buffer it was read into.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
}

/// What no Pushonce node sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a WebSocket frame that cannot be read: {0}")]
pub(super) struct Odd(&'static str);

/// A payload of 1 MiB, in base64, with what stands around it.
const BYTES_MAX: u64 = 2 << 20;

/// Takes a frame from the front of `input`; `None` when it is not whole yet.
pub(super) fn take<'a>(input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Odd> {
    let [first, second, rest @ ..] = *input else { return Ok(None) };
    let kind = kind(*first)?;
    let (len, rest) = match *second {
        0x80.. => return Err(Odd("it is masked")),
        126 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        len => (len.into(), rest),
    };
    if len > BYTES_MAX {
        return Err(Odd("it is longer than any message"));
    }
    let Some((payload, rest)) = rest.split_at_checked(len as usize) else { return Ok(None) };
    *input = rest;
    Ok(Some(Frame { kind, payload }))
}

fn kind(first: u8) -> Result<Kind, Odd> {
    Ok(match first {
        0x81 => Kind::Text,
        0x82 => Kind::Binary,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8a => Kind::Pong,
        _ => return Err(Odd("it is a fragment, or of no known kind")),
    })
}

/// The answer to a ping. Masked, as a client must, with a mask that changes nothing.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    // Of a control frame, so it is below 126; a longer one is odd and gets an odd answer.
    let len = payload.len().min(125);
    [&[0x8a, 0x80 | len as u8, 0, 0, 0, 0], &payload[..len]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut input: &[u8]) -> (Vec<(Kind, usize)>, usize) {
        let mut frames = vec![];
        while let Some(frame) = take(&mut input).unwrap() {
            frames.push((frame.kind, frame.payload.len()));
        }
        (frames, input.len())
    }

    #[test]
    fn each_form_of_a_length_is_read() {
        let short = [&[0x81, 5][..], b"hello"].concat();
        let middle = [&[0x82, 126, 0x01, 0x00][..], &[7; 256]].concat();
        let long = [&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65_536]].concat();
        let frames = vec![(Kind::Text, 5), (Kind::Binary, 256), (Kind::Text, 65_536)];
        assert_eq!(all(&[short, middle, long].concat()), (frames, 0));
    }

    #[test]
    fn what_is_not_whole_stays() {
        let bytes = [&[0x82, 126, 0x01, 0x00][..], &[7; 256]].concat();
        for end in 0..bytes.len() {
            assert_eq!(all(&bytes[..end]), (vec![], end));
        }
    }

    #[test]
    fn what_no_node_sends_is_refused() {
        for bytes in [&[0x81, 0x80][..], &[0x01, 0], &[0x80, 0], &[0x83, 0], &[0xc1, 0]] {
            assert!(take(&mut &*bytes).is_err(), "{bytes:?}");
        }
        let endless = [&[0x82, 127][..], &[0xff; 8]].concat();
        assert!(take(&mut &endless[..]).is_err());
    }

    #[test]
    fn a_pong_says_what_the_ping_said() {
        assert_eq!(pong(b"hi"), [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(pong(&[0; 200]).len(), 6 + 125);
    }
}

//! Frames and capsules: a type, a length, and a content of that length. Read piece by piece.

use web_transport_proto::VarInt;

use crate::error::ConnectionError;

/// The type and the length: two variable-length integers.
const HEADER_BYTES_MAX: usize = 2 * VarInt::MAX_SIZE;

/// What is done with the content of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Collected, up to this length; a longer one is an error.
    Collect(usize),
    /// Passed on in pieces, however long.
    Pass,
    /// Skipped.
    Skip,
    /// The type must not occur.
    Refuse,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Element<'a> {
    /// A collected element.
    Complete { kind: u64, content: Vec<u8> },
    /// A piece of the content of an element that is passed on.
    Piece(&'a [u8]),
    /// A number of bytes were skipped.
    Skipped(usize),
}

/// Reads elements from a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct ElementReader {
    header: Vec<u8>,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Header,
    Collecting {
        kind: u64,
        remaining: usize,
        content: Vec<u8>,
    },
    Passing {
        remaining: u64,
    },
    Skipping {
        remaining: u64,
    },
}

impl ElementReader {
    /// Whether the stream may end here.
    pub(crate) fn is_between_elements(&self) -> bool {
        matches!(self.state, State::Header) && self.header.is_empty()
    }

    /// Reads from the front of `input`. `None`: more bytes are needed.
    ///
    /// # Errors
    /// When `treatment` refuses the type, or the element is too long.
    pub(crate) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        treatment: impl Fn(u64) -> Treatment,
    ) -> Result<Option<Element<'a>>, ConnectionError> {
        if let State::Header = self.state {
            let Some((kind, len)) = self.read_header(input) else { return Ok(None) };
            self.state = start(kind, len, treatment(kind))?;
        }
        match &mut self.state {
            State::Header => Ok(None),
            State::Collecting { kind, remaining, content } => {
                let piece = take(input, *remaining as u64);
                content.extend_from_slice(piece);
                *remaining -= piece.len();
                if *remaining > 0 {
                    return Ok(None);
                }
                let element = Element::Complete { kind: *kind, content: std::mem::take(content) };
                self.state = State::Header;
                Ok(Some(element))
            }
            State::Passing { remaining } => {
                let piece = take(input, *remaining);
                *remaining -= piece.len() as u64;
                let is_end = *remaining == 0;
                if is_end {
                    self.state = State::Header;
                }
                Ok((is_end || !piece.is_empty()).then_some(Element::Piece(piece)))
            }
            State::Skipping { remaining } => {
                let skipped = take(input, *remaining).len();
                *remaining -= skipped as u64;
                let is_end = *remaining == 0;
                if is_end {
                    self.state = State::Header;
                }
                // The header counts as well: elements without content are not free.
                Ok((is_end || skipped > 0)
                    .then_some(Element::Skipped(skipped + usize::from(is_end) * 2)))
            }
        }
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Option<(u64, u64)> {
        while let [first, rest @ ..] = *input {
            self.header.push(*first);
            *input = rest;
            let mut header = &self.header[..];
            let kind = VarInt::decode(&mut header);
            if let (Ok(kind), Ok(len)) = (kind, VarInt::decode(&mut header)) {
                self.header.clear();
                return Some((kind.into_inner(), len.into_inner()));
            }
            debug_assert!(self.header.len() < HEADER_BYTES_MAX, "two integers are complete");
        }
        None
    }
}

fn start(kind: u64, len: u64, treatment: Treatment) -> Result<State, ConnectionError> {
    match treatment {
        Treatment::Collect(max) => match usize::try_from(len) {
            Ok(remaining) if remaining <= max => {
                Ok(State::Collecting { kind, remaining, content: Vec::new() })
            }
            _ => Err(ConnectionError::ExcessiveLoad),
        },
        Treatment::Pass => Ok(State::Passing { remaining: len }),
        Treatment::Skip => Ok(State::Skipping { remaining: len }),
        Treatment::Refuse => Err(ConnectionError::FrameUnexpected { kind }),
    }
}

/// Takes up to `max` bytes from the front.
fn take<'a>(input: &mut &'a [u8], max: u64) -> &'a [u8] {
    let len = usize::try_from(max).unwrap_or(usize::MAX).min(input.len());
    let (piece, rest) = input.split_at(len);
    *input = rest;
    piece
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(kind: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        VarInt::from_u64(kind).unwrap().encode(&mut bytes);
        VarInt::from_u64(content.len() as u64).unwrap().encode(&mut bytes);
        bytes.extend_from_slice(content);
        bytes
    }

    fn treatment(kind: u64) -> Treatment {
        match kind {
            0 => Treatment::Pass,
            1 => Treatment::Collect(4),
            2 => Treatment::Refuse,
            _ => Treatment::Skip,
        }
    }

    #[test]
    fn elements_are_read_from_single_bytes() {
        let bytes =
            [element(1, b"abcd"), element(0, b"xyz"), element(9_999, b"skipped"), element(1, b"")]
                .concat();
        let mut reader = ElementReader::default();
        let (mut complete, mut passed) = (Vec::new(), Vec::new());
        for byte in bytes.chunks(1) {
            let mut input = byte;
            while let Some(read) = reader.next(&mut input, treatment).unwrap() {
                match read {
                    Element::Complete { content, .. } => complete.push(content),
                    Element::Piece(piece) => passed.extend_from_slice(piece),
                    Element::Skipped(_) => {}
                }
            }
            assert!(input.is_empty());
        }
        assert_eq!(complete, [b"abcd".to_vec(), vec![]]);
        assert_eq!(passed, b"xyz");
        assert!(reader.is_between_elements());
    }

    #[test]
    fn element_that_is_refused_or_too_long_is_an_error_before_its_content() {
        for (bytes, error) in [
            (element(2, b""), ConnectionError::FrameUnexpected { kind: 2 }),
            (element(1, b"abcde")[..2].to_vec(), ConnectionError::ExcessiveLoad),
        ] {
            let result = ElementReader::default().next(&mut &bytes[..], treatment).map(|_| ());
            assert_eq!(result, Err(error));
        }
    }

    #[test]
    fn content_of_any_announced_length_allocates_nothing() {
        let mut bytes = Vec::new();
        for value in [0, VarInt::MAX.into_inner()] {
            VarInt::from_u64(value).unwrap().encode(&mut bytes);
        }
        bytes.extend_from_slice(b"abc");
        let mut reader = ElementReader::default();
        let input = &mut &bytes[..];
        assert_eq!(reader.next(input, treatment), Ok(Some(Element::Piece(b"abc"))));
        assert_eq!(reader.next(input, treatment), Ok(None));
        assert!(!reader.is_between_elements());
    }
}

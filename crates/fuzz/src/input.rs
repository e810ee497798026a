//! Reads decisions of a target from its input.

/// The part of an input that was not read yet. Reading past its end yields zeros and empty slices, so that
/// every input is a valid one.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Reads `bytes` from their beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// One bit, from the next byte.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number, from the next two bytes, big endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number, from the next eight bytes, big endian.
    pub fn u64(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// The next `len` bytes, or fewer at the end.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// The bytes before the next zero byte, which is read too, or all that are left.
    pub fn until_zero(&mut self) -> &'a [u8] {
        let len = self.rest.iter().position(|&byte| byte == 0).unwrap_or(self.rest.len());
        let bytes = self.bytes(len);
        self.bytes(1);
        bytes
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Everything that is left, split at up to three places that the next three bytes choose.
    pub fn split_rest(mut self) -> Vec<&'a [u8]> {
        let cuts = [self.byte(), self.byte(), self.byte()];
        let mut rest = self.rest;
        let mut pieces = Vec::with_capacity(cuts.len() + 1);
        for cut in cuts {
            let (piece, after) = rest.split_at(usize::from(cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_the_rest_are_the_rest() {
        let input = Input::new(&[1, 200, 2, b'a', b'b', b'c', b'd']);
        let pieces = input.split_rest();
        assert_eq!(pieces, [&b"a"[..], b"bcd", b"", b""]);
    }

    #[test]
    fn reading_past_the_end_yields_zeros() {
        let mut input = Input::new(b"\x01a\0b");
        assert!(input.flag());
        assert_eq!(input.until_zero(), b"a");
        assert_eq!(input.until_zero(), b"b");
        assert_eq!((input.u64(), input.until_zero(), input.rest()), (0, &b""[..], &b""[..]));
    }
}

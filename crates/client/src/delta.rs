//! Decoder of the delta format of Fossil (fossil-scm.org, "Delta Format") for untrusted input.
//!
//! A delta consists of the length of its result, a newline and segments: `COUNT@OFFSET,` copies from the
//! base, `COUNT:TEXT` inserts text, and `CHECKSUM;` ends the delta. Numbers are in base 64 with Fossil's
//! own digits.

/// Why a delta was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidDelta {
    #[error("the delta ends too early")]
    Truncated,
    #[error("the delta has no valid number of 32 bits where one is required")]
    InvalidNumber,
    #[error("the delta has a segment of an unknown kind")]
    InvalidSegment,
    #[error("the delta copies bytes beyond the end of its base")]
    CopyOutOfRange,
    #[error("the result of the delta is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("the result of the delta does not have the announced length")]
    LengthMismatch,
    #[error("the result of the delta has the wrong checksum: the delta is of another base")]
    ChecksumMismatch,
    #[error("bytes follow the end of the delta")]
    TrailingBytes,
}

/// Applies `delta` to `base`. The result has at most `bytes_max` bytes and the checksum of the delta.
pub(crate) fn apply(
    base: &[u8],
    mut delta: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, InvalidDelta> {
    let len = read_number(&mut delta)? as usize;
    if len > bytes_max {
        return Err(InvalidDelta::TooLong { max: bytes_max });
    }
    if read_byte(&mut delta)? != b'\n' {
        return Err(InvalidDelta::InvalidSegment);
    }
    let mut out = Vec::with_capacity(len);
    loop {
        let count = read_number(&mut delta)?;
        let segment = match read_byte(&mut delta)? {
            b'@' => {
                let offset = read_number(&mut delta)? as usize;
                if read_byte(&mut delta)? != b',' {
                    return Err(InvalidDelta::InvalidSegment);
                }
                let rest = base.get(offset..).unwrap_or_default();
                rest.get(..count as usize).ok_or(InvalidDelta::CopyOutOfRange)?
            }
            b':' => read_bytes(&mut delta, count as usize)?,
            b';' => return verify(out, len, count, delta),
            _ => return Err(InvalidDelta::InvalidSegment),
        };
        if out.len() + segment.len() > len {
            return Err(InvalidDelta::LengthMismatch);
        }
        out.extend_from_slice(segment);
    }
}

fn verify(
    out: Vec<u8>,
    len: usize,
    expected_checksum: u32,
    trailing: &[u8],
) -> Result<Vec<u8>, InvalidDelta> {
    if !trailing.is_empty() {
        Err(InvalidDelta::TrailingBytes)
    } else if out.len() != len {
        Err(InvalidDelta::LengthMismatch)
    } else if checksum(&out) != expected_checksum {
        Err(InvalidDelta::ChecksumMismatch)
    } else {
        Ok(out)
    }
}

/// The sum of the bytes as big-endian words; the last one is padded with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let word = |chunk: &[u8]| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_be_bytes(word)
    };
    bytes.chunks(4).map(word).fold(0, u32::wrapping_add)
}

fn read_number(delta: &mut &[u8]) -> Result<u32, InvalidDelta> {
    let digits = delta.iter().take_while(|&&byte| digit_value(byte).is_some()).count();
    let digits = read_bytes(delta, digits)?;
    let mut number = 0_u32;
    for value in digits.iter().filter_map(|&byte| digit_value(byte)) {
        let shifted = number.checked_mul(64).ok_or(InvalidDelta::InvalidNumber)?;
        number = shifted | value;
    }
    if digits.is_empty() { Err(InvalidDelta::InvalidNumber) } else { Ok(number) }
}

fn digit_value(byte: u8) -> Option<u32> {
    let value = match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        b'_' => 36,
        b'a'..=b'z' => byte - b'a' + 37,
        b'~' => 63,
        _ => return None,
    };
    Some(value.into())
}

fn read_byte(delta: &mut &[u8]) -> Result<u8, InvalidDelta> {
    read_bytes(delta, 1).map(|one| one[0])
}

fn read_bytes<'a>(delta: &mut &'a [u8], count: usize) -> Result<&'a [u8], InvalidDelta> {
    let (taken, rest) = delta.split_at_checked(count).ok_or(InvalidDelta::Truncated)?;
    *delta = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use fossil_delta::delta;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const MAX: usize = 10_000;

    #[test]
    fn delta_in_fossil_format_is_applied() {
        let base = b"send-snap\nimport zmq\n#c.user_dict.pop('sendsnap', None)\n";
        let new = b"send-snap\nimport zmq!\n#c.user_dict.pop('sendsnap', None)\n";
        assert_eq!(apply(base, &delta(new, base), MAX).as_deref(), Ok(&new[..]));
        assert_eq!(apply(b"", b"0\n0;", MAX).as_deref(), Ok(&b""[..]));
        assert_eq!(
            apply(b"abcdefgh", b"6\n4@2,2:!?1aLxG;", MAX),
            Err(InvalidDelta::ChecksumMismatch)
        );
    }

    #[test]
    fn each_malformed_delta_has_its_own_error() {
        for (delta, expected) in [
            (&b""[..], InvalidDelta::InvalidNumber),
            (b"4", InvalidDelta::Truncated),
            (b"4:", InvalidDelta::InvalidSegment),
            (b"4\n", InvalidDelta::InvalidNumber),
            (b"4\n4", InvalidDelta::Truncated),
            (b"4\n4!", InvalidDelta::InvalidSegment),
            (b"4\n4:abc", InvalidDelta::Truncated),
            (b"4\n4@0", InvalidDelta::Truncated),
            (b"4\n4@0;", InvalidDelta::InvalidSegment),
            (b"4\n4@1,", InvalidDelta::CopyOutOfRange),
            (b"4\n~~~~~@~~~~~,", InvalidDelta::CopyOutOfRange),
            (b"4\n1@zzzzzz,", InvalidDelta::InvalidNumber),
            (b"3\n4@0,", InvalidDelta::LengthMismatch),
            (b"4\n3@0,0;", InvalidDelta::LengthMismatch),
            (b"4\n4@0,0;", InvalidDelta::ChecksumMismatch),
            (b"0\n0;0", InvalidDelta::TrailingBytes),
            (b"2SH\n", InvalidDelta::TooLong { max: MAX }),
        ] {
            assert_eq!(apply(b"base", delta, MAX), Err(expected), "{}", delta.escape_ascii());
        }
    }

    #[test]
    fn announced_length_over_the_limit_is_rejected_before_allocation() {
        assert_eq!(apply(b"", b"3~~~~~\n", MAX), Err(InvalidDelta::TooLong { max: MAX }));
    }

    /// A small alphabet, so that many substrings repeat.
    fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(0_u8..3, 0..len), vec(any::<u8>(), 0..len)]
    }

    /// Edits of a payload: the place, the number of bytes to remove there, and the bytes to insert.
    fn edits() -> impl Strategy<Value = Vec<(Index, usize, Vec<u8>)>> {
        vec((any::<Index>(), 0_usize..30, bytes(30)), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn chain_of_deltas_reproduces_every_payload(
            first in bytes(600), edits in edits(),
        ) {
            let mut payload = first;
            for (at, cut, inserted) in edits {
                let mut next = payload.clone();
                let at = at.index(next.len() + 1);
                next.splice(at..(at + cut).min(payload.len()), inserted);
                payload = apply(&payload, &delta(&next, &payload), MAX).expect("valid");
                prop_assert_eq!(&payload, &next);
            }
        }

        #[test]
        fn corrupt_delta_never_panics_nor_yields_another_checksum(
            base in bytes(600), new in bytes(600), at in any::<Index>(), byte in any::<u8>(),
        ) {
            let whole = delta(&new, &base);
            let mut damaged = whole.clone();
            let index = at.index(whole.len());
            damaged[index] = byte;
            // A 32-bit checksum misses some corruption, such as swapped words.
            if let Ok(made) = apply(&base, &damaged, MAX) {
                prop_assert_eq!(checksum(&made), checksum(&new));
            }
            prop_assert!(apply(&base, &whole[..index], MAX).is_err());
        }
    }
}

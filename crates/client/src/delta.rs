//! The delta format of Fossil (fossil-scm.org, "Delta Format"), read with distrust.
//!
//! A delta is the length of what it makes, a newline, and then segments: `COUNT@OFFSET,` copies from
//! the base, `COUNT:TEXT` brings text along, and `CHECKSUM;` ends it. Numbers are in base 64, with
//! Fossil's own digits.

/// Why a delta was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidDelta {
    #[error("the delta ends too early")]
    Cut,
    #[error("the delta has no number where one must stand, or one over 32 bits")]
    Number,
    #[error("the delta has a segment of an unknown kind")]
    Segment,
    #[error("the delta copies what its base does not have")]
    Outside,
    #[error("the delta makes more than {max} bytes")]
    TooLong { max: usize },
    #[error("the delta makes another length than it says")]
    Length,
    #[error("what the delta makes has another checksum: its base is another")]
    Checksum,
    #[error("something follows the end of the delta")]
    Rest,
}

/// What `delta` makes of `base`: at most `bytes_max` bytes, and nothing that its checksum does not
/// confirm.
pub(crate) fn apply(
    base: &[u8],
    mut delta: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, InvalidDelta> {
    let len = number(&mut delta)? as usize;
    if len > bytes_max {
        return Err(InvalidDelta::TooLong { max: bytes_max });
    }
    if byte(&mut delta)? != b'\n' {
        return Err(InvalidDelta::Segment);
    }
    let mut out = Vec::with_capacity(len);
    loop {
        let count = number(&mut delta)?;
        let segment = match byte(&mut delta)? {
            b'@' => {
                let offset = number(&mut delta)? as usize;
                if byte(&mut delta)? != b',' {
                    return Err(InvalidDelta::Segment);
                }
                let rest = base.get(offset..).unwrap_or_default();
                rest.get(..count as usize).ok_or(InvalidDelta::Outside)?
            }
            b':' => take(&mut delta, count as usize)?,
            b';' => return finish(out, len, count, delta),
            _ => return Err(InvalidDelta::Segment),
        };
        if out.len() + segment.len() > len {
            return Err(InvalidDelta::Length);
        }
        out.extend_from_slice(segment);
    }
}

fn finish(out: Vec<u8>, len: usize, announced: u32, rest: &[u8]) -> Result<Vec<u8>, InvalidDelta> {
    if !rest.is_empty() {
        Err(InvalidDelta::Rest)
    } else if out.len() != len {
        Err(InvalidDelta::Length)
    } else if checksum(&out) != announced {
        Err(InvalidDelta::Checksum)
    } else {
        Ok(out)
    }
}

/// The sum of the bytes as big-endian words; the last is filled up with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let word = |four: &[u8]| {
        let mut word = [0; 4];
        word[..four.len()].copy_from_slice(four);
        u32::from_be_bytes(word)
    };
    bytes.chunks(4).map(word).fold(0, u32::wrapping_add)
}

fn number(delta: &mut &[u8]) -> Result<u32, InvalidDelta> {
    let digits = delta.iter().take_while(|&&byte| digit(byte).is_some()).count();
    let digits = take(delta, digits)?;
    let mut number = 0_u32;
    for value in digits.iter().filter_map(|&byte| digit(byte)) {
        let shifted = number.checked_mul(64).ok_or(InvalidDelta::Number)?;
        number = shifted | value;
    }
    if digits.is_empty() { Err(InvalidDelta::Number) } else { Ok(number) }
}

fn digit(byte: u8) -> Option<u32> {
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

fn byte(delta: &mut &[u8]) -> Result<u8, InvalidDelta> {
    take(delta, 1).map(|one| one[0])
}

fn take<'a>(delta: &mut &'a [u8], count: usize) -> Result<&'a [u8], InvalidDelta> {
    let (taken, rest) = delta.split_at_checked(count).ok_or(InvalidDelta::Cut)?;
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
    fn a_delta_as_fossil_writes_it_is_read() {
        let base = b"send-snap\nimport zmq\n#c.user_dict.pop('sendsnap', None)\n";
        let new = b"send-snap\nimport zmq!\n#c.user_dict.pop('sendsnap', None)\n";
        assert_eq!(apply(base, &delta(new, base), MAX).as_deref(), Ok(&new[..]));
        assert_eq!(apply(b"", b"0\n0;", MAX).as_deref(), Ok(&b""[..]));
        assert_eq!(apply(b"abcdefgh", b"6\n4@2,2:!?1aLxG;", MAX), Err(InvalidDelta::Checksum));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (delta, why) in [
            (&b""[..], InvalidDelta::Number),
            (b"4", InvalidDelta::Cut),
            (b"4:", InvalidDelta::Segment),
            (b"4\n", InvalidDelta::Number),
            (b"4\n4", InvalidDelta::Cut),
            (b"4\n4!", InvalidDelta::Segment),
            (b"4\n4:abc", InvalidDelta::Cut),
            (b"4\n4@0", InvalidDelta::Cut),
            (b"4\n4@0;", InvalidDelta::Segment),
            (b"4\n4@1,", InvalidDelta::Outside),
            (b"4\n~~~~~@~~~~~,", InvalidDelta::Outside),
            (b"4\n1@zzzzzz,", InvalidDelta::Number),
            (b"3\n4@0,", InvalidDelta::Length),
            (b"4\n3@0,0;", InvalidDelta::Length),
            (b"4\n4@0,0;", InvalidDelta::Checksum),
            (b"0\n0;0", InvalidDelta::Rest),
            (b"2SH\n", InvalidDelta::TooLong { max: MAX }),
        ] {
            assert_eq!(apply(b"base", delta, MAX), Err(why), "{}", delta.escape_ascii());
        }
    }

    #[test]
    fn a_length_that_is_only_announced_takes_no_more_memory_than_is_allowed() {
        assert_eq!(apply(b"", b"3~~~~~\n", MAX), Err(InvalidDelta::TooLong { max: MAX }));
    }

    /// Few letters, so that much is found again.
    fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(0_u8..3, 0..len), vec(any::<u8>(), 0..len)]
    }

    /// What a payload becomes: this much is cut out at that place, and those bytes put in.
    fn edits() -> impl Strategy<Value = Vec<(Index, usize, Vec<u8>)>> {
        vec((any::<Index>(), 0_usize..30, bytes(30)), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn what_the_server_makes_is_undone(base in bytes(600), new in bytes(600)) {
            prop_assert_eq!(apply(&base, &delta(&new, &base), MAX), Ok(new));
        }

        #[test]
        fn a_chain_of_deltas_gives_every_payload_of_a_history(
            first in bytes(600), edits in edits(),
        ) {
            let mut payload = first;
            for (at, cut, put) in edits {
                let mut next = payload.clone();
                let at = at.index(next.len() + 1);
                next.splice(at..(at + cut).min(payload.len()), put);
                payload = apply(&payload, &delta(&next, &payload), MAX).expect("valid");
                prop_assert_eq!(&payload, &next);
            }
        }

        #[test]
        fn random_bytes_never_panic_nor_make_more_than_is_allowed(
            base in bytes(100), delta in vec(any::<u8>(), 0..100), max in 0_usize..100,
        ) {
            if let Ok(made) = apply(&base, &delta, max) {
                prop_assert!(made.len() <= max);
            }
        }

        #[test]
        fn a_damaged_delta_never_panics_and_makes_nothing_else(
            base in bytes(600), new in bytes(600), at in any::<Index>(), byte in any::<u8>(),
        ) {
            let whole = delta(&new, &base);
            let mut damaged = whole.clone();
            let index = at.index(whole.len());
            damaged[index] = byte;
            // A checksum of 32 bits lets some damage pass: words may change places.
            if let Ok(made) = apply(&base, &damaged, MAX) {
                prop_assert_eq!(checksum(&made), checksum(&new));
            }
            prop_assert!(apply(&base, &whole[..index], MAX).is_err());
        }
    }
}

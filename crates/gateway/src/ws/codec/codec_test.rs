use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { message_bytes_max: 1000, fragments_max: 4 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as a client writes it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

/// Everything that comes out of `bytes`, cut at `cuts`, up to the first violation.
fn read(bytes: &[u8], cuts: &[usize]) -> (Vec<Incoming>, Option<Violation>) {
    let mut decoder = Decoder::new(LIMITS);
    let mut out = Vec::new();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    for piece in cuts.windows(2) {
        let mut input = &bytes[piece[0]..piece[1]];
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(incoming)) => out.push(incoming),
                Ok(None) => break,
                Err(violation) => return (out, Some(violation)),
            }
        }
        assert!(input.is_empty(), "what is not taken would be lost");
    }
    (out, None)
}

fn code(bytes: &[u8]) -> Option<u16> {
    read(bytes, &[]).1.map(|violation| violation.code)
}

fn text(payload: &str) -> Incoming {
    Incoming::Text(Bytes::copy_from_slice(payload.as_bytes()))
}

#[test]
fn messages_come_out_in_order() {
    let bytes = [frame(0x81, b"one"), frame(0x82, b"\x00\xff"), frame(0x81, b"")].concat();
    let (out, violation) = read(&bytes, &[]);
    assert_eq!(out, [text("one"), Incoming::Binary(Bytes::from_static(b"\x00\xff")), text("")]);
    assert_eq!(violation, None);
}

#[test]
fn fragments_are_joined_and_a_ping_may_stand_between_them() {
    let bytes = [frame(0x01, b"a"), frame(0x89, b"?"), frame(0x00, b"b"), frame(0x80, b"c")];
    let (out, _) = read(&bytes.concat(), &[]);
    assert_eq!(out, [Incoming::Ping(Bytes::from_static(b"?")), text("abc")]);
}

#[test]
fn a_character_may_be_cut_by_a_fragment_but_not_by_the_end() {
    let whole = [frame(0x01, b"\xc3"), frame(0x80, b"\xa9")].concat();
    assert_eq!(read(&whole, &[]).0, [text("é")]);
    assert_eq!(code(&frame(0x81, b"\xc3")), Some(1007));
    let early = [frame(0x01, b"ok \xff"), frame(0x80, b"never read")].concat();
    assert_eq!(code(&early), Some(1007));
}

#[test]
fn broken_frames_are_protocol_errors() {
    for (what, bytes) in [
        ("reserved bit", frame(0xc1, b"")),
        ("reserved opcode", frame(0x83, b"")),
        ("reserved control opcode", frame(0x8b, b"")),
        ("not masked", vec![0x81, 0x01, b'a']),
        ("ping in fragments", frame(0x09, b"")),
        ("long ping", frame(0x89, &[0; 126])),
        ("nothing to continue", frame(0x80, b"")),
        ("two messages at once", [frame(0x01, b""), frame(0x81, b"")].concat()),
        ("length of 64 bits", [&[0x82, 0xff, 0x80][..], &[0; 11]].concat()),
        ("half a close code", frame(0x88, b"\x03")),
        ("close code 1005", frame(0x88, &1005_u16.to_be_bytes())),
        ("close code 999", frame(0x88, &999_u16.to_be_bytes())),
        ("close code 5000", frame(0x88, &5000_u16.to_be_bytes())),
    ] {
        assert_eq!(code(&bytes), Some(1002), "{what}");
    }
    assert_eq!(code(&frame(0x88, b"\x03\xe8\xff")), Some(1007));
}

#[test]
fn a_message_at_the_limit_is_taken_and_one_byte_more_is_not() {
    assert_eq!(code(&frame(0x82, &[0; 1000])), None);
    assert_eq!(code(&frame(0x82, &[0; 1001])), Some(1009));
    assert_eq!(code(&[frame(0x02, &[0; 900]), frame(0x80, &[0; 101])].concat()), Some(1009));
}

#[test]
fn empty_fragments_do_not_go_on_for_ever() {
    let bytes = [frame(0x02, b""), frame(0, b""), frame(0, b""), frame(0, b""), frame(0, b"")];
    assert_eq!(code(&bytes[..4].concat()), None);
    assert_eq!(code(&bytes.concat()), Some(1009));
}

#[test]
fn a_length_that_is_only_announced_takes_no_memory() {
    let mut decoder = Decoder::new(Limits { message_bytes_max: 1 << 30, fragments_max: 1 });
    let mut input = &[0x82, 0xff, 0, 0, 0, 0, 0x3f, 0, 0, 0, 1, 2, 3, 4][..];
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(decoder.message.is_some_and(|message| message.bytes.capacity() == 0));
}

#[test]
fn nothing_is_read_after_a_close() {
    let bytes = [frame(0x88, &1000_u16.to_be_bytes()), frame(0x81, b"late")].concat();
    assert_eq!(read(&bytes, &[]), (vec![Incoming::Close(Some(1000))], None));
    assert_eq!(read(&frame(0x88, b""), &[]).0, [Incoming::Close(None)]);
}

/// Frames that are mostly right, so that the random cuts reach every state.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x89, 0x8a, 0x01, 0x02, 0x00, 0x80]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "[a-zé€𝄞]{0,60}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    prop::collection::vec(
        (first, payload).prop_map(|(first, payload)| frame(first, &payload)),
        0..8,
    )
    .prop_map(|frames| frames.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn how_the_bytes_are_cut_changes_nothing(
        bytes in prop_oneof![frames(), prop::collection::vec(any::<u8>(), 0..200)],
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let each_byte: Vec<usize> = (0..bytes.len()).collect();
        let whole = read(&bytes, &[]);
        prop_assert_eq!(&read(&bytes, &cuts), &whole);
        prop_assert_eq!(&read(&bytes, &each_byte), &whole);
    }
}

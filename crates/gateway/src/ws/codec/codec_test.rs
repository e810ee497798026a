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
    read_with(false, bytes, cuts)
}

/// The same where messages may be deflated, if so.
fn read_with(deflate: bool, bytes: &[u8], cuts: &[usize]) -> (Vec<Incoming>, Option<Violation>) {
    let mut decoder = Decoder::new(LIMITS, deflate);
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
    let limits = Limits { message_bytes_max: 1 << 30, fragments_max: 1 };
    let mut decoder = Decoder::new(limits, false);
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

/// "Hello", by RFC 7692, 7.2.3.1.
const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

#[test]
fn a_deflated_message_is_inflated_in_one_frame_or_in_fragments() {
    let bytes = [
        frame(0xc1, HELLO),
        frame(0x41, &HELLO[..3]),
        frame(0x89, b"?"),
        frame(0x80, &HELLO[3..]),
        frame(0xc2, b"\x00"),
        frame(0x81, b"plain"),
    ];
    let (out, violation) = read_with(true, &bytes.concat(), &[]);
    let ping = Incoming::Ping(Bytes::from_static(b"?"));
    let empty = Incoming::Binary(Bytes::new());
    assert_eq!(out, [text("Hello"), ping, text("Hello"), empty, text("plain")]);
    assert_eq!(violation, None);
}

#[test]
fn the_mark_of_a_deflated_message_where_it_must_not_be_is_a_protocol_error() {
    let with = |bytes: &[u8]| read_with(true, bytes, &[]).1.map(|violation| violation.code);
    assert_eq!(code(&frame(0xc1, HELLO)), Some(1002), "not agreed on");
    assert_eq!(with(&[frame(0x41, b""), frame(0xc0, HELLO)].concat()), Some(1002), "continuation");
    for (what, first) in [("ping", 0xc9), ("pong", 0xca), ("close", 0xc8)] {
        assert_eq!(with(&frame(first, b"")), Some(1002), "{what}");
    }
    for first in [0xa1, 0x91, 0xe1, 0xf1] {
        assert_eq!(with(&frame(first, HELLO)), Some(1002), "the other reserved bits");
    }
}

#[test]
fn a_bomb_is_too_long_and_what_is_not_deflated_or_not_text_is_bad_data() {
    let with = |bytes: &[u8]| read_with(true, bytes, &[]).1.map(|violation| violation.code);
    let deflated = |len: usize| crate::ws::deflate::deflate(&vec![b'x'; len]).unwrap();
    assert_eq!(with(&frame(0xc1, &deflated(1000))), None);
    assert_eq!(with(&frame(0xc1, &deflated(1001))), Some(1009));
    assert_eq!(with(&frame(0xc1, &deflated(1 << 20)[..900])), Some(1009));
    assert_eq!(with(&frame(0xc1, b"not deflated")), Some(1007));
    let binary = crate::ws::deflate::deflate(&[0xff; 200]).unwrap();
    assert_eq!(with(&frame(0xc1, &binary)), Some(1007), "not UTF-8");
    assert_eq!(with(&frame(0xc2, &binary)), None);
}

/// Frames that are mostly right, so that the random cuts reach every state.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x89, 0x8a, 0x01, 0x02, 0x00, 0x80]),
        2 => prop::sample::select(vec![0xc1_u8, 0xc2, 0x41, 0x42]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "[a-zé€𝄞]{0,60}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..300),
        1 => Just(HELLO.to_vec()),
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
        for deflate in [false, true] {
            let whole = read_with(deflate, &bytes, &[]);
            prop_assert_eq!(&read_with(deflate, &bytes, &cuts), &whole);
            prop_assert_eq!(&read_with(deflate, &bytes, &each_byte), &whole);
        }
    }
}

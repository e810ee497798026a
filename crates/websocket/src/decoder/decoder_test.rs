use proptest::prelude::*;

use super::*;

const LIMITS: DecoderLimits = DecoderLimits { message_bytes_max: 1000, fragments_max: 4 };
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

/// The messages in `bytes`, which arrive cut at `cuts`, up to the first violation.
fn decode(bytes: &[u8], cuts: &[usize]) -> (Vec<IncomingMessage>, Option<ProtocolViolation>) {
    decode_with(false, bytes, cuts)
}

/// The same, with permessage-deflate if `deflate`.
fn decode_with(
    deflate: bool,
    bytes: &[u8],
    cuts: &[usize],
) -> (Vec<IncomingMessage>, Option<ProtocolViolation>) {
    let mut decoder = MessageDecoder::new(LIMITS, deflate);
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
        assert!(input.is_empty(), "unconsumed input would be lost");
    }
    (out, None)
}

fn violation_code(bytes: &[u8]) -> Option<u16> {
    decode(bytes, &[]).1.map(|violation| violation.code)
}

fn text(payload: &str) -> IncomingMessage {
    IncomingMessage::Text(Bytes::copy_from_slice(payload.as_bytes()))
}

#[test]
fn messages_come_out_in_order() {
    let bytes = [frame(0x81, b"one"), frame(0x82, b"\x00\xff"), frame(0x81, b"")].concat();
    let (out, violation) = decode(&bytes, &[]);
    assert_eq!(
        out,
        [text("one"), IncomingMessage::Binary(Bytes::from_static(b"\x00\xff")), text("")]
    );
    assert_eq!(violation, None);
}

#[test]
fn fragments_are_joined_across_a_ping() {
    let bytes = [frame(0x01, b"a"), frame(0x89, b"?"), frame(0x00, b"b"), frame(0x80, b"c")];
    let (out, _) = decode(&bytes.concat(), &[]);
    assert_eq!(out, [IncomingMessage::Ping(Bytes::from_static(b"?")), text("abc")]);
}

#[test]
fn utf8_character_may_span_fragments_but_not_end_incomplete() {
    let whole = [frame(0x01, b"\xc3"), frame(0x80, b"\xa9")].concat();
    assert_eq!(decode(&whole, &[]).0, [text("é")]);
    assert_eq!(violation_code(&frame(0x81, b"\xc3")), Some(1007));
    let early = [frame(0x01, b"ok \xff"), frame(0x80, b"never read")].concat();
    assert_eq!(violation_code(&early), Some(1007));
}

#[test]
fn broken_frames_are_protocol_errors() {
    for (case, bytes) in [
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
        assert_eq!(violation_code(&bytes), Some(1002), "{case}");
    }
    assert_eq!(violation_code(&frame(0x88, b"\x03\xe8\xff")), Some(1007));
}

#[test]
fn message_at_the_limit_is_accepted_and_one_byte_more_is_rejected() {
    assert_eq!(violation_code(&frame(0x82, &[0; 1000])), None);
    assert_eq!(violation_code(&frame(0x82, &[0; 1001])), Some(1009));
    assert_eq!(
        violation_code(&[frame(0x02, &[0; 900]), frame(0x80, &[0; 101])].concat()),
        Some(1009)
    );
}

#[test]
fn number_of_empty_fragments_is_limited() {
    let bytes = [frame(0x02, b""), frame(0, b""), frame(0, b""), frame(0, b""), frame(0, b"")];
    assert_eq!(violation_code(&bytes[..4].concat()), None);
    assert_eq!(violation_code(&bytes.concat()), Some(1009));
}

#[test]
fn announced_length_allocates_no_memory() {
    let limits = DecoderLimits { message_bytes_max: 1 << 30, fragments_max: 1 };
    let mut decoder = MessageDecoder::new(limits, false);
    let mut input = &[0x82, 0xff, 0, 0, 0, 0, 0x3f, 0, 0, 0, 1, 2, 3, 4][..];
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(decoder.message.is_some_and(|message| message.bytes.capacity() == 0));
}

#[test]
fn nothing_is_read_after_a_close() {
    let bytes = [frame(0x88, &1000_u16.to_be_bytes()), frame(0x81, b"late")].concat();
    assert_eq!(decode(&bytes, &[]), (vec![IncomingMessage::Close(Some(1000))], None));
    assert_eq!(decode(&frame(0x88, b""), &[]).0, [IncomingMessage::Close(None)]);
}

/// "Hello", by RFC 7692, 7.2.3.1.
const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

#[test]
fn deflated_message_is_inflated_in_one_frame_or_in_fragments() {
    let bytes = [
        frame(0xc1, HELLO),
        frame(0x41, &HELLO[..3]),
        frame(0x89, b"?"),
        frame(0x80, &HELLO[3..]),
        frame(0xc2, b"\x00"),
        frame(0x81, b"plain"),
    ];
    let (out, violation) = decode_with(true, &bytes.concat(), &[]);
    let ping = IncomingMessage::Ping(Bytes::from_static(b"?"));
    let empty = IncomingMessage::Binary(Bytes::new());
    assert_eq!(out, [text("Hello"), ping, text("Hello"), empty, text("plain")]);
    assert_eq!(violation, None);
}

#[test]
fn rsv1_bit_where_it_is_not_allowed_is_a_protocol_error() {
    let violation_code_with_deflate =
        |bytes: &[u8]| decode_with(true, bytes, &[]).1.map(|violation| violation.code);
    assert_eq!(violation_code(&frame(0xc1, HELLO)), Some(1002), "not agreed on");
    assert_eq!(
        violation_code_with_deflate(&[frame(0x41, b""), frame(0xc0, HELLO)].concat()),
        Some(1002),
        "continuation"
    );
    for (case, first) in [("ping", 0xc9), ("pong", 0xca), ("close", 0xc8)] {
        assert_eq!(violation_code_with_deflate(&frame(first, b"")), Some(1002), "{case}");
    }
    for first in [0xa1, 0x91, 0xe1, 0xf1] {
        assert_eq!(
            violation_code_with_deflate(&frame(first, HELLO)),
            Some(1002),
            "the other reserved bits"
        );
    }
}

#[test]
fn oversized_and_invalid_deflated_messages_are_rejected_with_their_codes() {
    let violation_code_with_deflate =
        |bytes: &[u8]| decode_with(true, bytes, &[]).1.map(|violation| violation.code);
    let deflated = |len: usize| crate::deflate::deflate(&vec![b'x'; len]).unwrap();
    assert_eq!(violation_code_with_deflate(&frame(0xc1, &deflated(1000))), None);
    assert_eq!(violation_code_with_deflate(&frame(0xc1, &deflated(1001))), Some(1009));
    assert_eq!(violation_code_with_deflate(&frame(0xc1, &deflated(1 << 20)[..900])), Some(1009));
    assert_eq!(violation_code_with_deflate(&frame(0xc1, b"not deflated")), Some(1007));
    let binary = crate::deflate::deflate(&[0xff; 200]).unwrap();
    assert_eq!(violation_code_with_deflate(&frame(0xc1, &binary)), Some(1007), "not UTF-8");
    assert_eq!(violation_code_with_deflate(&frame(0xc2, &binary)), None);
}

/// Mostly valid frames, so that random cuts reach every state.
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
    fn decoding_does_not_depend_on_how_the_bytes_are_split(
        bytes in prop_oneof![frames(), prop::collection::vec(any::<u8>(), 0..200)],
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let each_byte: Vec<usize> = (0..bytes.len()).collect();
        for deflate in [false, true] {
            let whole = decode_with(deflate, &bytes, &[]);
            prop_assert_eq!(&decode_with(deflate, &bytes, &cuts), &whole);
            prop_assert_eq!(&decode_with(deflate, &bytes, &each_byte), &whole);
        }
    }
}

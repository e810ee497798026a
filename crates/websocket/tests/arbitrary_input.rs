//! Arbitrary and almost valid bytes: no panic, bounded memory, and a result that does not depend on
//! how the bytes are split.

use http::StatusCode;
use proptest::prelude::*;
use proptest::sample::Index;
use pushonce_websocket::fuzz::{self, DecodeReport};
use pushonce_websocket::{DecoderLimits, IncomingMessage, frame};

const LIMITS: DecoderLimits = DecoderLimits { message_bytes_max: 1_000, fragments_max: 4 };

/// A vector grows by doubling, and a control frame has 125 bytes.
const BUFFERED_BYTES_MAX: usize = 2 * LIMITS.message_bytes_max + 2 * 125;

/// A frame of a client, masked with zeros.
fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn opcodes() -> impl Strategy<Value = u8> {
    prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x89, 0x8a, 0x88, 0x01, 0x02, 0x00, 0x80]),
        4 => prop::sample::select(vec![0xc1_u8, 0xc2, 0x41, 0x42]),
        1 => any::<u8>(),
    ]
}

/// Payloads, some of which inflate to more than the limit.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-zé€𝄞]{0,60}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..1_200),
        2 => (128_usize..4_000).prop_map(|len| frame::compressed_binary(&vec![7; len])[2..].to_vec()),
        1 => (1000_u16..1020).prop_map(|code| code.to_be_bytes().to_vec()),
    ]
}

/// Frames that are mostly valid, with one byte changed at most.
fn almost_valid_bytes() -> impl Strategy<Value = Vec<u8>> {
    let frames = prop::collection::vec((opcodes(), payloads()), 0..8);
    (frames, any::<Option<(Index, u8)>>()).prop_map(|(frames, change)| {
        let mut bytes: Vec<u8> =
            frames.iter().flat_map(|(first, payload)| masked_frame(*first, payload)).collect();
        if let Some((at, byte)) = change
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// `bytes` split at `cuts`.
fn split<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|range| &bytes[range[0]..range[1]]).collect()
}

fn payload_len(message: &IncomingMessage) -> usize {
    match message {
        IncomingMessage::Text(payload)
        | IncomingMessage::Binary(payload)
        | IncomingMessage::Ping(payload)
        | IncomingMessage::Pong(payload) => payload.len(),
        IncomingMessage::Close(_) => 0,
    }
}

/// A request that is valid until something in it is changed.
const REQUEST: &str = "connection: keep-alive, Upgrade\nupgrade: websocket\nsec-websocket-version: 13\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: b, a\n\
    sec-websocket-extensions: permessage-deflate; client_max_window_bits";

#[test]
fn request_that_the_fuzzer_starts_from_is_accepted() {
    let response = fuzz::handshake(REQUEST.as_bytes()).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "b");
    assert!(response.headers().contains_key("sec-websocket-extensions"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn decoding_is_bounded_and_does_not_depend_on_how_the_input_is_split(
        bytes in prop_oneof![
            3 => almost_valid_bytes(),
            1 => prop::collection::vec(any::<u8>(), 0..2_000),
        ],
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        deflate in any::<bool>(),
    ) {
        let pieces = [split(&bytes, &[]), split(&bytes, &cuts), bytes.chunks(1).collect()];
        let reports = pieces.map(|pieces| fuzz::decode(LIMITS, deflate, pieces));
        for report in &reports {
            prop_assert_eq!(&report.messages, &reports[0].messages);
            prop_assert_eq!(report.violation, reports[0].violation);
            prop_assert!(report.buffered_bytes_max <= BUFFERED_BYTES_MAX);
        }
        let DecodeReport { messages, violation, .. } = &reports[0];
        prop_assert!(messages.iter().all(|message| payload_len(message) <= LIMITS.message_bytes_max));
        prop_assert!(violation.is_none_or(|violation| matches!(violation.code, 1002 | 1007 | 1009)));
    }

    #[test]
    fn handshake_of_arbitrary_bytes_is_accepted_in_full_or_rejected(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..3),
    ) {
        let mut almost_valid = REQUEST.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(almost_valid.len());
            almost_valid[at] = byte;
        }
        almost_valid.push(b'\n');
        almost_valid.extend(&noise);
        for bytes in [noise, almost_valid] {
            match fuzz::handshake(&bytes) {
                Ok(response) => {
                    prop_assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
                    prop_assert_eq!(response.headers()["sec-websocket-accept"].len(), 28);
                }
                Err(error) => prop_assert!(error.status().is_client_error()),
            }
        }
    }

    #[test]
    fn extensions_of_arbitrary_bytes_never_have_context_takeover(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "(permessage-deflate|[a-z_=;, \"\\\\0-9]{0,40}){0,4}".prop_map(String::into_bytes),
        ],
    ) {
        if let Some(header) = fuzz::negotiate_extensions(&bytes) {
            prop_assert!(header.contains("; server_no_context_takeover; client_no_context_takeover"));
        }
    }
}

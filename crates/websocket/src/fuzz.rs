//! Arbitrary and almost valid bytes: bounded memory, and a result that does not depend on how the bytes are
//! split.

use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use pushonce_fuzz::Input;

use crate::deflate::{deflate, inflate};
use crate::extensions::PermessageDeflate;
use crate::{
    DecoderLimits, Handshake, HandshakeError, HandshakeOptions, IncomingMessage, MessageDecoder,
    ProtocolViolation, frame,
};

const LIMITS: DecoderLimits = DecoderLimits { message_bytes_max: 1_000, fragments_max: 4 };

/// A vector grows by doubling, and a control frame has 125 bytes.
const BUFFERED_BYTES_MAX: usize = 2 * LIMITS.message_bytes_max + 2 * 125;

/// What a decoder makes of the bytes of one connection.
struct DecodeReport {
    /// All messages before the first violation.
    messages: Vec<IncomingMessage>,
    violation: Option<ProtocolViolation>,
    /// The maximum of `buffered_bytes`, measured after each message and each piece.
    buffered_bytes_max: usize,
}

fn decode<'a>(deflate: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> DecodeReport {
    let mut decoder = MessageDecoder::new(LIMITS, deflate);
    let mut report = DecodeReport { messages: Vec::new(), violation: None, buffered_bytes_max: 0 };
    for mut input in pieces {
        loop {
            let decoded = decoder.decode(&mut input);
            report.buffered_bytes_max = report.buffered_bytes_max.max(decoder.buffered_bytes());
            match decoded {
                Ok(Some(message)) => report.messages.push(message),
                Ok(None) => break,
                Err(violation) => {
                    report.violation = Some(violation);
                    return report;
                }
            }
        }
    }
    report
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

/// The frame of a server as a client sends it, masked with zeros.
fn masked(frame: &[u8]) -> Vec<u8> {
    let header_len = if frame[1] < 126 { 2 } else { 4 };
    let mut bytes = frame[..header_len].to_vec();
    bytes[1] |= 0x80;
    [bytes, vec![0; 4], frame[header_len..].to_vec()].concat()
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let fragments = [masked(&[1, 3, b'a', 0xc3, 0xa9]), masked(&[0, 0]), masked(&[0x80, 1, b'c'])];
    let frames = [
        frame::text("é€𝄞".as_bytes()),
        frame::binary(&[7; 300]),
        frame::compressed_binary(&[7; 999]),
        // More than the limit after it is inflated.
        frame::compressed_text(&[b'x'; 4_000]),
        frame::ping(b"ping"),
        frame::pong(b""),
        frame::close(1001, "bye"),
    ];
    let mut streams: Vec<_> = frames.iter().map(|frame| masked(frame)).collect();
    streams.push(streams[..5].concat());
    streams.push(fragments.concat());
    // Whether deflate is negotiated, and three places where the stream is split.
    streams.into_iter().map(|stream| [vec![1, 1, 4, 9], stream].concat()).collect()
}

#[test]
fn decoding_is_bounded_and_does_not_depend_on_how_the_input_is_split() {
    pushonce_fuzz::check!("frames", frame_seeds(), |input| {
        let mut input = Input::new(input);
        let deflate = input.flag();
        let pieces = input.split_rest();
        let stream = pieces.concat();
        let whole = decode(deflate, [&stream[..]]);
        for report in [decode(deflate, pieces), decode(deflate, stream.chunks(1))] {
            assert_eq!(report.messages, whole.messages);
            assert_eq!(report.violation, whole.violation);
            assert!(report.buffered_bytes_max <= BUFFERED_BYTES_MAX);
        }
        assert!(whole.buffered_bytes_max <= BUFFERED_BYTES_MAX);
        assert!(
            whole.messages.iter().all(|message| payload_len(message) <= LIMITS.message_bytes_max)
        );
        assert!(whole.violation.is_none_or(|found| matches!(found.code, 1002 | 1007 | 1009)));
    });
}

/// A handshake whose headers are the lines of `bytes`, written `name: value`. Lines that cannot be a header
/// are skipped.
fn handshake(bytes: &[u8]) -> Result<Response<()>, HandshakeError> {
    let mut request = Request::new(());
    for line in bytes.split(|&byte| byte == b'\n') {
        if let Some((name, value)) = parse_header(line) {
            // Fails only beyond 32,768 headers, more than any HTTP server accepts.
            let _ = request.headers_mut().try_append(name, value);
        }
    }
    let options = HandshakeOptions { subprotocols: &["a", "b"], permessage_deflate: true };
    Handshake::from_request(&request, options).map(|handshake| handshake.response())
}

fn parse_header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
}

const REQUEST: &str = "connection: keep-alive, Upgrade\nupgrade: websocket\nsec-websocket-version: 13\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: b, a\n\
    sec-websocket-extensions: permessage-deflate; client_max_window_bits";

#[test]
fn handshake_of_arbitrary_headers_is_accepted_in_full_or_rejected() {
    let response = handshake(REQUEST.as_bytes()).unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "b");
    assert!(response.headers().contains_key("sec-websocket-extensions"));

    pushonce_fuzz::check!("handshake", vec![REQUEST.into()], |input| match handshake(input) {
        Ok(response) => {
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            assert_eq!(response.headers()["sec-websocket-accept"].len(), 28);
            let protocol = response.headers().get("sec-websocket-protocol");
            assert!(protocol.is_none_or(|protocol| protocol == "a" || protocol == "b"));
        }
        Err(error) => assert!(error.status().is_client_error()),
    });
}

#[test]
fn accepted_extension_never_has_context_takeover() {
    let seeds = [
        "permessage-deflate; client_max_window_bits=\"15\"; server_max_window_bits=12",
        "x-webkit-deflate-frame, permessage-deflate; server_no_context_takeover",
    ];
    pushonce_fuzz::check!("extensions", seeds.map(Into::into).to_vec(), |input| {
        let Ok(value) = HeaderValue::from_bytes(input) else { return };
        let headers = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, value)]);
        let Ok(Some(agreed)) = PermessageDeflate::negotiate(&headers) else { return };
        let response = agreed.response_header();
        assert!(response.contains("; server_no_context_takeover; client_no_context_takeover"));
        // The response is an offer that the same rules accept, with the same result.
        let value = HeaderValue::from_str(&response).unwrap();
        let headers = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, value)]);
        assert_eq!(PermessageDeflate::negotiate(&headers), Ok(Some(agreed)));
    });
}

#[test]
fn inflated_output_is_bounded_and_restores_what_was_deflated() {
    let texts: [&[u8]; 3] = [&[7; 999], &[0; 4_000], "a message, a message, a text".as_bytes()];
    let deflated = texts.iter().filter_map(|text| deflate(text));
    let seeds = texts.iter().map(|text| text.to_vec()).chain(deflated);
    let seeds = seeds.map(|seed| [vec![2, 0], seed].concat()).collect();
    pushonce_fuzz::check!("deflate", seeds, |input| {
        let mut input = Input::new(input);
        let bytes_max = usize::from(input.u16());
        let bytes = input.rest();
        if let Ok(message) = inflate(bytes, bytes_max) {
            assert!(message.len() <= bytes_max && message.capacity() <= bytes_max + 1);
        }
        if let Some(deflated) = deflate(bytes) {
            assert!(deflated.len() < bytes.len());
            assert_eq!(inflate(&deflated, bytes.len()).as_deref(), Ok(bytes));
        }
    });
}

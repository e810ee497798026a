//! Entry points for fuzzers: arbitrary bytes in, everything that a fuzzer can check out.
//!
//! None of them does I/O or depends on earlier calls. A target of `cargo fuzz` is one line, for example
//! `fuzz_target!(|data: &[u8]| { fuzz::handshake(data).ok(); })`. The tests of this crate call them
//! with random and with almost valid input.

use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

use crate::extensions::PermessageDeflate;
use crate::{
    DecoderLimits, Handshake, HandshakeError, HandshakeOptions, IncomingMessage, MessageDecoder,
    ProtocolViolation,
};

/// The result of [`decode`].
#[derive(Debug, PartialEq, Eq)]
pub struct DecodeReport {
    /// All messages before the first violation. They must not depend on how the input was split.
    pub messages: Vec<IncomingMessage>,
    /// The first violation, where decoding ended. It must not depend on how the input was split.
    pub violation: Option<ProtocolViolation>,
    /// The maximum of [`MessageDecoder::buffered_bytes`], measured after each message and each piece.
    pub buffered_bytes_max: usize,
}

/// Decodes the bytes of one connection, which arrive in `pieces`.
pub fn decode<'a>(
    limits: DecoderLimits,
    deflate: bool,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> DecodeReport {
    let mut decoder = MessageDecoder::new(limits, deflate);
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

/// Checks a handshake whose headers are the lines of `bytes`, written `name: value`. Lines that
/// cannot be a header are skipped. The subprotocols `a` and `b` and permessage-deflate are supported.
///
/// # Errors
/// [`HandshakeError`], as from [`Handshake::from_request`].
pub fn handshake(bytes: &[u8]) -> Result<Response<()>, HandshakeError> {
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

/// Negotiates an extension. `bytes` is the value of one `Sec-WebSocket-Extensions` header. Returns
/// the value of the response header; `None` if the handshake fails or no extension is accepted.
pub fn negotiate_extensions(bytes: &[u8]) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_bytes(bytes).ok()?);
    PermessageDeflate::negotiate(&headers).ok()?.map(PermessageDeflate::response_header)
}

fn parse_header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
}

//! The opening handshake (RFC 6455, 4.2): a request in, a response out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use sha1::{Digest, Sha1};

use crate::extensions::{MalformedExtensions, PermessageDeflate};

/// From RFC 6455, 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the server supports.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeOptions<'a> {
    /// Names of subprotocols, in visible ASCII. A client that offers any must offer one of these.
    pub subprotocols: &'a [&'static str],
    /// Whether an offer of permessage-deflate may be accepted.
    pub permessage_deflate: bool,
}

/// A valid request, and what was negotiated.
#[derive(Debug, PartialEq, Eq)]
pub struct Handshake {
    subprotocol: Option<&'static str>,
    deflate: Option<PermessageDeflate>,
    accept: String,
}

/// Why a request is not a valid handshake. The text tells the client what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The method is not `GET`.
    #[error("open a WebSocket with GET")]
    Method,
    /// The request does not ask for an upgrade to WebSocket.
    #[error("this is a WebSocket: send HTTP/1.1 with Connection: Upgrade and Upgrade: websocket")]
    NoUpgrade,
    /// The client requests another version of WebSocket.
    #[error("only WebSocket version 13 is supported: send Sec-WebSocket-Version: 13")]
    Version,
    /// The key is missing, repeated or malformed.
    #[error("send Sec-WebSocket-Key once, with 16 bytes in base64")]
    Key,
    /// None of the offered subprotocols is supported.
    #[error("none of the offered subprotocols is supported; offer {}, or none", supported.join(", "))]
    Subprotocol {
        /// The supported subprotocols.
        supported: Vec<&'static str>,
    },
    /// The request has a body, which a server could take for the first frames.
    #[error("a WebSocket handshake has no body: omit Content-Length and Transfer-Encoding")]
    Body,
    /// `Sec-WebSocket-Extensions` is malformed.
    #[error(
        "Sec-WebSocket-Extensions is malformed (RFC 6455, 9.1); offer permessage-deflate, or \
         omit the header"
    )]
    Extensions,
}

impl Handshake {
    /// Checks a request and negotiates subprotocol and extension.
    ///
    /// # Errors
    /// [`HandshakeError`] for the first rule that the request violates.
    pub fn from_request<B>(
        request: &Request<B>,
        options: HandshakeOptions<'_>,
    ) -> Result<Handshake, HandshakeError> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(HandshakeError::Method);
        }
        let has_token = |header, token: &str| {
            header_tokens(headers, header).any(|t| t.eq_ignore_ascii_case(token))
        };
        // HTTP/1.0 has no upgrades, whatever the headers are.
        let is_http_1_0 = request.version() < Version::HTTP_11;
        if is_http_1_0 || !has_token(CONNECTION, "upgrade") || !has_token(UPGRADE, "websocket") {
            return Err(HandshakeError::NoUpgrade);
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(HandshakeError::Version);
        }
        let has_length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0");
        if has_length || headers.contains_key(TRANSFER_ENCODING) {
            return Err(HandshakeError::Body);
        }
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(HandshakeError::Key);
        };
        if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
            return Err(HandshakeError::Key);
        }
        let subprotocol = select_subprotocol(headers, options.subprotocols)?;
        let deflate = PermessageDeflate::negotiate(headers)
            .map_err(|MalformedExtensions| HandshakeError::Extensions)?;
        let deflate = deflate.filter(|_| options.permessage_deflate);
        Ok(Handshake { subprotocol, deflate, accept: accept_key(key.as_bytes()) })
    }

    /// The chosen subprotocol. `None` if the client offered none.
    pub fn subprotocol(&self) -> Option<&'static str> {
        self.subprotocol
    }

    /// Whether both sides may compress messages.
    pub fn permessage_deflate(&self) -> bool {
        self.deflate.is_some()
    }

    /// The response, `101 Switching Protocols`.
    pub fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(deflate) = self.deflate
            && let Ok(extension) = HeaderValue::from_str(&deflate.response_header())
        {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, extension);
        }
        if let Some(subprotocol) = self.subprotocol
            && let Ok(subprotocol) = HeaderValue::from_str(subprotocol)
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        response
    }
}

impl HandshakeError {
    /// The status of the response: 400, 405 or 426.
    pub fn status(&self) -> StatusCode {
        match self {
            HandshakeError::Method => StatusCode::METHOD_NOT_ALLOWED,
            HandshakeError::NoUpgrade | HandshakeError::Version => StatusCode::UPGRADE_REQUIRED,
            HandshakeError::Key
            | HandshakeError::Body
            | HandshakeError::Subprotocol { .. }
            | HandshakeError::Extensions => StatusCode::BAD_REQUEST,
        }
    }

    /// The header that HTTP requires in a response with this status, if any.
    pub fn required_header(&self) -> Option<(HeaderName, HeaderValue)> {
        let (name, value) = match self {
            HandshakeError::Method => (ALLOW, "GET"),
            HandshakeError::NoUpgrade => (UPGRADE, "websocket"),
            HandshakeError::Version => (SEC_WEBSOCKET_VERSION, "13"),
            _ => return None,
        };
        Some((name, HeaderValue::from_static(value)))
    }
}

/// The first offered subprotocol that is supported: a client lists them in order of preference.
fn select_subprotocol(
    headers: &HeaderMap,
    supported: &[&'static str],
) -> Result<Option<&'static str>, HandshakeError> {
    let mut offered = header_tokens(headers, SEC_WEBSOCKET_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    let selected = offered.find_map(|offer| supported.iter().copied().find(|&name| name == offer));
    selected.map(Some).ok_or_else(|| HandshakeError::Subprotocol { supported: supported.to_vec() })
}

fn accept_key(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The members of a header that is a list, over all its lines.
fn header_tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(changes: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        let usual = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for &(name, value) in usual.iter().chain(changes) {
            headers.insert(name, HeaderValue::from_static(value));
        }
        request
    }

    const OPTIONS: HandshakeOptions<'static> =
        HandshakeOptions { subprotocols: &["v1.json", "v1.proto"], permessage_deflate: true };

    fn handshake_of(changes: &[(&'static str, &'static str)]) -> Result<Handshake, HandshakeError> {
        Handshake::from_request(&request(changes), OPTIONS)
    }

    #[test]
    fn rfc_6455_example_is_accepted() {
        let handshake = handshake_of(&[]).unwrap();
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(handshake.subprotocol(), None);
        assert!(!handshake.response().headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn first_supported_subprotocol_is_chosen() {
        let offered = "chat, v1.proto, v1.json";
        let handshake = handshake_of(&[("sec-websocket-protocol", offered)]).unwrap();
        assert_eq!(handshake.subprotocol(), Some("v1.proto"));
        assert_eq!(handshake.response().headers()[SEC_WEBSOCKET_PROTOCOL], "v1.proto");
    }

    #[test]
    fn unsupported_subprotocols_are_rejected_with_the_supported_ones() {
        let error = handshake_of(&[("sec-websocket-protocol", "chat")]).unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        let text = error.to_string();
        assert!(text.contains("v1.json") && text.contains("v1.proto"), "{text}");
    }

    #[test]
    fn each_violated_rule_has_its_own_status_and_header() {
        let version = handshake_of(&[("sec-websocket-version", "8")]).unwrap_err();
        let required = (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        assert_eq!(version.required_header(), Some(required));
        assert_eq!(version.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(handshake_of(&[("sec-websocket-key", "dGVu")]), Err(HandshakeError::Key));
        assert_eq!(handshake_of(&[("connection", "close")]), Err(HandshakeError::NoUpgrade));
        for body in [("content-length", "5"), ("transfer-encoding", "chunked")] {
            assert_eq!(handshake_of(&[body]), Err(HandshakeError::Body));
        }
        assert!(handshake_of(&[("content-length", "0")]).is_ok());
        let mut post = request(&[]);
        *post.method_mut() = Method::POST;
        assert_eq!(Handshake::from_request(&post, OPTIONS), Err(HandshakeError::Method));
        let extensions =
            handshake_of(&[("sec-websocket-extensions", "permessage-deflate;")]).unwrap_err();
        assert_eq!(extensions.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn negotiated_extension_is_in_the_response_and_absent_otherwise() {
        let offer = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
        let extensions = |handshake: Result<Handshake, HandshakeError>| {
            handshake.unwrap().response().headers().get(SEC_WEBSOCKET_EXTENSIONS).cloned()
        };
        let header = extensions(handshake_of(&offer)).unwrap();
        assert!(header.to_str().unwrap().starts_with("permessage-deflate; server_no_context"));
        let disabled = HandshakeOptions { permessage_deflate: false, ..OPTIONS };
        let handshake = Handshake::from_request(&request(&offer), disabled);
        assert_eq!(extensions(handshake), None, "disabled");
        assert_eq!(extensions(handshake_of(&[])), None);
    }
}

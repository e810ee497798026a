//! The opening handshake of RFC 6455 (4.2): a request in, an answer out.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ALLOW, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use pushonce_proto::client::{Encoding, ErrorCode};
use sha1::{Digest, Sha1};

use super::extensions::{MalformedExtensions, PermessageDeflate};
use crate::http::HttpError;

/// From RFC 6455, 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request that may become a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// What the frames will be.
    pub(crate) encoding: Encoding,
    /// Whether messages may be deflated.
    pub(super) deflate: Option<PermessageDeflate>,
    /// Whether the client named a subprotocol, and so must hear which was chosen.
    has_subprotocol: bool,
    accept: String,
}

/// Why it may not; each is answered with what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("open a WebSocket with GET")]
    Method,
    #[error("this is a WebSocket: send HTTP/1.1 with Connection: Upgrade and Upgrade: websocket")]
    NoUpgrade,
    #[error("only WebSocket version 13 is spoken here: send Sec-WebSocket-Version: 13")]
    Version,
    #[error("Sec-WebSocket-Key must be there once, 16 bytes in base64")]
    Key,
    #[error(
        "none of the offered subprotocols is known; offer {json}, {proto}, or none for JSON",
        json = Encoding::Json.subprotocol(),
        proto = Encoding::Proto.subprotocol()
    )]
    Subprotocol,
    #[error(
        "Sec-WebSocket-Extensions is not written as RFC 6455, 9.1, has it; \
         offer permessage-deflate, or leave it out"
    )]
    Extensions,
}

impl Handshake {
    /// Checks a request; `compression` is whether an offer to deflate may be taken.
    ///
    /// # Errors
    /// [`Refused`] for the first rule that is broken.
    pub(crate) fn from_request<B>(
        request: &Request<B>,
        compression: bool,
    ) -> Result<Handshake, UpgradeError> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(UpgradeError::Method);
        }
        let has_token = |header, token: &str| {
            header_tokens(headers, header).any(|t| t.eq_ignore_ascii_case(token))
        };
        // HTTP/1.0 knows no upgrade, whatever its headers say.
        let is_http_1_0 = request.version() < Version::HTTP_11;
        if is_http_1_0 || !has_token(CONNECTION, "upgrade") || !has_token(UPGRADE, "websocket") {
            return Err(UpgradeError::NoUpgrade);
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(UpgradeError::Version);
        }
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else { return Err(UpgradeError::Key) };
        if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
            return Err(UpgradeError::Key);
        }
        let mut offered = header_tokens(headers, SEC_WEBSOCKET_PROTOCOL).peekable();
        let has_subprotocol = offered.peek().is_some();
        let encoding = match has_subprotocol {
            true => {
                offered.find_map(Encoding::from_subprotocol).ok_or(UpgradeError::Subprotocol)?
            }
            false => Encoding::Json,
        };
        let deflate = PermessageDeflate::negotiate(headers)
            .map_err(|MalformedExtensions| UpgradeError::Extensions)?;
        let deflate = deflate.filter(|_| compression);
        Ok(Handshake { encoding, deflate, has_subprotocol, accept: accept_key(key.as_bytes()) })
    }

    /// `101 Switching Protocols`.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(agreed) = self.deflate
            && let Ok(agreed) = HeaderValue::from_str(&agreed.response_header())
        {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, agreed);
        }
        if self.has_subprotocol {
            let chosen = HeaderValue::from_static(self.encoding.subprotocol());
            headers.insert(SEC_WEBSOCKET_PROTOCOL, chosen);
        }
        response
    }
}

impl UpgradeError {
    /// The answer, with the headers that HTTP asks for.
    pub(crate) fn response(&self) -> Response<Body> {
        let (status, header) = match self {
            UpgradeError::Method => (StatusCode::METHOD_NOT_ALLOWED, Some((ALLOW, "GET"))),
            UpgradeError::NoUpgrade => (StatusCode::UPGRADE_REQUIRED, Some((UPGRADE, "websocket"))),
            UpgradeError::Version => {
                (StatusCode::UPGRADE_REQUIRED, Some((SEC_WEBSOCKET_VERSION, "13")))
            }
            UpgradeError::Key | UpgradeError::Subprotocol | UpgradeError::Extensions => {
                (StatusCode::BAD_REQUEST, None)
            }
        };
        let error = HttpError::new(status, ErrorCode::BadRequest.as_str(), self.to_string());
        let mut response = error.into_http_response();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
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

    fn handshake_of(changes: &[(&'static str, &'static str)]) -> Result<Handshake, UpgradeError> {
        Handshake::from_request(&request(changes), true)
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let handshake = handshake_of(&[]).unwrap();
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(handshake.encoding, Encoding::Json);
        assert!(!handshake.response().headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn first_known_subprotocol_is_chosen() {
        let offered = "chat, pushonce.v1.proto, pushonce.v1.json";
        let handshake = handshake_of(&[("sec-websocket-protocol", offered)]).unwrap();
        assert_eq!(handshake.encoding, Encoding::Proto);
        assert_eq!(handshake.response().headers()[SEC_WEBSOCKET_PROTOCOL], "pushonce.v1.proto");
    }

    #[test]
    fn unknown_subprotocols_are_rejected_with_the_known_ones() {
        let error = handshake_of(&[("sec-websocket-protocol", "chat")]).unwrap_err();
        assert_eq!(error.response().status(), StatusCode::BAD_REQUEST);
        let text = error.to_string();
        assert!(text.contains("pushonce.v1.json") && text.contains("pushonce.v1.proto"), "{text}");
    }

    #[test]
    fn each_broken_rule_has_its_own_response() {
        let version = handshake_of(&[("sec-websocket-version", "8")]).unwrap_err();
        assert_eq!(version.response().headers()[SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(version.response().status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(handshake_of(&[("sec-websocket-key", "dGVu")]), Err(UpgradeError::Key));
        assert_eq!(handshake_of(&[("connection", "close")]), Err(UpgradeError::NoUpgrade));
        let mut post = request(&[]);
        *post.method_mut() = Method::POST;
        assert_eq!(Handshake::from_request(&post, true), Err(UpgradeError::Method));
        let extensions =
            handshake_of(&[("sec-websocket-extensions", "permessage-deflate;")]).unwrap_err();
        assert_eq!(extensions.response().status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn negotiated_extension_is_in_the_response_and_absent_otherwise() {
        let offer = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
        let extensions = |handshake: Result<Handshake, UpgradeError>| {
            handshake.unwrap().response().headers().get(SEC_WEBSOCKET_EXTENSIONS).cloned()
        };
        let agreed = extensions(handshake_of(&offer)).unwrap();
        assert!(agreed.to_str().unwrap().starts_with("permessage-deflate; server_no_context"));
        assert_eq!(
            extensions(Handshake::from_request(&request(&offer), false)),
            None,
            "switched off"
        );
        assert_eq!(extensions(handshake_of(&[])), None);
    }
}

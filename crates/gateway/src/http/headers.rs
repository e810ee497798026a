//! Request headers of a publish: the headers that describe the body, and unsupported headers that would
//! change its meaning.

use http::header::{
    CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, StatusCode};
use pushonce_core::{ContentType, InvalidPublish, MessageKey};
use pushonce_proto::client::ErrorCode;

use super::HttpError;

/// The header of draft-ietf-httpapi-idempotency-key-header.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The default content type of some clients, for example of `curl -d`.
const FORM_URLENCODED: &str = "application/x-www-form-urlencoded";

/// Headers of conditional requests. A publish supports no conditions, and to ignore one would publish a
/// message that the client wanted published only under that condition.
const CONDITIONS: [HeaderName; 5] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

/// Rejects headers that change the meaning of the body.
pub(super) fn check_supported(headers: &HeaderMap) -> Result<(), HttpError> {
    let has_other_coding = |name, plain: &str| {
        let mut all =
            headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|&b| b == b','));
        all.any(|coding| !coding.trim_ascii().eq_ignore_ascii_case(plain.as_bytes()))
    };
    if has_other_coding(CONTENT_ENCODING, "identity") {
        let text = "Content-Encoding is not supported; send the payload uncompressed";
        return Err(bad_header(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    if has_other_coding(TRANSFER_ENCODING, "chunked") {
        let text = "the transfer coding is not supported; use chunked or Content-Length";
        return Err(bad_header(StatusCode::NOT_IMPLEMENTED, text));
    }
    if headers.contains_key(CONTENT_RANGE) {
        let text = "Content-Range is not supported; send the whole message in one request";
        return Err(bad_header(StatusCode::BAD_REQUEST, text));
    }
    match CONDITIONS.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let text = format!("{name} is not supported on a publish; remove it");
            Err(bad_header(StatusCode::BAD_REQUEST, text))
        }
    }
}

fn bad_header(status: StatusCode, text: impl Into<String>) -> HttpError {
    HttpError::new(status, ErrorCode::BadRequest.as_str(), text)
}

/// Parses the idempotency key. The draft defines it as a quoted string of RFC 9651; a key without quotation
/// marks is accepted and equals the quoted one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<MessageKey>, HttpError> {
    let misplaced_key = headers.keys().find(|name| is_misplaced_key(name));
    if let Some(name) = misplaced_key {
        let text = format!("unknown header {name}; send the key of a publish as Idempotency-Key");
        return Err(bad_header(StatusCode::BAD_REQUEST, text));
    }
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(bad_header(
            StatusCode::BAD_REQUEST,
            "Idempotency-Key occurs more than once; send one",
        ));
    }
    let text = std::str::from_utf8(line.as_bytes()).map_err(|_| InvalidPublish::Key)?;
    let key = match text.starts_with('"') {
        true => unquote(text).ok_or_else(|| {
            let text =
                "Idempotency-Key is not a valid quoted string of RFC 9651; fix the quotation";
            bad_header(StatusCode::BAD_REQUEST, text)
        })?,
        false => text.to_owned(),
    };
    Ok(Some(MessageKey::new(&key)?))
}

fn is_misplaced_key(name: &HeaderName) -> bool {
    name != IDEMPOTENCY_KEY && name.as_str().contains("idempotency")
}

/// Returns the content of a quoted string (RFC 9651, 3.3.3): printable ASCII, with `"` and `\` escaped.
fn unquote(text: &str) -> Option<String> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            '"' => return None,
            ' '..='~' => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

/// Returns the content type that the client declared, or else the type detected from the payload.
pub(super) fn content_type(headers: &HeaderMap, payload: &[u8]) -> Result<ContentType, HttpError> {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let Some(line) = lines.next() else { return Ok(ContentType::detect(payload)) };
    if lines.next().is_some() {
        return Err(bad_header(
            StatusCode::BAD_REQUEST,
            "Content-Type occurs more than once; send one",
        ));
    }
    let text = line.to_str().map_err(|_| InvalidPublish::ContentType)?;
    let essence = text.split(';').next().unwrap_or(text).trim();
    if essence.eq_ignore_ascii_case(FORM_URLENCODED) {
        return Ok(ContentType::detect(payload));
    }
    Ok(ContentType::parse(text)?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_that_change_the_meaning_of_a_body_are_rejected() {
        let status = |name, value| {
            check_supported(&headers(&[(name, value)]))
                .err()
                .map(|fault| fault.into_http_response().status().as_u16())
        };
        assert_eq!(status("content-encoding", "gzip"), Some(415));
        assert_eq!(status("content-encoding", "identity, br"), Some(415));
        assert_eq!(status("content-encoding", "Identity"), None);
        assert_eq!(status("transfer-encoding", "gzip, chunked"), Some(501));
        assert_eq!(status("transfer-encoding", "chunked"), None);
        assert_eq!(status("content-range", "bytes 0-1/4"), Some(400));
        assert_eq!(status("if-match", "\"7:1\""), Some(400));
        assert_eq!(status("if-none-match", "*"), Some(400));
        assert_eq!(status("accept-encoding", "gzip"), None);
    }

    #[test]
    fn quoted_and_bare_keys_are_the_same_key() {
        let key = |value| {
            idempotency_key(&headers(&[("idempotency-key", value)])).map(|key| key.unwrap())
        };
        assert_eq!(key("a1").unwrap(), MessageKey::new("a1").unwrap());
        assert_eq!(key("\"a1\"").unwrap(), MessageKey::new("a1").unwrap());
        assert_eq!(key(r#""a\"1\\""#).unwrap(), MessageKey::new(r#"a"1\"#).unwrap());
        for broken in ["\"", "\"a", "\"a\"b\"", r#""a\b""#, "\"\"", ""] {
            assert!(key(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn repeated_or_misplaced_key_is_rejected() {
        assert!(
            idempotency_key(&headers(&[("idempotency-key", "a"), ("idempotency-key", "a")]))
                .is_err()
        );
        assert!(idempotency_key(&headers(&[("x-idempotency-key", "a")])).is_err());
        assert_eq!(idempotency_key(&headers(&[("host", "a")])).unwrap(), None);
    }

    #[test]
    fn content_type_of_form_requests_is_guessed() {
        let content_type_of =
            |value| content_type(&headers(&[("content-type", value)]), b"{}").unwrap();
        assert_eq!(content_type_of("application/x-www-form-urlencoded"), ContentType::Json);
        assert_eq!(
            content_type_of("Application/X-WWW-Form-Urlencoded; charset=UTF-8"),
            ContentType::Json
        );
        assert_eq!(content_type_of("text/html"), ContentType::Other("text/html".into()));
        assert_eq!(content_type(&headers(&[]), b"goal").unwrap(), ContentType::Text);
    }
}

//! Request headers of a publish: those that say what the body is, and those that would change what it
//! means and are not supported.

use http::header::{
    CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, StatusCode};
use pushonce_core::{ContentType, InvalidPublish, MessageKey};
use pushonce_proto::client::ErrorCode;

use super::HttpError;

/// draft-ietf-httpapi-idempotency-key-header.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a client sends that was told nothing, curl's `-d` for one.
const FORM_URLENCODED: &str = "application/x-www-form-urlencoded";

/// Conditions of a request. A publish has none, and to ignore one would place a message that the
/// client wanted placed under the condition only.
const CONDITIONS: [HeaderName; 5] =
    [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

/// Refuses what would make the body something else than its bytes.
pub(super) fn check_supported(headers: &HeaderMap) -> Result<(), HttpError> {
    let has_other_coding = |name, plain: &str| {
        let mut all =
            headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|&b| b == b','));
        all.any(|coding| !coding.trim_ascii().eq_ignore_ascii_case(plain.as_bytes()))
    };
    if has_other_coding(CONTENT_ENCODING, "identity") {
        let text = "Content-Encoding is not supported: send the payload as it is to be received";
        return Err(bad_header(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    if has_other_coding(TRANSFER_ENCODING, "chunked") {
        let text = "the only transfer coding that is supported is chunked";
        return Err(bad_header(StatusCode::NOT_IMPLEMENTED, text));
    }
    if headers.contains_key(CONTENT_RANGE) {
        let text = "Content-Range is not supported: a publish is one whole message";
        return Err(bad_header(StatusCode::BAD_REQUEST, text));
    }
    match CONDITIONS.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let text = format!("{name} is not supported: a publish has no condition; remove it");
            Err(bad_header(StatusCode::BAD_REQUEST, text))
        }
    }
}

fn bad_header(status: StatusCode, text: impl Into<String>) -> HttpError {
    HttpError::new(status, ErrorCode::BadRequest.as_str(), text)
}

/// The idempotency key. The draft writes it as a string of RFC 9651, in quotation marks; clients that
/// leave them out mean the same key.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<MessageKey>, HttpError> {
    let misplaced_key = headers.keys().find(|name| is_misplaced_key(name));
    if let Some(name) = misplaced_key {
        let text = format!("{name} is unknown; the key of a publish is in Idempotency-Key");
        return Err(bad_header(StatusCode::BAD_REQUEST, text));
    }
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(bad_header(
            StatusCode::BAD_REQUEST,
            "Idempotency-Key is there twice; send one",
        ));
    }
    let text = std::str::from_utf8(line.as_bytes()).map_err(|_| InvalidPublish::Key)?;
    let key = match text.starts_with('"') {
        true => unquote(text).ok_or_else(|| {
            let text = "Idempotency-Key begins with a quotation mark and is no string of RFC 9651";
            bad_header(StatusCode::BAD_REQUEST, text)
        })?,
        false => text.to_owned(),
    };
    Ok(Some(MessageKey::new(&key)?))
}

fn is_misplaced_key(name: &HeaderName) -> bool {
    name != IDEMPOTENCY_KEY && name.as_str().contains("idempotency")
}

/// The content of a string (RFC 9651, 3.3.3): visible ASCII, with `\"` and `\\` for the two.
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

/// What the payload is, as the client says or, where it does not, as it looks.
pub(super) fn content_type(headers: &HeaderMap, payload: &[u8]) -> Result<ContentType, HttpError> {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let Some(line) = lines.next() else { return Ok(ContentType::detect(payload)) };
    if lines.next().is_some() {
        return Err(bad_header(StatusCode::BAD_REQUEST, "Content-Type is there twice; send one"));
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

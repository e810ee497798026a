//! The representations of a resource: entity tags, compression, and 304.
//!
//! Every representation has its own strong tag: `"12:4051"`, and `"12:4051-gz"` where it is compressed. A body is
//! compressed once for all callers.

use std::io::Write as _;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use pushonce_core::Topic;

use super::body_cache::BodyCache;

/// Bodies below are sent as they are: with the headers, compression saves no packet.
const COMPRESSED_BYTES_MIN: usize = 512;

/// Bodies above are sent as they are: a lane compresses 100 MiB a second, and serves nobody meanwhile.
const COMPRESSED_BYTES_MAX: usize = 256 << 10;

/// A body whose bytes never change, named by a tag.
pub(super) struct Resource<'a> {
    pub(super) topic: &'a Topic,
    /// The tag without quotation marks.
    pub(super) tag: String,
    pub(super) content_type: &'a str,
    /// Whether the body may be compressed.
    pub(super) may_compress: bool,
}

impl Resource<'_> {
    /// The response to a request with these headers: the body in the representation that the client accepts, or
    /// 304.
    pub(super) fn respond(
        &self,
        request_headers: &HeaderMap,
        cache: &BodyCache,
        body: Bytes,
    ) -> Response {
        let compressed = self.compressed(request_headers, cache, &body);
        let etag = format!("\"{}{}\"", self.tag, if compressed.is_some() { "-gz" } else { "" });
        let mut response = if etag_matches(request_headers, &etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            self.with_body(compressed, body)
        };
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(ETAG, etag);
        }
        response
    }

    fn with_body(&self, compressed: Option<Bytes>, body: Bytes) -> Response {
        let is_compressed = compressed.is_some();
        let mut response = Response::new(Body::from(compressed.unwrap_or(body)));
        let headers = response.headers_mut();
        if let Ok(content_type) = HeaderValue::from_str(self.content_type) {
            headers.insert(CONTENT_TYPE, content_type);
        }
        if is_compressed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// The compressed body, if the client accepts it and it is smaller.
    fn compressed(
        &self,
        request_headers: &HeaderMap,
        cache: &BodyCache,
        body: &Bytes,
    ) -> Option<Bytes> {
        let is_suitable = self.may_compress
            && (COMPRESSED_BYTES_MIN..=COMPRESSED_BYTES_MAX).contains(&body.len())
            && is_text(self.content_type)
            && accepts_gzip(request_headers);
        if !is_suitable {
            return None;
        }
        // An empty body in the cache: compression does not make it smaller.
        let compressed = cache.get_or_make(self.topic, &format!("{}-gz", self.tag), || {
            gzip(body).filter(|compressed| compressed.len() < body.len()).unwrap_or_default()
        });
        (!compressed.is_empty()).then_some(compressed)
    }
}

/// Compresses a body. The result is the same on every node, as a strong tag requires: no time is written.
fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// Whether payloads of this type become smaller: images, audio and video are compressed already.
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || matches!(essence.as_str(), "application/json" | "application/xml" | "image/svg+xml")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
}

/// Whether `Accept-Encoding` names gzip, or everything, with a weight above zero (RFC 9110, 12.5.3).
fn accepts_gzip(request_headers: &HeaderMap) -> bool {
    let lines = request_headers.get_all(ACCEPT_ENCODING).iter();
    let codings = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let (mut gzip, mut any) = (None, None);
    for coding in codings {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=").or(parameters.trim().strip_prefix("Q="));
        let is_accepted = weight.is_none_or(|q| q.trim().parse::<f32>().is_ok_and(|q| q > 0.0));
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(is_accepted),
            "*" => any = Some(is_accepted),
            _ => {}
        }
    }
    gzip.or(any).unwrap_or(false)
}

/// Whether `If-None-Match` contains the ETag (RFC 9110, 13.1.2: weak comparison).
fn etag_matches(request_headers: &HeaderMap, etag: &str) -> bool {
    request_headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_none_match_accepts_lists_weak_tags_and_star() {
        for (if_none_match, matches) in [
            ("\"1:2\"", true),
            ("\"1:1\", \"1:2\"", true),
            ("W/\"1:2\"", true),
            ("*", true),
            ("\"1:22\"", false),
            ("\"1:2-gz\"", false),
            ("1:2", false),
        ] {
            let headers =
                HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(if_none_match))]);
            assert_eq!(etag_matches(&headers, "\"1:2\""), matches, "{if_none_match}");
        }
    }

    #[test]
    fn gzip_is_used_only_where_the_client_accepts_it() {
        for (accept_encoding, accepts) in [
            ("gzip", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("br, GZIP;q=0.1", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0, *", false),
            ("br", false),
            ("identity", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(accept_encoding);
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value)]);
            assert_eq!(accepts_gzip(&headers), accepts, "{accept_encoding}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn compressed_body_is_the_same_each_time() {
        let body = "score ".repeat(1_000);
        assert_eq!(gzip(body.as_bytes()), gzip(body.as_bytes()));
        assert!(gzip(body.as_bytes()).is_some_and(|gzip| gzip.len() < 200));
    }
}

//! A static file that is embedded in the binary.
//!
//! The crates `rust-embed` and `axum-embed` do this for folders; their users still set the security headers.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::{HeaderMap, StatusCode, header};

/// Allows only this host: no inline script, no other origin, no embedding in a frame. `{connect}` stands for the
/// sources of requests.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
                      connect-src {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The policy of a page that sends requests to its own host and to `origins`.
pub(crate) fn content_security_policy(origins: &[String]) -> String {
    let sources: String = origins.iter().map(|origin| format!(" {origin}")).collect();
    CONTENT_SECURITY_POLICY.replace("{connect}", &format!("'self'{sources}"))
}

#[derive(Clone, Copy)]
pub(crate) struct Asset {
    pub path: &'static str,
    pub content_type: &'static str,
    pub body: &'static str,
}

impl Asset {
    pub(crate) const fn html(path: &'static str, body: &'static str) -> Asset {
        Asset { path, content_type: "text/html; charset=utf-8", body }
    }

    pub(crate) const fn css(path: &'static str, body: &'static str) -> Asset {
        Asset { path, content_type: "text/css; charset=utf-8", body }
    }

    pub(crate) const fn js(path: &'static str, body: &'static str) -> Asset {
        Asset { path, content_type: "text/javascript; charset=utf-8", body }
    }

    /// The route of the file, with a content security policy that allows requests to `origins`.
    pub(crate) fn route<S: Clone + Send + Sync + 'static>(
        self,
        origins: &[String],
    ) -> MethodRouter<S> {
        let etag = self.etag();
        let policy = content_security_policy(origins);
        get(move |headers: HeaderMap| async move { self.respond(&headers, &etag, &policy) })
    }

    /// Responds with the file or with 304. The files of one build belong together, so a browser must
    /// revalidate its copy each time.
    fn respond(self, request_headers: &HeaderMap, etag: &str, policy: &str) -> Response {
        let headers = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "no-cache"),
            (header::ETAG, etag),
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        if request_headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == etag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, self.body).into_response()
    }

    fn etag(self) -> String {
        let mut hasher = DefaultHasher::new();
        self.body.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}

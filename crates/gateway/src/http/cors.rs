//! Headers for browsers: any page may read topics and publish, and nothing that a publisher sent is run
//! as a page of this server.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONTENT_SECURITY_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, StatusCode};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");

/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// The answer to `OPTIONS` at any path, which browsers send before a publish with a content type of its
/// own. A browser reads the real answer only after this one allowed it, so it must not be an error, even
/// where the real answer is one.
pub(crate) fn preflight() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let allowed = "content-type, idempotency-key, if-none-match";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Marks an answer that tells of the inside of the cluster: no page of another site may read it.
#[derive(Clone, Copy, Debug)]
pub struct SameOriginOnly;

/// Adds what every answer of the port needs, errors included: a page that cannot read an error sees a
/// network failure.
pub(crate) fn add_headers(mut response: Response) -> Response {
    // CORS does not apply to WebSockets, and a reconnect storm is no time for bytes that nobody reads.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if response.extensions().get::<SameOriginOnly>().is_some() {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let exposed = HeaderValue::from_static("etag, pushonce-position, retry-after");
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}

/// The same as a middleware, for the pages of a node that is not a member yet.
pub async fn allow_any_origin(request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    add_headers(if is_preflight { preflight() } else { next.run(request).await })
}

/// Keeps a browser from running a payload as a page of this server, whatever type its publisher gave it.
pub(super) fn sandbox(response: &mut Response) {
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
}

//! Response headers for browsers. Pages of any origin may read topics and publish, and a browser never runs
//! a payload as a page of this server.

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

/// How long a browser may cache the preflight response, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// The response to `OPTIONS` on any path. Browsers send this preflight before a publish with a custom content
/// type and read the actual response only if the preflight succeeded. It must therefore succeed even where
/// the actual request fails.
pub(crate) fn preflight() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let allowed = "content-type, idempotency-key, if-none-match, authorization";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Response extension that marks internals of the cluster: pages of other origins must not read the response.
#[derive(Clone, Copy, Debug)]
pub struct SameOriginOnly;

/// Adds the headers that every response needs, errors included: a page that may not read an error response
/// sees only a network failure.
pub(crate) fn add_headers(mut response: Response) -> Response {
    // CORS does not apply to WebSockets, and in a reconnect storm unused header bytes are a cost.
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
    let exposed =
        HeaderValue::from_static("etag, pushonce-position, retry-after, www-authenticate");
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}

/// Middleware that answers preflights and adds the CORS headers, for the routes of a node that is not a
/// member yet.
pub async fn allow_any_origin(request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    add_headers(if is_preflight { preflight() } else { next.run(request).await })
}

/// Prevents a browser from running a payload as a page of this server, regardless of its content type.
pub(super) fn sandbox(response: &mut Response) {
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
}

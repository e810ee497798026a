//! Response headers for browsers: which pages may read a response, and that no response is active content on
//! the origin of the node.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONTENT_SECURITY_POLICY,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::page_policy::{PageAccess, PagePolicy};
use super::request_check;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");

/// How long a browser may cache the preflight response, in seconds. Also how long a page keeps access after
/// its origin was removed from the list, for requests that need a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// The response to `OPTIONS` on any path. Browsers send this preflight before a publish with a custom content
/// type and read the actual response only if the preflight succeeded. It must therefore succeed even where
/// the actual request fails. A preflight of a foreign origin does not get here.
pub(crate) fn preflight() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let allowed = "content-type, idempotency-key, if-none-match, authorization, last-event-id";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Response extension that marks internals of the cluster: pages of other origins must not read the response.
#[derive(Clone, Copy, Debug)]
pub struct SameOriginOnly;

/// Adds the headers that every response needs, errors included: a page that may not read an error response
/// sees only a network failure. A page of the node itself brings its own content security policy.
pub(crate) fn add_headers(
    mut response: Response,
    access: &PageAccess,
    policy: &PagePolicy,
) -> Response {
    // CORS does not apply to WebSockets, and in a reconnect storm unused header bytes are a cost.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let is_internal = response.extensions().get::<SameOriginOnly>().is_some();
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("sandbox; default-src 'none'; frame-ancestors 'none'"));
    // Which pages may embed the response without CORS, for example as an image.
    let embedding = match access {
        PageAccess::Any if !is_internal => "cross-origin",
        _ => "same-origin",
    };
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static(embedding));
    if policy.varies_by_origin() {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    let allowed = match access {
        PageAccess::Listed(origin) if !is_internal => origin.clone(),
        PageAccess::Any if !is_internal => HeaderValue::from_static("*"),
        _ => return response,
    };
    // Never `Access-Control-Allow-Credentials`: no cookie is a credential here.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    let exposed =
        HeaderValue::from_static("etag, pushonce-position, retry-after, www-authenticate");
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}

/// Middleware with the checks and headers of the gateway, for the routes of a node that is not a member yet.
pub async fn apply_page_policy(
    State(policy): State<PagePolicy>,
    request: Request,
    next: Next,
) -> Response {
    let access = match request_check::check(&request, &policy, false) {
        Ok(access) => access,
        Err(rejection) => return rejection.into_response(&policy),
    };
    let is_preflight = request.method() == Method::OPTIONS;
    let response = if is_preflight { preflight() } else { next.run(request).await };
    add_headers(response, &access, &policy)
}

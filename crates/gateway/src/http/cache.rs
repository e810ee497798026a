//! Who may keep a copy of a response, by the settings of the topic's namespace.

use axum::response::Response;
use http::HeaderValue;
use http::header::{AUTHORIZATION, CACHE_CONTROL, VARY};
use pushonce_core::Topic;

use super::HttpState;

/// Caches must revalidate: the next message makes the response outdated. The ETag makes that cheap.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// Only for this caller, and not even on its disk.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-store");

/// Sets the caching rules. Topics that everyone may read may be kept by shared caches, for as long as their
/// namespace says; all others by nobody. A response that sets rules of its own keeps them, unless it is private.
pub(super) fn set_rules(response: &mut Response, http: &HttpState, topic: &Topic) {
    let view = http.view.borrow();
    let access = &view.namespaces.for_topic(topic).access;
    let is_public = http.access.is_open() || access.anonymous_read;
    let rule = match access.cache_max_age_s {
        _ if !is_public => Some(PRIVATE),
        0 => None,
        seconds => HeaderValue::from_str(&format!("public, max-age={seconds}")).ok(),
    };
    let headers = response.headers_mut();
    match rule {
        Some(rule) => {
            headers.insert(CACHE_CONTROL, rule);
        }
        None => {
            headers.entry(CACHE_CONTROL).or_insert(REVALIDATE);
        }
    }
    headers.append(VARY, HeaderValue::from_name(AUTHORIZATION));
}

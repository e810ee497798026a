//! Who may keep a copy of a response, by the settings of the topic's namespace.

use axum::response::Response;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, VARY};
use pushonce_core::Topic;

use super::HttpState;

/// What a response shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheSubject {
    /// The newest of the topic: the next message makes it outdated.
    Newest,
    /// A full page of history: its bytes never change.
    Past,
    /// The answer to one caller at one moment.
    Moment,
}

/// Caches must revalidate: the next message makes the response outdated. The ETag makes that cheap.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// Only for this caller, and not even on its disk.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-store");

/// For the cache of the browser: the namespace does not allow shared caches.
const PAST_PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

const PAST_PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// How long a cache may serve an outdated response while it fetches the next, in seconds: callers do not wait for
/// the node, and continue from the position of the response.
const STALE_WHILE_REVALIDATE_S: u32 = 5;

/// The request headers that select the response.
const SELECTED_BY: HeaderValue = HeaderValue::from_static("authorization, accept, accept-encoding");

/// Sets the caching rules. Topics that everyone may read may be kept by shared caches, for as long as their
/// namespace says; all others by nobody, also not the past: every read is checked with the grants of its moment. A
/// response that sets rules of its own keeps them, unless it is private.
pub(super) fn set_rules(
    response: &mut Response,
    http: &HttpState,
    topic: &Topic,
    subject: CacheSubject,
) {
    let is_public = is_public(http, topic);
    let max_age_s = http.view.borrow().namespaces.for_topic(topic).access.cache_max_age_s;
    let headers = response.headers_mut();
    let rule = match (subject, max_age_s) {
        _ if !is_public => PRIVATE,
        (CacheSubject::Moment, _) => PRIVATE,
        (CacheSubject::Past, 0) => PAST_PRIVATE,
        (CacheSubject::Past, _) => PAST_PUBLIC,
        (CacheSubject::Newest, 0) => headers.remove(CACHE_CONTROL).unwrap_or(REVALIDATE),
        (CacheSubject::Newest, seconds) => {
            let text = format!(
                "public, max-age={seconds}, stale-while-revalidate={STALE_WHILE_REVALIDATE_S}"
            );
            HeaderValue::from_str(&text).unwrap_or(REVALIDATE)
        }
    };
    headers.insert(CACHE_CONTROL, rule);
    headers.append(VARY, SELECTED_BY);
}

/// Whether everyone may read the topic.
pub(super) fn is_public(http: &HttpState, topic: &Topic) -> bool {
    http.access.is_open() || http.view.borrow().namespaces.for_topic(topic).access.anonymous_read
}

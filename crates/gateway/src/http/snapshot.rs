//! `GET /topics/{topic}`: the newest message as it was published, or the last few as JSON; with
//! `?audience`, how many watch.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pushonce_core::{Message, Page, Topic};
use pushonce_proto::client::{self, Encoding, ErrorCode};

use super::{Fault, Http, audience, cors, readable, topic};
use crate::query;

const POSITION: HeaderName = HeaderName::from_static("pushonce-position");

/// As many as a topic's history keeps by default: what may be asked for whatever its namespace keeps.
const LAST_MAX: u32 = 1_000;

/// Kept by nobody without asking: the next message makes it wrong. Asking is cheap, by the ETag.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// What the query asks for.
enum Params {
    Newest,
    Last(u32),
    Audience,
}

pub(super) async fn get(
    State(http): State<Http>,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match find(&http, path, query.as_deref().unwrap_or_default()).await {
        Ok(Found::Newest(message)) => newest(&message, &headers),
        Ok(Found::Last(topic, page)) => last(&topic, &page),
        Ok(Found::Audience(response)) => response,
        Err(fault) => fault.answer(),
    }
}

enum Found {
    Newest(std::sync::Arc<Message>),
    Last(Topic, Page),
    Audience(Response),
}

async fn find(
    http: &Http,
    path: Result<Path<String>, PathRejection>,
    query: &str,
) -> Result<Found, Fault> {
    let topic = readable(topic(path)?)?;
    match params(query, last_max(http, &topic))? {
        Params::Audience => Ok(Found::Audience(audience::get(http, topic).await?)),
        Params::Last(count) => messages(http, topic, Some(count)).await,
        Params::Newest => messages(http, topic, None).await,
    }
}

/// How many messages of a topic may be asked for: more would not be there. However many they are, their
/// payloads are no larger together than a history may be (`History::BYTES_CAP`).
fn last_max(http: &Http, topic: &Topic) -> u32 {
    http.view.borrow().namespaces.of(topic).history.count_max.max(LAST_MAX)
}

fn params(query: &str, last_max: u32) -> Result<Params, Fault> {
    let pairs = query::pairs(query)?;
    let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let last = |count: &str| match count.parse() {
        Ok(count) if (1..=last_max).contains(&count) => Ok(Params::Last(count)),
        _ => Err(bad(format!("last is a number from 1 to {last_max}"))),
    };
    match *pairs {
        [] => Ok(Params::Newest),
        [("audience", "" | "true")] => Ok(Params::Audience),
        [("last", count)] => last(count),
        _ if pairs.iter().any(|(name, _)| *name == "audience") => {
            Err(bad("ask for ?audience alone, without a value".to_owned()))
        }
        _ => Err(bad(format!("{query:?}: ask for ?last=N or ?audience, once"))),
    }
}

async fn messages(http: &Http, topic: Topic, last: Option<u32>) -> Result<Found, Fault> {
    match last {
        Some(n) => Ok(Found::Last(topic.clone(), http.hub.latest(&topic, n).await?)),
        None => {
            let mut page = http.hub.latest(&topic, 1).await?;
            page.messages.pop().map(Found::Newest).ok_or_else(|| {
                let text = format!("{topic} has no message yet; POST one");
                Fault::new(StatusCode::NOT_FOUND, "no_message", text)
            })
        }
    }
}

fn bad(text: String) -> Fault {
    Fault::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}

fn newest(message: &Message, asked: &HeaderMap) -> Response {
    let position = message.position.to_string();
    let etag = format!("\"{position}\"");
    let mut response = if knows(asked, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(Body::from(message.payload.clone()));
        if let Ok(content_type) = HeaderValue::from_str(message.content_type.as_str()) {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        cors::sandbox(&mut response);
        response
    };
    let headers = response.headers_mut();
    for (name, text) in [(ETAG, &etag), (POSITION, &position)] {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    headers.insert(CACHE_CONTROL, NO_CACHE);
    response
}

/// Whether `If-None-Match` names what would be sent (RFC 9110, 13.1.2: weak comparison).
fn knows(asked: &HeaderMap, etag: &str) -> bool {
    asked
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// An array of message frames, oldest first, each as a subscriber gets it.
fn last(topic: &Topic, page: &Page) -> Response {
    let mut body = BytesMut::from(&b"["[..]);
    for (index, message) in page.messages.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        body.put(client::encode_message(Encoding::Json, topic, message));
    }
    body.put_u8(b']');
    json(body.freeze())
}

fn json(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, NO_CACHE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_known_in_a_list_weak_or_by_the_star() {
        for (asked, known) in [
            ("\"1:2\"", true),
            ("\"1:1\", \"1:2\"", true),
            ("W/\"1:2\"", true),
            ("*", true),
            ("\"1:22\"", false),
            ("1:2", false),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(asked))]);
            assert_eq!(knows(&headers, "\"1:2\""), known, "{asked}");
        }
    }
}

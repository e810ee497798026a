//! `GET /topics/{topic}`: the newest message as published; with `?last=N`, the last N messages as JSON; with
//! `?audience`, the number of subscribers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pushonce_auth::Action;
use pushonce_core::{HistoryPage, Message, Topic};
use pushonce_proto::client::{self, Encoding, ErrorCode};

use super::{Authenticated, HttpError, HttpState, audience, cache, check_readable, parse_topic};
use crate::query;

const POSITION: HeaderName = HeaderName::from_static("pushonce-position");

/// The largest `?last=N` that is always accepted: the default length of a history.
const LAST_MAX: u32 = 1_000;

/// Payload bytes of an answer that is encoded at once, with a `Content-Length`.
const BUFFERED_BYTES_MAX: usize = 64 << 10;

/// The parsed query.
#[derive(Clone, Copy)]
enum SnapshotParams {
    Newest,
    Last(u32),
    Audience,
}

pub(super) async fn get(
    State(http): State<HttpState>,
    caller: Authenticated,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let topic = check_readable(parse_topic(path)?)?;
    let params = parse_params(query.as_deref().unwrap_or_default())?;
    let action = match params {
        SnapshotParams::Newest => Action::ReadSnapshot(&topic),
        SnapshotParams::Last(_) => Action::ReadHistory(&topic),
        SnapshotParams::Audience => Action::ReadAudience(&topic),
    };
    caller.authorize(&http.access, action)?;
    let mut response = match params {
        SnapshotParams::Newest => newest_response(&*newest(&http, &topic).await?, &headers),
        SnapshotParams::Last(count) => {
            check_last(count, last_max(&http, &topic))?;
            last_response(topic.clone(), http.hub.latest(&topic, count).await?)
        }
        SnapshotParams::Audience => audience::get(&http, topic.clone()).await?,
    };
    cache::set_rules(&mut response, &http, &topic);
    Ok(response)
}

/// The largest `?last=N` of a topic: its history holds no more. `History::BYTES_CAP` bounds the total payload
/// bytes of the response.
fn last_max(http: &HttpState, topic: &Topic) -> u32 {
    http.view.borrow().namespaces.for_topic(topic).history.count_max.max(LAST_MAX)
}

/// Checked only for a caller that may read the history: the maximum is a setting of the namespace.
fn check_last(count: u32, max: u32) -> Result<(), HttpError> {
    match count {
        count if count <= max => Ok(()),
        _ => Err(bad_request(format!("last must be a number from 1 to {max}, not {count}"))),
    }
}

fn parse_params(query: &str) -> Result<SnapshotParams, HttpError> {
    let pairs = query::pairs(query)?;
    let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let last = |count: &str| match count.parse() {
        Ok(count @ 1..) => Ok(SnapshotParams::Last(count)),
        _ => Err(bad_request(format!("last must be a number from 1 up, not {count:?}"))),
    };
    match *pairs {
        [] => Ok(SnapshotParams::Newest),
        [("audience", "" | "true")] => Ok(SnapshotParams::Audience),
        [("last", count)] => last(count),
        _ if pairs.iter().any(|(name, _)| *name == "audience") => {
            Err(bad_request("audience takes no value and no other parameters".to_owned()))
        }
        _ => Err(bad_request(format!("invalid query {query:?}; use ?last=N or ?audience"))),
    }
}

async fn newest(http: &HttpState, topic: &Topic) -> Result<Arc<Message>, HttpError> {
    http.hub.latest(topic, 1).await?.messages.pop().ok_or_else(|| {
        let text = format!("topic {topic} has no message yet; publish one with POST");
        HttpError::new(StatusCode::NOT_FOUND, "no_message", text)
    })
}

fn bad_request(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}

fn newest_response(message: &Message, request_headers: &HeaderMap) -> Response {
    let position = message.position.to_string();
    let etag = format!("\"{position}\"");
    let mut response = if etag_matches(request_headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(Body::from(message.payload.clone()));
        if let Ok(content_type) = HeaderValue::from_str(message.content_type.as_str()) {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        if !is_passive(message.content_type.as_str()) {
            response
                .headers_mut()
                .insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
        }
        response
    };
    let headers = response.headers_mut();
    for (name, text) in [(ETAG, &etag), (POSITION, &position)] {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    response
}

/// Whether a browser that is pointed at the payload shows it as data. It offers anything else, such as HTML and
/// SVG, to the user as a file. (Scripts would not run either way: the policy of every response forbids them.)
fn is_passive(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(
        essence.as_str(),
        "application/json"
            | "text/plain"
            | "image/png"
            | "image/jpeg"
            | "image/gif"
            | "image/webp"
            | "image/avif"
    ) || essence.starts_with("audio/")
        || essence.starts_with("video/")
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

/// Builds a JSON array of message frames, oldest first, each in the format that subscribers receive. The frames of a
/// large answer are encoded when the client reads them: an answer that nobody reads holds only the messages, which
/// the history holds as well.
fn last_response(topic: Topic, page: HistoryPage) -> Response {
    let payload_bytes: usize = page.messages.iter().map(|message| message.payload.len()).sum();
    let frames = page.messages.into_iter().enumerate().map(move |(index, message)| {
        let mut frame = BytesMut::from(if index > 0 { &b","[..] } else { &b""[..] });
        frame.put(client::encode_message(Encoding::Json, &topic, &message));
        frame.freeze()
    });
    let [begin, end] = [&b"["[..], b"]"].map(|text| std::iter::once(Bytes::from_static(text)));
    let chunks = begin.chain(frames).chain(end);
    let body = if payload_bytes <= BUFFERED_BYTES_MAX {
        Body::from(chunks.collect::<Vec<_>>().concat())
    } else {
        Body::from_stream(stream::iter(chunks.map(Ok::<_, Infallible>)))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_without_markup_is_shown_in_the_browser() {
        for shown in ["application/json", "text/plain; charset=utf-8", "Image/PNG", "video/mp4"] {
            assert!(is_passive(shown), "{shown}");
        }
        for file in
            ["text/html", "image/svg+xml", "text/xml", "application/pdf", "text/html;text/plain"]
        {
            assert!(!is_passive(file), "{file}");
        }
    }

    #[test]
    fn if_none_match_accepts_lists_weak_tags_and_star() {
        for (if_none_match, matches) in [
            ("\"1:2\"", true),
            ("\"1:1\", \"1:2\"", true),
            ("W/\"1:2\"", true),
            ("*", true),
            ("\"1:22\"", false),
            ("1:2", false),
        ] {
            let headers =
                HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(if_none_match))]);
            assert_eq!(etag_matches(&headers, "\"1:2\""), matches, "{if_none_match}");
        }
    }
}

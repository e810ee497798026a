//! `GET /topics/{topic}`: the newest message as published; with `?last=N`, the last N messages as JSON. The other
//! queries have modules of their own.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use pushonce_auth::Action;
use pushonce_core::{HistoryPage, Message, Topic};
use pushonce_proto::client::{self, Encoding, ErrorCode};

use super::cache::{self, CacheSubject};
use super::representation::Resource;
use super::topic_query::TopicQuery;
use super::{
    Authenticated, HttpError, HttpState, audience, check_readable, history, long_poll, parse_topic,
};

/// The largest `?last=N` that is always accepted: the default length of a history.
const LAST_MAX: u32 = 1_000;

/// Payload bytes of an answer that is encoded at once, with a `Content-Length`.
const BUFFERED_BYTES_MAX: usize = 64 << 10;

pub(super) async fn get(
    State(http): State<HttpState>,
    caller: Authenticated,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let topic = check_readable(parse_topic(path)?)?;
    let query = TopicQuery::parse(query.as_deref().unwrap_or_default())?;
    let action = match query {
        TopicQuery::Newest => Action::ReadSnapshot(&topic),
        TopicQuery::Last(_) | TopicQuery::Page(_) => Action::ReadHistory(&topic),
        TopicQuery::Audience => Action::ReadAudience(&topic),
    };
    let authorize = || caller.authorize(&http.access, action);
    authorize()?;
    let mut response = match query {
        TopicQuery::Newest => newest_response(&http, &topic, &headers).await?,
        TopicQuery::Last(count) => {
            check_last(count, last_max(&http, &topic))?;
            last_response(topic.clone(), http.hub.latest(&topic, count).await?)
        }
        TopicQuery::Audience => audience::get(&http, topic.clone()).await?,
        TopicQuery::Page(page) => {
            return match page.wait {
                None => history::get(&http, &topic, page, &headers).await,
                Some(wait) => {
                    let address = caller.0.address;
                    long_poll::get(&http, &topic, page, wait, address, &headers, authorize).await
                }
            };
        }
    };
    cache::set_rules(&mut response, &http, &topic, CacheSubject::Newest);
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

async fn newest(http: &HttpState, topic: &Topic) -> Result<Arc<Message>, HttpError> {
    http.hub.latest(topic, 1).await?.messages.pop().ok_or_else(|| {
        let text = format!("topic {topic} has no message yet; publish one with POST");
        HttpError::new(StatusCode::NOT_FOUND, "no_message", text)
    })
}

fn bad_request(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}

async fn newest_response(
    http: &HttpState,
    topic: &Topic,
    headers: &HeaderMap,
) -> Result<Response, HttpError> {
    let message = newest(http, topic).await?;
    let content_type = message.content_type.as_str();
    let tag = message.position.to_string();
    let resource = Resource { topic, tag, content_type, may_compress: true };
    let mut response = resource.respond(headers, &http.bodies, message.payload.clone());
    if !is_passive(content_type) {
        let attachment = HeaderValue::from_static("attachment");
        response.headers_mut().insert(CONTENT_DISPOSITION, attachment);
    }
    history::set_position(&mut response, message.position);
    Ok(response)
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

/// Builds a JSON array of message frames, oldest first, each in the format that subscribers receive. The frames of a
/// large answer are encoded when the client reads them: an answer that nobody reads holds only the messages, which
/// the history holds as well.
fn last_response(topic: Topic, page: HistoryPage) -> Response {
    let head = page.head;
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
    history::set_position(&mut response, head);
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
}

//! `GET /topics/{topic}?after=POSITION&limit=N`: a page of history, and with `live=long-poll` the next messages as
//! soon as there are any ([`long_poll`](super::long_poll)).
//!
//! A page is `{"messages":[…],"next":"12:4100"}` with the `message` frames of a JSON session. The bytes of a full
//! page never change, so that a cache may always keep it; they are made once for all callers.

use std::sync::Arc;

use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pushonce_core::{Gap, HistoryPage, Message, Position, Topic};
use pushonce_proto::client::{self, Encoding};

use super::cache::{self, CacheSubject};
use super::representation::Resource;
use super::topic_query::PageQuery;
use super::{HttpError, HttpState};

/// The header with the position that a response reaches: the caller continues after it.
pub(super) const POSITION: HeaderName = HeaderName::from_static("pushonce-position");

/// Payload bytes at which a page ends before its limit: what a slow phone receives in some seconds. A page has at
/// least one message. As the limit, this depends on the history alone, so that every node makes the same pages.
const PAGE_BYTES_MAX: usize = 256 << 10;

/// A page of history.
struct Page {
    messages: Vec<Arc<Message>>,
    /// The position of its last message, or where it begins if it has none.
    next: Position,
    /// Whether no later message can become a part of it.
    is_full: bool,
}

/// Returns the page that a request asks for.
///
/// # Errors
/// [`HttpError`] when the history cannot be read now, or when the position was never assigned.
pub(super) async fn get(
    http: &HttpState,
    topic: &Topic,
    query: PageQuery,
    headers: &HeaderMap,
) -> Result<Response, HttpError> {
    // One message more than the limit: a page that ends because of its bytes is full, too.
    let limit = query.limit as usize;
    let history = http.hub.after(topic, query.after, limit + 1).await?;
    Ok(respond(http, topic, query.after, limit, history, headers))
}

/// The response with the page that begins a history.
pub(super) fn respond(
    http: &HttpState,
    topic: &Topic,
    after: Position,
    limit: usize,
    history: HistoryPage,
    headers: &HeaderMap,
) -> Response {
    if let Some(gap) = history.gap {
        return gone(http, topic, gap);
    }
    let page = Page::first_of(history, after, limit);
    // The history of a topic that was deleted and is created again begins at zero once more.
    let is_immutable = page.is_full && after != Position::ZERO;
    let tag = page.tag();
    let body = http.bodies.get_or_make(topic, &tag, || page.encode(topic));
    let resource = Resource {
        topic,
        tag,
        content_type: "application/json",
        // The length of a compressed page would tell who may publish to a topic, and sees the encrypted
        // responses of others, what other publishers wrote.
        may_compress: cache::is_public(http, topic),
    };
    let mut response = resource.respond(headers, &http.bodies, body);
    set_position(&mut response, page.next);
    let subject = if is_immutable { CacheSubject::Past } else { CacheSubject::Newest };
    cache::set_rules(&mut response, http, topic, subject);
    response
}

/// The response where history has moved on: 410 with the position from which it can be read.
fn gone(http: &HttpState, topic: &Topic, gap: Gap) -> Response {
    let Gap { from, to, reason } = gap;
    let reason = reason.as_str();
    let text = format!(
        "the messages from {from} on are no longer in the history ({reason}); continue with after={to}"
    );
    let mut response = HttpError::new(StatusCode::GONE, "gone", text).into_http_response();
    set_position(&mut response, to);
    cache::set_rules(&mut response, http, topic, CacheSubject::Newest);
    response
}

/// Sets the position that a response reaches.
pub(super) fn set_position(response: &mut Response, position: Position) {
    if let Ok(value) = HeaderValue::from_str(&position.to_string()) {
        response.headers_mut().insert(POSITION, value);
    }
}

impl Page {
    /// The first messages of a history, at most `limit`.
    fn first_of(history: HistoryPage, after: Position, limit: usize) -> Page {
        let mut messages = history.messages;
        let mut bytes = 0;
        let fitting = messages.iter().take(limit).take_while(|message| {
            bytes += message.payload.len();
            bytes <= PAGE_BYTES_MAX
        });
        let count = fitting.count().max(1).min(messages.len());
        let is_full = count == limit || count < messages.len();
        messages.truncate(count);
        let next = messages.last().map_or(after, |last| last.position);
        Page { messages, next, is_full }
    }

    /// Names the messages of the page: its first and last position.
    fn tag(&self) -> String {
        match self.messages.first() {
            Some(first) => format!("{}-{}", first.position, self.next),
            None => format!("{}-", self.next),
        }
    }

    fn encode(&self, topic: &Topic) -> Bytes {
        let payload_bytes: usize = self.messages.iter().map(|m| m.payload.len()).sum();
        let mut body = BytesMut::with_capacity(payload_bytes + 160 * self.messages.len() + 64);
        body.put(&b"{\"messages\":["[..]);
        for (index, message) in self.messages.iter().enumerate() {
            if index > 0 {
                body.put_u8(b',');
            }
            body.put(client::encode_message(Encoding::Json, topic, message));
        }
        body.put(format!("],\"next\":\"{}\"}}", self.next).as_bytes());
        body.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pushonce_core::test_util;

    fn history(sizes: &[usize]) -> HistoryPage {
        let messages = (1..).zip(sizes).map(|(offset, &size)| {
            Arc::new(Message { payload: vec![b'x'; size].into(), ..test_util::message(7, offset) })
        });
        let messages: Vec<_> = messages.collect();
        HistoryPage { head: Position::new(7, messages.len() as u64), messages, gap: None }
    }

    fn page(sizes: &[usize], limit: usize) -> (usize, u64, bool) {
        let page = Page::first_of(history(sizes), Position::new(7, 0), limit);
        (page.messages.len(), page.next.offset.0, page.is_full)
    }

    #[test]
    fn page_is_full_at_its_limit_or_when_another_message_does_not_fit() {
        assert_eq!(page(&[], 3), (0, 0, false));
        assert_eq!(page(&[1, 1], 3), (2, 2, false));
        assert_eq!(page(&[1, 1, 1], 3), (3, 3, true));
        assert_eq!(page(&[1, 1, 1, 1], 3), (3, 3, true));
        assert_eq!(page(&[PAGE_BYTES_MAX, 1], 3), (1, 1, true));
        assert_eq!(page(&[PAGE_BYTES_MAX + 1], 3), (1, 1, false), "the next may be small");
        assert_eq!(page(&[PAGE_BYTES_MAX + 1, 1], 3), (1, 1, true));
    }
}

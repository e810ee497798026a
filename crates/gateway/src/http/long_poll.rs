//! `GET /topics/{topic}?after=POSITION&live=long-poll`: a page of history that waits for its first message.
//!
//! For clients behind a proxy that buffers responses: they see neither a WebSocket nor the events of a stream until
//! it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use pushonce_core::{Position, StartFrom, SubscribeOptions, Topic, TopicEvent};
use pushonce_fanout::TopicReader;
use pushonce_listener::AddressPermit;
use pushonce_proto::client::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::cache::{self, CacheSubject};
use super::topic_query::PageQuery;
use super::{HttpError, HttpState, history};

/// Maximum number of waiting requests of a node. Each holds its connection and a cursor, some 10 KiB.
const WAITING_MAX: usize = 10_000;

/// The waiting requests of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LongPolls {
    permits: Arc<Semaphore>,
    /// Cancelled when the node stops: the waiting requests are answered at once.
    draining: CancellationToken,
}

/// The permit of one waiting request.
struct WaitPermit {
    _node: OwnedSemaphorePermit,
    /// Over HTTP/2 many requests share one connection: each counts as a connection of its address.
    _address: Option<AddressPermit>,
}

impl LongPolls {
    pub(crate) fn new(draining: CancellationToken) -> LongPolls {
        LongPolls { permits: Arc::new(Semaphore::new(WAITING_MAX)), draining }
    }
}

/// Returns the page, once it has a message, or 204 when the time is over. `may_read` is asked again after the wait.
///
/// # Errors
/// [`HttpError`] when the history cannot be read, the caller may not read it any more, or too many requests wait.
pub(super) async fn get(
    http: &HttpState,
    topic: &Topic,
    query: PageQuery,
    wait: Duration,
    address: Option<IpAddr>,
    headers: &HeaderMap,
    may_read: impl Fn() -> Result<(), HttpError>,
) -> Result<Response, HttpError> {
    let PageQuery { after, limit, .. } = query;
    let page = http.hub.after(topic, after, 1).await?;
    if page.messages.is_empty() && page.gap.is_none() {
        let _permit = admit(http, address)?;
        let from = StartFrom::Position(after);
        let reader = http.hub.open_reader(topic.clone(), from, SubscribeOptions::default()).await?;
        let has_news = tokio::select! {
            () = next_message(reader) => true,
            () = tokio::time::sleep(wait) => false,
            () = http.long_polls.draining.cancelled() => false,
        };
        may_read()?;
        if !has_news {
            return Ok(no_news(http, topic, after));
        }
    }
    history::get(http, topic, PageQuery { after, limit, wait: None }, headers).await
}

fn admit(http: &HttpState, address: Option<IpAddr>) -> Result<WaitPermit, HttpError> {
    let address = address.map(|address| http.limits.addresses.count(address)).transpose();
    let node = http.long_polls.permits.clone().try_acquire_owned();
    match (node, address) {
        (Ok(node), Ok(address)) => Ok(WaitPermit { _node: node, _address: address }),
        _ => {
            let text = "too many requests wait for messages; retry later, or open a WebSocket";
            Err(HttpError::from_code(ErrorCode::Overloaded, text.to_owned()))
        }
    }
}

/// Completes when there is something to read.
async fn next_message(mut reader: TopicReader) {
    while !matches!(reader.next().await, TopicEvent::Message(_) | TopicEvent::Gap(_)) {}
}

/// The response to a request that waited in vain: the caller asks again with the same position.
fn no_news(http: &HttpState, topic: &Topic, after: Position) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    history::set_position(&mut response, after);
    cache::set_rules(&mut response, http, topic, CacheSubject::Moment);
    response
}

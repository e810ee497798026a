//! From the request to the session: authentication, the checks of each topic, and the first subscriptions.

use std::cell::RefCell;
use std::rc::Rc;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, Uri};
use pushonce_auth::audit::Requester;
use pushonce_auth::{Action, Caller, audit};
use pushonce_core::{ClientAddress, StartFrom, SubscribeOptions};
use pushonce_proto::client::{ClientCommand, ClientRequest};

use super::output::{EventOutput, EventSink};
use super::positions::StreamPositions;
use super::request::EventStreamRequest;
pub(crate) use super::request::is_event_stream;
use super::transport::{EventStreamTransport, Opening};
use crate::driver::SessionDriver;
use crate::http::HttpError;
use crate::http::authenticate::{Authenticated, Credential, RemoteIp};
use crate::http::front::HttpFront;
use crate::http::page_policy::PageAccess;
use crate::lane::LaneState;
use crate::rejection;

/// Of topics that everyone may read. `no-transform`: a proxy that compresses would hold events back.
const PUBLIC: HeaderValue = HeaderValue::from_static("no-cache, no-transform");

/// Of topics that need a token.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-store, no-transform");

/// A request for a stream that was admitted.
pub(crate) struct EventStreamOpening {
    request: EventStreamRequest,
    caller: Caller,
    response: ResponseOpening,
}

/// What the head of the response depends on.
pub(super) struct ResponseOpening {
    front: HttpFront,
    access: PageAccess,
    pub(super) cache_control: HeaderValue,
}

impl ResponseOpening {
    /// Adds the headers of every response.
    pub(super) fn finish(&self, response: Response) -> Response {
        self.front.finish(response, &self.access)
    }
}

/// Admits a request for a stream, with the grants of now.
///
/// # Errors
/// The response to a request that is invalid or refused.
pub(crate) async fn open(
    lane: &LaneState,
    uri: &Uri,
    headers: &HeaderMap,
    address: RemoteIp,
    front: HttpFront,
    access: PageAccess,
) -> Result<EventStreamOpening, HttpError> {
    let request = EventStreamRequest::parse(uri, headers)?;
    let credential = Credential::from_request(headers, uri.query())?;
    let caller = credential.authenticate(&lane.access, address).await.inspect_err(|error| {
        audit::record_refusal(&lane.access.without_token(), address.0, error);
    })?;
    let requester = Authenticated(Requester { caller, address: address.0 });
    for (topic, start) in &request.topics {
        let rejection = |error: rejection::SubscribeRejection| {
            HttpError::from_code(error.code(), error.to_string())
        };
        rejection::check_topic(topic).map_err(rejection)?;
        requester.authorize(&lane.access, Action::Subscribe(topic))?;
        if !matches!(start, StartFrom::Now | StartFrom::Last(0)) {
            requester.authorize(&lane.access, Action::ReadHistory(topic))?;
        }
    }
    let is_public = request.topics.iter().all(|(topic, _)| lane.is_public(topic));
    let cache_control = if is_public { PUBLIC } else { PRIVATE };
    let response = ResponseOpening { front, access, cache_control };
    Ok(EventStreamOpening { request, caller: requester.0.caller, response })
}

impl EventStreamOpening {
    /// Starts the session and its subscriptions. The id of each subscription is the number of its topic.
    pub(super) fn start<O: EventOutput>(
        self,
        lane: Rc<LaneState>,
        output: O,
        address: ClientAddress,
    ) -> Rc<SessionDriver<EventStreamTransport<O>>> {
        let EventStreamOpening { request, caller, response } = self;
        let EventStreamRequest { topics, has_payloads, delivery, is_padded } = request;
        let positions = (!has_payloads)
            .then(|| Box::new(StreamPositions::of_starts(topics.iter().map(|(_, start)| start))));
        let sink = Rc::new(RefCell::new(EventSink { output, positions }));
        let starts = topics.iter().map(|(_, start)| *start).collect();
        let pending = topics.len();
        let opening = Opening { response, starts, pending, has_begun: false, is_padded };
        let transport = EventStreamTransport::new(sink, has_payloads, opening);
        let driver = SessionDriver::start(lane, transport, address);
        if caller.token().is_some() {
            driver.set_caller(caller);
        }
        if !has_payloads {
            // The positions of several topics are known one by one.
            driver.transport().begin();
        }
        for (number, (topic, from)) in (1..).zip(topics) {
            let options = SubscribeOptions { delivery, ..SubscribeOptions::default() };
            let command = ClientCommand::Subscribe { topic, from, options };
            driver.on_request(Ok(ClientRequest { id: Some(number), command }));
        }
        driver
    }
}

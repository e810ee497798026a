//! From a request of an HTTP/1 connection to the session that the connection becomes.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use axum::body::Body;
use futures::FutureExt;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use pushonce_auth::audit;
use pushonce_proto::client::ErrorCode;

use super::{HttpResponseFuture, ready_response};
use crate::http::HttpError;
use crate::http::authenticate::RemoteIp;
use crate::http::front::HttpFront;
use crate::http::page_policy::PageAccess;
use crate::lane::LaneState;
use crate::metrics::TransportKind;
use crate::reactor::SessionTcp;
use crate::socket::Tcp as _;
use crate::sse::EventStreamOpening;
use crate::{driver, sse, ws};

/// The session that a connection becomes.
pub(super) enum SessionOpening {
    WebSocket(Box<ws::UpgradeRequest>),
    EventStream(EventStreamOpening),
}

/// Holds the session that a connection becomes, once its request is admitted.
#[derive(Clone, Default)]
pub(super) struct OpeningSlot(Rc<RefCell<Option<SessionOpening>>>);

impl OpeningSlot {
    fn set(&self, opening: SessionOpening) {
        self.0.replace(Some(opening));
    }

    pub(super) fn take(&self) -> Option<SessionOpening> {
        self.0.take()
    }

    /// Ready when hyper is done with the connection, or when its request was admitted as an event stream. The
    /// response before was sent then, unless the client did not wait for it: such a client loses the part that it
    /// has not read.
    pub(super) fn poll_leave<T>(&self, polled: Poll<T>) -> Poll<()> {
        let is_event_stream = matches!(*self.0.borrow(), Some(SessionOpening::EventStream(_)));
        if polled.is_ready() || is_event_stream { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Handles a request for a session: the response is the upgrade, or the rejection of the handshake.
pub(super) fn upgrade_to_websocket(
    request: &Request<Incoming>,
    slot: &OpeningSlot,
    lane: &Rc<LaneState>,
    address: RemoteIp,
) -> HttpResponseFuture {
    let upgrade = match ws::UpgradeRequest::from_request(request, lane.config.compression) {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let response = reject_handshake(lane, TransportKind::WebSocket, *rejection);
            return ready_response(response);
        }
    };
    let accept = |slot: &OpeningSlot, upgrade: ws::UpgradeRequest| {
        let response = upgrade.response();
        slot.set(SessionOpening::WebSocket(Box::new(upgrade)));
        response
    };
    if !upgrade.has_credential() {
        return ready_response(accept(slot, upgrade));
    }
    let (slot, lane) = (slot.clone(), lane.clone());
    async move {
        Ok(match upgrade.authenticate(&lane.access, address).await {
            Ok(upgrade) => accept(&slot, upgrade),
            Err(error) => {
                audit::record_refusal(&lane.access.without_token(), address.0, &error);
                let response = HttpError::from(error).into_http_response();
                reject_handshake(&lane, TransportKind::WebSocket, response)
            }
        })
    }
    .boxed_local()
}

fn reject_handshake(
    lane: &LaneState,
    kind: TransportKind,
    response: Response<Body>,
) -> Response<Body> {
    lane.metrics.for_transport(kind).refused.increment(1);
    response
}

/// The span of a session in the log.
pub(super) fn session_span(transport: &'static str, stream: &SessionTcp) -> tracing::Span {
    let (id, remote) = (driver::next_session_id(), stream.peer_addr().ok());
    tracing::debug_span!("session", id, transport, ?remote)
}

/// A request for an event stream.
pub(super) struct PendingEventStream {
    pub(super) request: Request<Incoming>,
    pub(super) address: RemoteIp,
    pub(super) access: PageAccess,
}

impl PendingEventStream {
    /// Admits the request: hyper gets no response to an admitted one, and the connection leaves it.
    pub(super) fn open(
        self,
        http: &HttpFront,
        slot: &OpeningSlot,
        lane: &Rc<LaneState>,
    ) -> HttpResponseFuture {
        let (http, slot, lane) = (http.clone(), slot.clone(), lane.clone());
        async move {
            match self.admit(&http, &lane).await {
                Ok(opening) => {
                    slot.set(SessionOpening::EventStream(opening));
                    std::future::pending().await
                }
                Err(response) => Ok(*response),
            }
        }
        .boxed_local()
    }

    /// Checks the request.
    ///
    /// # Errors
    /// The response to a request that is refused.
    pub(super) async fn admit(
        self,
        http: &HttpFront,
        lane: &LaneState,
    ) -> Result<EventStreamOpening, Box<Response<Body>>> {
        let (parts, body) = self.request.into_parts();
        let opening = if body.is_end_stream() {
            sse::open(lane, &parts.uri, &parts.headers, self.address, http.clone(), self.access)
                .await
        } else {
            let text = "a request for an event stream has no body; remove it";
            Err(HttpError::from_code(ErrorCode::BadRequest, text.to_owned()))
        };
        opening.map_err(|error| {
            let response = error.into_http_response();
            Box::new(reject_handshake(lane, TransportKind::EventStream, response))
        })
    }
}

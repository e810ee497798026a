//! One connection: HTTP until it ends, or HTTP/1 until it becomes a WebSocket or an event stream.

mod http2;
mod opening;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;

use axum::body::Body;
use futures::future::LocalBoxFuture;
use futures::{FutureExt, TryFutureExt};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pushonce_core::ClientAddress;
use pushonce_listener::AddressPermit;
use pushonce_proto::client::ErrorCode;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::http::authenticate::RemoteIp;
use crate::http::framing::{RequestFraming, ScannedStream};
use crate::http::front::HttpFront;
use crate::http::{HttpError, cors};
use crate::lane::LaneState;
use crate::overflow::OverflowPermit;
use crate::socket::{ClientSocket as _, HttpSocket, Tcp};
use crate::{HttpsSettings, linger, sse, ws};
use opening::{
    OpeningSlot, PendingEventStream, SessionOpening, session_span, upgrade_to_websocket,
};

/// The smallest read buffer that hyper accepts.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// Maximum number of header lines of one request. Browsers send about twenty.
const HEADERS_MAX: usize = 64;

/// The `Retry-After` of a full server, in seconds.
const RETRY_AFTER_SECS: u32 = 10;

/// The response to a connection for which the node has no room.
pub(crate) const FULL_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Length: 0\r\n\
    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n";

/// The response to a connection of an address with too many of them.
pub(crate) const TOO_MANY_RESPONSE: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 10\r\nContent-Type: application/json\r\n\
    Content-Length: 106\r\n\
    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n\
    {\"error\":{\"code\":\"overloaded\",\
    \"message\":\"your address has too many connections; close some\",\"retry\":true}}";

/// The begin of the first bytes of an HTTP/2 client (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The response to it: clients speak HTTP/2 without TLS only at the port for gRPC.
const HTTP1_ONLY_RESPONSE: &[u8] =
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\
    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n";

/// The permit of one connection, released when it is dropped.
pub(crate) enum ConnectionPermit {
    /// Permits a session, or any number of requests.
    Regular { _permit: OwnedSemaphorePermit, _address: Option<AddressPermit> },
    /// Permits one response, because the node is full.
    Overflow(OverflowPermit),
}

impl ConnectionPermit {
    fn is_regular(&self) -> bool {
        matches!(self, ConnectionPermit::Regular { .. })
    }

    fn on_request(&self) {
        if let ConnectionPermit::Overflow(permit) = self {
            permit.on_request();
        }
    }

    fn on_response_sent(&self) {
        if let ConnectionPermit::Overflow(permit) = self {
            permit.on_response_sent();
        }
    }

    /// Completes when the connection is evicted; never for a regular permit.
    async fn evicted(&self) {
        match self {
            ConnectionPermit::Regular { .. } => std::future::pending().await,
            ConnectionPermit::Overflow(permit) => permit.evicted().await,
        }
    }
}

/// Sends `response` on a connection for which there is no permit, without reading its request.
pub(crate) fn reject(lane: &Rc<LaneState>, stream: impl HttpSocket, response: &[u8]) {
    // An empty socket buffer has room for the response; anything else is not worth waiting for.
    let _ = stream.try_write(response);
    if !lane.has_descriptor_for_client(stream.tcp()) {
        // No descriptor is left to keep the connection open. A request that has already arrived is read, so
        // that closing the connection does not reset it.
        let _ = stream.tcp().try_read(&mut lane.scratch.borrow_mut());
        return;
    }
    let Ok(permit) = lane.linger_permits.clone().try_acquire_owned() else { return };
    let task_lane = lane.clone();
    lane.spawn(async move {
        linger::close(&task_lane, &stream).await;
        drop(permit);
    });
}

/// The address of a client.
pub(crate) fn client_address(stream: &impl Tcp) -> ClientAddress {
    stream.peer_addr().ok().map(|address| address.ip()).into()
}

/// Performs the TLS handshake of a connection and serves it until it ends.
pub(crate) async fn serve_tls(
    lane: Rc<LaneState>,
    tcp: TcpStream,
    https: HttpsSettings,
    http: HttpFront,
    permit: ConnectionPermit,
) {
    let config = if permit.is_regular() { https.regular } else { https.one_response };
    let handshake = lane.tls.accept(tcp, config);
    let result = tokio::select! {
        result = timeout(lane.config.handshake_timeout, handshake) => result,
        () = permit.evicted() => return,
        () = lane.draining.cancelled() => return,
    };
    match result {
        Ok(Ok(stream)) if stream.is_http2() => http2::serve(lane, stream, http, permit).await,
        Ok(Ok(stream)) => serve(lane, stream, http, permit).await,
        Ok(Err(error)) => {
            lane.metrics.tls_errors.increment(1);
            tracing::debug!(%error, "TLS handshake failed");
        }
        Err(_) => lane.metrics.tls_timeouts.increment(1),
    }
}

/// Serves one connection with HTTP/1 until it ends.
pub(crate) async fn serve<S: HttpSocket>(
    lane: Rc<LaneState>,
    stream: S,
    http: HttpFront,
    permit: ConnectionPermit,
) {
    let address = RemoteIp(stream.tcp().peer_addr().ok().map(|address| address.ip()));
    let opening_slot = OpeningSlot::default();
    let service_slot = opening_slot.clone();
    let service_lane = lane.clone();
    let permit = Rc::new(permit);
    let service_permit = permit.clone();
    let framing = Rc::new(RefCell::new(RequestFraming::new()));
    let stream = ScannedStream::new(stream, framing.clone());
    let request_count = Cell::new(0);
    let service = service_fn(move |request: Request<Incoming>| {
        service_permit.on_request();
        request_count.set(request_count.get() + 1);
        let access = match http.admit(&request, request_count.get(), &framing, S::IS_TLS) {
            Ok(access) => access,
            Err(rejection) => return ready_response(*rejection),
        };
        let response = match request.uri().path() {
            "/ws" if request.method() == Method::OPTIONS => respond(request, &http, address),
            "/ws" if service_permit.is_regular() => {
                upgrade_to_websocket(&request, &service_slot, &service_lane, address)
            }
            #[cfg(feature = "echo")]
            ws::ECHO_PATH => upgrade_to_websocket(&request, &service_slot, &service_lane, address),
            "/ws" => full_response(),
            _ if sse::is_event_stream(request.method(), request.uri(), request.headers()) => {
                match service_permit.is_regular() {
                    true => {
                        let request =
                            PendingEventStream { request, address, access: access.clone() };
                        request.open(&http, &service_slot, &service_lane)
                    }
                    false => full_response(),
                }
            }
            _ => respond(request, &http, address),
        };
        let http = http.clone();
        response.map_ok(move |response| http.finish(response, &access)).boxed_local()
    });
    let config = &lane.config;
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.handshake_timeout)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN))
        .max_headers(HEADERS_MAX)
        .keep_alive(permit.is_regular())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Eviction is checked first: a request that was begun is never followed by this 503.
        biased;
        () = permit.evicted() => {
            let stream = connection.into_parts().io.into_inner().into_inner();
            return reject(&lane, stream, FULL_RESPONSE);
        }
        () = poll_fn(|cx| opening_slot.poll_leave(connection.poll_without_shutdown(cx))) => {}
        () = lane.draining.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| opening_slot.poll_leave(connection.poll_without_shutdown(cx))).await;
        }
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().into_inner();
    // A session gets its own task: this one is several times as large, and most sessions are idle.
    match opening_slot.take() {
        Some(SessionOpening::WebSocket(upgrade_request)) => {
            let Some(stream) = into_session(&lane, stream) else { return };
            let (span, key) = (session_span("websocket", stream.tcp()), stream.tcp().key());
            let session = ws::run(lane.clone(), stream, &parts.read_buf, *upgrade_request);
            lane.spawn_session(key, span, session.map(move |()| drop(permit)));
        }
        Some(SessionOpening::EventStream(opening)) => {
            let Some(stream) = into_session(&lane, stream) else { return };
            let (span, key) = (session_span("sse", stream.tcp()), stream.tcp().key());
            let session = sse::run(lane.clone(), stream, opening);
            lane.spawn_session(key, span, session.map(move |()| drop(permit)));
        }
        None => {
            // hyper closes without a response.
            if parts.read_buf.starts_with(HTTP2_PREFACE) {
                let _ = stream.try_write(HTTP1_ONLY_RESPONSE);
            }
            permit.on_response_sent();
            tokio::select! {
                () = linger::close(&lane, &stream) => {}
                () = permit.evicted() => {}
            }
        }
    }
}

/// Moves the connection of a session to the reactor. Closes it where the system has no room for the registration.
fn into_session<S: HttpSocket>(lane: &LaneState, stream: S) -> Option<S::Session> {
    let session = stream.into_session(&lane.reactor);
    session.inspect_err(|error| tracing::debug!(%error, "cannot wait for a socket, closed it")).ok()
}

/// Answers a request that is not for a session.
fn respond(
    mut request: Request<Incoming>,
    http: &HttpFront,
    address: RemoteIp,
) -> HttpResponseFuture {
    if request.method() == Method::OPTIONS {
        return ready_response(cors::preflight());
    }
    request.extensions_mut().insert(address);
    http.router.clone().oneshot(request.map(Body::new)).boxed_local()
}

type HttpResponseFuture = LocalBoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Wraps a response that is available at once.
fn ready_response(response: Response<Body>) -> HttpResponseFuture {
    std::future::ready(Ok(response)).boxed_local()
}

/// The response to a request for a session on a full node.
fn full_response() -> HttpResponseFuture {
    let error = HttpError::from_code(
        ErrorCode::Overloaded,
        "the server is full; connect to another one, or retry later".to_owned(),
    );
    let mut response = error.into_http_response();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
    ready_response(response)
}

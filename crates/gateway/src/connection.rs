//! One connection: HTTP until it ends, or HTTP/1 until it is upgraded to a WebSocket.

mod http2;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;

use axum::Router;
use axum::body::Body;
use futures::future::LocalBoxFuture;
use futures::{FutureExt, TryFutureExt};
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pushonce_proto::client::ErrorCode;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::http::{HttpError, cors};
use crate::lane::LaneState;
use crate::overflow::OverflowPermit;
use crate::socket::ClientSocket;
use crate::{HttpsSettings, driver, linger, ws};

/// The smallest read buffer that hyper accepts.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// Maximum number of header lines of one request. Browsers send about twenty.
const HEADERS_MAX: usize = 64;

/// The `Retry-After` of a full server, in seconds.
const RETRY_AFTER_SECS: u32 = 10;

const FULL_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Length: 0\r\n\
    Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: retry-after\r\n\
    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n";

/// The permit of one connection, released when it is dropped.
pub(crate) enum ConnectionPermit {
    /// Permits a session, or any number of requests.
    Regular { _permit: OwnedSemaphorePermit },
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

/// Sends 503 on a connection for which there is no permit, without reading its request.
pub(crate) fn reject(lane: &Rc<LaneState>, stream: impl ClientSocket) {
    // An empty socket buffer has room for the response; anything else is not worth waiting for.
    let _ = stream.try_write(FULL_RESPONSE);
    if !lane.has_descriptor_for_client(stream.tcp()) {
        // No descriptor is left to keep the connection open. A request that has already arrived is read, so
        // that closing the connection does not reset it.
        let _ = stream.tcp().try_read(&mut lane.scratch.borrow_mut());
        return;
    }
    let Ok(permit) = lane.linger_permits.clone().try_acquire_owned() else { return };
    let task_lane = lane.clone();
    lane.spawn(async move {
        linger::close(&task_lane, stream).await;
        drop(permit);
    });
}

/// Performs the TLS handshake of a connection and serves it until it ends.
pub(crate) async fn serve_tls(
    lane: Rc<LaneState>,
    tcp: TcpStream,
    https: HttpsSettings,
    router: Router,
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
        Ok(Ok(stream)) if stream.is_http2() => http2::serve(lane, stream, router, permit).await,
        Ok(Ok(stream)) => serve(lane, stream, router, permit).await,
        Ok(Err(error)) => {
            lane.metrics.tls_errors.increment(1);
            tracing::debug!(%error, "TLS handshake failed");
        }
        Err(_) => lane.metrics.tls_timeouts.increment(1),
    }
}

/// Serves one connection with HTTP/1 until it ends.
pub(crate) async fn serve<S: ClientSocket>(
    lane: Rc<LaneState>,
    stream: S,
    router: Router,
    permit: ConnectionPermit,
) {
    let upgrade_slot = Rc::new(Cell::new(None));
    let service_upgrade_slot = upgrade_slot.clone();
    let service_lane = lane.clone();
    let permit = Rc::new(permit);
    let service_permit = permit.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        service_permit.on_request();
        let response = match request.uri().path() {
            "/ws" if request.method() == Method::OPTIONS => respond(request, &router),
            "/ws" if service_permit.is_regular() => {
                upgrade_to_websocket(&request, &service_upgrade_slot, &service_lane)
            }
            "/ws" => full_response(),
            _ => respond(request, &router),
        };
        response.map_ok(cors::add_headers)
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
        () = permit.evicted() => return reject(&lane, connection.into_parts().io.into_inner()),
        _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {}
        () = lane.draining.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        }
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    match upgrade_slot.take() {
        // The session gets its own task: this one is several times as large, and most sessions are idle.
        Some(upgrade_request) => {
            let span = tracing::debug_span!(
                "session", id = driver::next_session_id(), transport = "websocket",
                remote = ?stream.tcp().peer_addr().ok()
            );
            let session = ws::run(lane.clone(), stream, &parts.read_buf, upgrade_request);
            lane.spawn_connection(span, session.map(move |()| drop(permit)));
        }
        None => {
            permit.on_response_sent();
            tokio::select! {
                () = linger::close(&lane, stream) => {}
                () = permit.evicted() => {}
            }
        }
    }
}

/// Answers a request that is not for a session.
fn respond(request: Request<Incoming>, router: &Router) -> HttpResponseFuture {
    if request.method() == Method::OPTIONS {
        return ready_response(cors::preflight());
    }
    router.clone().oneshot(request.map(Body::new)).boxed_local()
}

type HttpResponseFuture = LocalBoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Wraps a response that is available at once.
fn ready_response(response: Response<Body>) -> HttpResponseFuture {
    std::future::ready(Ok(response)).boxed_local()
}

/// Handles a request for a session: the response is the upgrade, or the rejection of the handshake.
fn upgrade_to_websocket(
    request: &Request<Incoming>,
    slot: &Cell<Option<ws::UpgradeRequest>>,
    lane: &LaneState,
) -> HttpResponseFuture {
    let response = match ws::UpgradeRequest::from_request(request, lane.config.compression) {
        Ok(upgrade_request) => {
            let response = upgrade_request.response();
            slot.set(Some(upgrade_request));
            response
        }
        Err(rejection) => {
            lane.metrics
                .for_transport(crate::metrics::TransportKind::WebSocket)
                .refused
                .increment(1);
            *rejection
        }
    };
    ready_response(response)
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

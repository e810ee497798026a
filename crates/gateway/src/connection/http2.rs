//! HTTP/2 for reads, event streams and publishes. Browsers open WebSockets over HTTP/1.1.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::{FutureExt, TryFutureExt};
use http::{Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::opening::PendingEventStream;
use super::{ConnectionPermit, HttpResponseFuture, full_response, ready_response, respond};
use crate::http::HttpError;
use crate::http::authenticate::RemoteIp;
use crate::http::framing::RequestFraming;
use crate::http::front::HttpFront;
use crate::lane::LaneState;
use crate::socket::ClientSocket as _;
use crate::tls_stream::TlsStream;
use crate::{driver, sse};

/// Requests that a client may have open at the same time. A browser has a few for each page.
const STREAMS_MAX: u32 = 100;

/// Requests that the client reset and that have not been answered yet (CVE-2023-44487). More end the connection.
const RESET_STREAMS_MAX: usize = 20;

/// Streams that the server reset because of the client's errors. More end the connection.
const ERROR_RESET_STREAMS_MAX: usize = 20;

/// Unread bytes of a request body, and of all bodies of a connection: a fast network sends a small publish in one
/// round trip, and a client that sends to a busy node is slowed down.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// Bytes of one response that wait for the client: a client that reads none of its responses holds 1.6 MiB.
const SEND_BUFFER_BYTES: usize = 16 << 10;

/// A connection without requests is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Spawns the tasks of a connection on its lane.
#[derive(Clone)]
struct LaneExecutor(Rc<LaneState>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LaneExecutor {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The requests of a connection.
#[derive(Default)]
struct Requests {
    open: Cell<usize>,
    total: Cell<u64>,
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    lane: Rc<LaneState>,
    stream: TlsStream,
    http: HttpFront,
    permit: ConnectionPermit,
) {
    let requests = Rc::new(Requests::default());
    let service_requests = requests.clone();
    let peer = stream.tcp().peer_addr().ok();
    let address = RemoteIp(peer.map(|address| address.ip()));
    let service_lane = lane.clone();
    // HTTP/2 frames its requests itself.
    let framing = RefCell::new(RequestFraming::new());
    let service = service_fn(move |request: Request<Incoming>| {
        let guard = service_requests.begin();
        let access = match http.admit(&request, service_requests.total.get(), &framing, true) {
            Ok(access) => access,
            Err(rejection) => return ready_response(*rejection),
        };
        let response = match request.uri().path() {
            "/ws" => http1_required(),
            _ if sse::is_event_stream(request.method(), request.uri(), request.headers()) => {
                let request = PendingEventStream { request, address, access: access.clone() };
                open_event_stream(request, &http, &service_lane, peer)
            }
            _ => respond(request, &http, address),
        };
        let http = http.clone();
        let response = response.map_ok(move |response| http.finish(response, &access));
        response.inspect(move |_| drop(guard)).boxed_local()
    });
    let config = &lane.config;
    let connection = http2::Builder::new(LaneExecutor(lane.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(ERROR_RESET_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(config.heartbeat)
        .keep_alive_timeout(config.handshake_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = requests.idle() => {}
        () = lane.draining.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
    drop(permit);
}

/// Opens an event stream as the body of the response.
fn open_event_stream(
    request: PendingEventStream,
    http: &HttpFront,
    lane: &Rc<LaneState>,
    peer: Option<SocketAddr>,
) -> HttpResponseFuture {
    let permit = peer.map(|peer| lane.admit_session(peer.ip()));
    let Some(permit) = permit.flatten() else { return full_response() };
    let (http, lane) = (http.clone(), lane.clone());
    async move {
        let opening = match request.admit(&http, &lane).await {
            Ok(opening) => opening,
            Err(response) => return Ok(*response),
        };
        let (sender, response) = oneshot::channel();
        let session = sse::run_on_body(lane.clone(), peer, opening, sender);
        let id = driver::next_session_id();
        let span = tracing::debug_span!("session", id, transport = "sse", remote = ?peer);
        lane.spawn_connection(span, session.map(move |()| drop(permit)));
        // The session ends without a response only with its lane.
        Ok(response.await.unwrap_or_default())
    }
    .boxed_local()
}

/// The response to a request for a WebSocket.
fn http1_required() -> HttpResponseFuture {
    let error = HttpError::new(
        StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        "not_supported",
        format!("a WebSocket needs {:?}; do not offer h2 in the TLS handshake", Version::HTTP_11),
    );
    ready_response(error.into_http_response())
}

impl Requests {
    /// Counts a request until the result is dropped.
    fn begin(self: &Rc<Requests>) -> OpenRequest {
        self.open.set(self.open.get() + 1);
        self.total.set(self.total.get() + 1);
        OpenRequest(self.clone())
    }

    /// Completes when there was no request for [`IDLE_TIMEOUT`].
    async fn idle(&self) {
        loop {
            let (total, start) = (self.total.get(), Instant::now());
            tokio::time::sleep_until(start + IDLE_TIMEOUT).await;
            if self.open.get() == 0 && self.total.get() == total {
                return;
            }
        }
    }
}

struct OpenRequest(Rc<Requests>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

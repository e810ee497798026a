//! One TCP connection: HTTP/1 until it ends, or becomes a WebSocket.

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
use tower::ServiceExt;

use crate::http::{Fault, cors};
use crate::lane::Local;
use crate::overflow::OverflowPermit;
use crate::{linger, ws};

/// hyper takes no smaller buffer.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// Header lines of one request: browsers send about twenty.
const HEADERS_MAX: usize = 64;

/// Seconds after which it is worth to come back to a server that was full.
const BACK_SECS: u32 = 10;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Length: 0\r\n\
    Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: retry-after\r\n\
    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n";

/// The right to be connected, until it is dropped.
pub(crate) enum ConnectionPermit {
    /// For a session, or as many requests as the client likes.
    Regular { _permit: OwnedSemaphorePermit },
    /// For one answer: the node is full.
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

    fn on_answered(&self) {
        if let ConnectionPermit::Overflow(permit) = self {
            permit.on_answered();
        }
    }

    /// Ends when the connection must make room; never, for a regular one.
    async fn evicted(&self) {
        match self {
            ConnectionPermit::Regular { .. } => std::future::pending().await,
            ConnectionPermit::Overflow(permit) => permit.evicted().await,
        }
    }
}

/// Answers a connection for which there is no permit at all, without reading its request.
pub(crate) fn turn_away(local: &Rc<Local>, stream: TcpStream) {
    // What does not fit into an empty socket buffer is not worth a wait.
    let _ = stream.try_write(FULL);
    if !local.has_descriptor_for_client(&stream) {
        // Nothing is left to wait with: a request that came already is read, so that closing the
        // connection does not reset it.
        let _ = stream.try_read(&mut local.scratch.borrow_mut());
        return;
    }
    let Ok(permit) = local.lingering.clone().try_acquire_owned() else { return };
    let lane = local.clone();
    local.spawn(async move {
        linger::close(&lane, stream).await;
        drop(permit);
    });
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    local: Rc<Local>,
    stream: TcpStream,
    router: Router,
    permit: ConnectionPermit,
) {
    let opening = Rc::new(Cell::new(None));
    let upgrade = opening.clone();
    let lane = local.clone();
    let permit = Rc::new(permit);
    let admitted = permit.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        admitted.on_request();
        let answer = match request.uri().path() {
            _ if request.method() == Method::OPTIONS => ready(cors::preflight()),
            "/ws" if admitted.is_regular() => open(&request, &upgrade, &lane),
            "/ws" => full(),
            _ => router.clone().oneshot(request.map(Body::new)).boxed_local(),
        };
        answer.map_ok(cors::complete)
    });
    let config = &local.config;
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.handshake_timeout)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN))
        .max_headers(HEADERS_MAX)
        .keep_alive(permit.is_regular())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // First whether it is evicted: a request that was begun is never answered with 503 after that.
        biased;
        () = permit.evicted() => return turn_away(&local, connection.into_parts().io.into_inner()),
        _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {}
        () = local.leaving.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        }
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    match opening.take() {
        // A task of its own: this one is several times as large, and idle sessions are many.
        Some(opening) => {
            let session = ws::run(local.clone(), stream, &parts.read_buf, opening);
            local.spawn_connection(session.map(move |()| drop(permit)));
        }
        None => {
            permit.on_answered();
            tokio::select! {
                () = linger::close(&local, stream) => {}
                () = permit.evicted() => {}
            }
        }
    }
}

type Answer = LocalBoxFuture<'static, Result<Response<Body>, Infallible>>;

/// An answer that waits for nothing.
fn ready(response: Response<Body>) -> Answer {
    std::future::ready(Ok(response)).boxed_local()
}

/// Asks for a session.
fn open(request: &Request<Incoming>, upgrade: &Cell<Option<ws::Opening>>, local: &Local) -> Answer {
    let response = match ws::Opening::read(request, local.config.compression) {
        Ok(opening) => {
            let response = opening.answer();
            upgrade.set(Some(opening));
            response
        }
        Err(refused) => {
            local.meters.of(crate::metrics::Door::WebSocket).refused.increment(1);
            *refused
        }
    };
    ready(response)
}

/// Asks for a session where there is room for none.
fn full() -> Answer {
    let fault = Fault::of(ErrorCode::Overloaded, "this server is full; come back later".to_owned());
    let mut response = fault.answer();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(BACK_SECS));
    ready(response)
}

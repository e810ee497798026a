//! One TCP connection: HTTP/1 until it ends, or becomes a WebSocket.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;

use axum::Router;
use axum::body::Body;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tower::ServiceExt;

use crate::lane::Local;
use crate::ws;

/// hyper takes no smaller buffer.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// Header lines of one request: browsers send about twenty.
const HEADERS_MAX: usize = 64;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Length: 0\r\n\
    Connection: close\r\n\r\n";

/// There is no room: said without a task and without reading what is asked.
pub(crate) fn turn_away(stream: &TcpStream) {
    // What does not fit into an empty socket buffer is not worth a wait.
    let _ = stream.try_write(FULL);
}

/// Serves one connection to its end. `permit` is its place among all connections.
pub(crate) async fn serve(
    local: Rc<Local>,
    stream: TcpStream,
    router: Router,
    permit: OwnedSemaphorePermit,
) {
    let opening = Rc::new(Cell::new(None));
    let upgrade = opening.clone();
    let meters = local.clone();
    let service = service_fn(move |request| answer(request, &router, &upgrade, &meters));
    let config = &local.config;
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.handshake_timeout)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN))
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {}
        () = local.leaving.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        }
    }
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    match opening.take() {
        // A task of its own: this one is several times as large, and idle sessions are many.
        Some(opening) => {
            let session = ws::run(local.clone(), stream, &parts.read_buf, opening);
            local.spawn_connection(session.map(move |()| drop(permit)));
        }
        None => {
            // An error only says that the client was first.
            let _ = stream.shutdown().await;
        }
    }
}

type Answer = LocalBoxFuture<'static, Result<Response<Body>, Infallible>>;

fn answer(
    request: Request<Incoming>,
    router: &Router,
    upgrade: &Cell<Option<ws::Opening>>,
    local: &Local,
) -> Answer {
    if request.uri().path() == "/ws" {
        let response = match ws::Opening::read(&request, local.config.compression) {
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
        return std::future::ready(Ok(response)).boxed_local();
    }
    router.clone().oneshot(request.map(Body::new)).boxed_local()
}

//! One TCP connection: HTTP/1 until it ends, or becomes a WebSocket.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;

use axum::Router;
use axum::body::Body;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pushonce_proto::client::ErrorCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tower::ServiceExt;

use crate::http::Fault;
use crate::lane::Local;
use crate::ws;

/// hyper takes no smaller buffer.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// Header lines of one request: browsers send about twenty.
const HEADERS_MAX: usize = 64;

/// Seconds after which it is worth to come back to a server that was full.
const BACK_SECS: u32 = 10;

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Length: 0\r\n\
    Connection: close\r\n\r\n";

/// The place of one connection, until it is dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    inside: bool,
}

impl Place {
    /// For a session, or as many requests as the client likes.
    pub(crate) fn inside(permit: OwnedSemaphorePermit) -> Place {
        Place { _permit: permit, inside: true }
    }

    /// For one answer. The server is full, and whoever looks after it must reach it all the more: who
    /// kills what does not answer would send everybody away.
    pub(crate) fn aside(permit: OwnedSemaphorePermit) -> Place {
        Place { _permit: permit, inside: false }
    }
}

/// There is no room, not even aside: said without a task and without reading what is asked.
pub(crate) fn turn_away(stream: &TcpStream) {
    // What does not fit into an empty socket buffer is not worth a wait.
    let _ = stream.try_write(FULL);
}

/// Serves one connection to its end.
pub(crate) async fn serve(local: Rc<Local>, stream: TcpStream, router: Router, place: Place) {
    let opening = Rc::new(Cell::new(None));
    let upgrade = opening.clone();
    let meters = local.clone();
    let inside = place.inside;
    let service = service_fn(move |request| match request.uri().path() {
        "/ws" if inside => open(&request, &upgrade, &meters),
        "/ws" => full(),
        _ => router.clone().oneshot(request.map(Body::new)).boxed_local(),
    });
    let config = &local.config;
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.handshake_timeout)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN))
        .max_headers(HEADERS_MAX)
        .keep_alive(inside)
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
            local.spawn_connection(session.map(move |()| drop(place)));
        }
        None => {
            // An error only says that the client was first.
            let _ = stream.shutdown().await;
        }
    }
}

type Answer = LocalBoxFuture<'static, Result<Response<Body>, Infallible>>;

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
    std::future::ready(Ok(response)).boxed_local()
}

/// Asks for a session where there is room for none.
fn full() -> Answer {
    let fault = Fault::of(ErrorCode::Overloaded, "this server is full; come back later".to_owned());
    let mut response = fault.answer();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(BACK_SECS));
    std::future::ready(Ok(response)).boxed_local()
}

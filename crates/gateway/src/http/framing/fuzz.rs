//! Bytes of an HTTP/1 connection: the scanner and hyper find the same requests in them.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use pushonce_fuzz::Input;

use super::RequestFraming;

/// A connection that receives these bytes and then nothing, and sends into nothing.
struct Received<'a>(&'a [u8]);

impl Read for Received<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.0.split_at(buffer.remaining().min(self.0.len()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Received<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What hyper finds on a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct HyperReport {
    requests: u64,
    /// The bodies that are complete.
    bodies: u64,
}

/// Serves the bytes with hyper as the gateway does: the response to a request with a violation closes the
/// connection. Every other response waits for the body of its request.
fn serve(bytes: &[u8], framing: &RequestFraming) -> HyperReport {
    let (requests, bodies) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let service = {
        let (requests, bodies) = (requests.clone(), bodies.clone());
        service_fn(move |request: Request<Incoming>| {
            requests.set(requests.get() + 1);
            let is_rejected = framing.violation(requests.get()).is_some();
            let bodies = bodies.clone();
            async move {
                let mut response = Response::new(Empty::<Bytes>::new());
                if is_rejected {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    return Ok::<_, Infallible>(response);
                }
                if request.into_body().collect().await.is_ok() {
                    bodies.set(bodies.get() + 1);
                }
                Ok(response)
            }
        })
    };
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(64)
        .serve_connection(Received(bytes), service);
    run_until_idle(connection);
    HyperReport { requests: requests.get(), bodies: bodies.get() }
}

/// Polls a future until it is ready, or waits for something that is not there.
fn run_until_idle(future: impl Future) {
    let woken = Arc::new(WokenFlag(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if future.as_mut().poll(&mut context).is_ready() {
            return;
        }
    }
}

struct WokenFlag(AtomicBool);

impl Wake for WokenFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> RequestFraming {
    let mut framing = RequestFraming::new();
    pieces.into_iter().for_each(|piece| framing.scan(piece));
    framing
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\nb\0\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    3;x=y\r\n\n\0\n\r\n0A\r\n\n\n\n\n\n\n\n\n\n\n\r\n0\r\nTrailer: a\r\n\r\n";

#[test]
fn no_request_of_the_connection_escapes_the_scanner() {
    let folded = "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n";
    let bare = "GET / HTTP/1.1\nHost: a\r\n\r\n";
    let two_lengths = "POST / HTTP/1.1\r\ncontent-length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upgrade =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let seeds = [
        [GET, POST, CHUNKED].concat(),
        [POST, "\r\n", GET].concat(),
        [CHUNKED, folded, GET].concat(),
        [GET, bare, GET].concat(),
        [two_lengths, GET].concat(),
        [upgrade, GET].concat(),
    ];
    let seeds = seeds.map(|seed| [&[30, 60, 9], seed.as_bytes()].concat());
    pushonce_fuzz::check!("http_heads", seeds.to_vec(), |input| {
        let pieces = Input::new(input).split_rest();
        let stream = pieces.concat();
        let whole = scan([&stream[..]]);
        for split in [scan(pieces), scan(stream.chunks(1))] {
            assert_eq!(split.violation, whole.violation);
            assert_eq!((split.begun, split.state), (whole.begun, whole.state));
        }
        let hyper = serve(&stream, &whole);
        // A request that the scanner does not count would be one that it took for a part of a body, and none
        // follows one with a violation: the gateway closes the connection there.
        let seen = whole.violation.map_or(whole.begun, |(request, _)| request);
        assert!(hyper.requests <= seen, "{hyper:?} {whole:?}");
        // hyper goes on after a complete body only: where the two disagree about its end, nothing follows.
        assert!(hyper.requests <= hyper.bodies + 1, "{hyper:?} {whole:?}");
    });
}

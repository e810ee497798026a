//! The listener of monitoring systems: metrics and health, without tokens and without anything else.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pushonce_listener::{ConnectionPurpose, DescriptorBudget, InfallibleListener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Maximum number of connections: those of a few collectors and load balancers.
const CONNECTIONS_MAX: usize = 64;

/// Maximum time for a request head, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time of a connection, so that no client that does not read holds one permanently.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(3_600);

/// Serves the pages until `stop` is cancelled.
pub(super) async fn run(listener: TcpListener, pages: Router, stop: CancellationToken) {
    let listener = InfallibleListener::new("monitoring", listener);
    let (permits, descriptors) =
        (std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX)), DescriptorBudget::for_process());
    let accept = async {
        loop {
            let stream = listener.accept().await;
            let permit = permits.clone().try_acquire_owned();
            if let Ok(permit) = permit
                && descriptors.admits(ConnectionPurpose::Probe, &stream)
            {
                let pages = pages.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, serve(stream, pages)).await;
                    drop(permit);
                });
            }
        }
    };
    stop.run_until_cancelled(accept).await;
}

async fn serve(stream: TcpStream, pages: Router) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let response = pages.clone().oneshot(request.map(Body::new));
        async move { Ok::<_, Infallible>(response.await.unwrap_or_else(|never| match never {})) }
    });
    // The client ended the connection, or sent no request.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

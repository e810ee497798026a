//! A real gateway on loopback ports, with an origin in place of the cluster behind it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod client;
pub mod origin;
pub mod raw;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use pushonce_fanout::{Hub, hub};
use pushonce_gateway::{Config, Encoder, Gateway, RunError, certificate};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use origin::Origin;

/// Far beyond what anything here takes; met only when something is lost.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    pub origin: Origin,
    pub http: SocketAddr,
    pub quic: SocketAddr,
    pub directory: TempDir,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Server {
    pub async fn start() -> Server {
        Server::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Server {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config { http: loopback, quic: loopback, lanes: 2, ..Config::default() };
        change(&mut config);
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = certificate::load_or_make(directory.path(), SystemTime::now());
        let (origin, feed) = Origin::new();
        let hub = Hub::new(hub::Config::default(), origin.upstream(), std::sync::Arc::new(Encoder));
        tokio::spawn(feed.run(hub.clone()));
        let extra = Router::new().route("/health/live", get(|| async { "ok" }));
        let certificate = certificate.expect("a certificate");
        let gateway =
            Gateway::bind(config, hub, origin.publisher(), origin.count(), extra, certificate);
        let gateway = gateway.expect("free ports");
        let shutdown = CancellationToken::new();
        let (http, quic) = (gateway.http_addr(), gateway.quic_addr());
        let running = tokio::spawn(gateway.run(shutdown.clone()));
        Server { origin, http, quic, directory, shutdown, running }
    }

    /// Tells the gateway to end. [`Server::ended`] is when it has.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    pub async fn ended(self) {
        self.stop();
        let ended = within(self.running).await.expect("no panic");
        ended.expect("an orderly end");
    }
}

/// What must not take long.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("within patience")
}

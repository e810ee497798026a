//! A real gateway on loopback ports, with an origin in place of the cluster behind it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod client;
pub mod lossy;
pub mod origin;
pub mod raw;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use pushonce_core::{ClusterId, ClusterView, NamespaceChange};
use pushonce_fanout::{Hub, hub};
use pushonce_gateway::{
    Admission, Behind, Config, Encoder, Gateway, MemoryUse, RunError, certificate,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use origin::Origin;
use raw::Raw;

/// Far beyond what anything here takes; met only when something is lost.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    pub origin: Origin,
    pub http: SocketAddr,
    pub quic: SocketAddr,
    pub directory: TempDir,
    view: watch::Sender<Arc<ClusterView>>,
    memory: MemoryUse,
    pub admission: Admission,
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
        let hub = Hub::new(hub::Config::default(), origin.upstream(), Arc::new(Encoder));
        tokio::spawn(feed.run(hub.clone()));
        let extra = Router::new().route("/health/live", get(|| async { "ok" }));
        let certificate = certificate.expect("a certificate");
        let (view, seen) = watch::channel(Arc::new(ClusterView::unknown(ClusterId(1))));
        let (publisher, audience) = (origin.publisher(), origin.count());
        let behind = Behind { hub, publisher, audience, view: seen };
        let gateway = Gateway::bind(config, behind, extra, certificate);
        let gateway = gateway.expect("free ports");
        let (memory, admission) = (gateway.memory(), gateway.admission());
        let shutdown = CancellationToken::new();
        let (http, quic) = (gateway.http_addr(), gateway.quic_addr());
        let running = tokio::spawn(gateway.run(shutdown.clone()));
        Server { origin, http, quic, directory, view, memory, admission, shutdown, running }
    }

    /// Says how many hundredths of its memory the process uses.
    pub fn uses(&self, hundredths: u64) {
        self.memory.set(hundredths, 100);
    }

    /// Waits until every lane takes connections in.
    pub async fn takes_in(&self) {
        self.answers("HTTP/1.1 101").await;
    }

    /// Waits until no lane takes connections in.
    pub async fn takes_nobody(&self) {
        self.answers("HTTP/1.1 503").await;
    }

    /// Waits until every lane answers so: the kernel spreads connections, so enough in a row.
    async fn answers(&self, with: &str) {
        let mut in_a_row = 0;
        within(async {
            while in_a_row < 20 {
                let answer = Raw::knock(self.http).await;
                in_a_row = if answer.starts_with(with) { in_a_row + 1 } else { 0 };
            }
        })
        .await;
    }

    /// Changes the default of all namespaces.
    pub fn set(&self, change: NamespaceChange) {
        if let Some(max) = change.payload_bytes_max {
            self.origin.set_payload_bytes_max(max as usize);
        }
        self.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.namespaces.default = view.namespaces.default.with(change);
        });
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

//! A real gateway on loopback ports, with a fake cluster behind it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod client;
pub mod cluster;
pub mod http;
pub mod issuer;
pub mod lossy;
pub mod raw;
pub mod webtransport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::routing::get;
use pushonce_auth::AccessControl;
use pushonce_core::{ClusterId, ClusterView, NamespaceChange};
use pushonce_fanout::{Hub, hub};
use pushonce_gateway::{
    Admission, Backend, Config, Encoder, Gateway, MemoryUse, PageAccess, Pages, RunError,
};
use pushonce_quic::{CertificateSource, certificate};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use cluster::FakeCluster;
use raw::RawConnection;

/// Test timeout, far beyond the duration of any step. It expires only when something is lost.
pub const TIMEOUT: Duration = Duration::from_secs(10);

pub struct TestGateway {
    pub cluster: FakeCluster,
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    pub quic: SocketAddr,
    pub directory: TempDir,
    view_sender: watch::Sender<Arc<ClusterView>>,
    memory: MemoryUse,
    pub admission: Admission,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl TestGateway {
    pub async fn start() -> TestGateway {
        TestGateway::with_config(|_| {}).await
    }

    pub async fn with_config(change: impl FnOnce(&mut Config)) -> TestGateway {
        TestGateway::start_with(None, change, AccessControl::open).await
    }

    /// A gateway with other access control than that of a node without issuers.
    pub async fn with_access(
        change: impl FnOnce(&mut Config),
        access: impl FnOnce(watch::Receiver<Arc<ClusterView>>) -> AccessControl,
    ) -> TestGateway {
        TestGateway::start_with(None, change, access).await
    }

    /// Starts a gateway whose QUIC port has this certificate, or a development certificate.
    pub async fn with_certificate(
        certificate: Option<CertificateSource>,
        change: impl FnOnce(&mut Config),
    ) -> TestGateway {
        TestGateway::start_with(certificate, change, AccessControl::open).await
    }

    async fn start_with(
        certificate: Option<CertificateSource>,
        change: impl FnOnce(&mut Config),
        access: impl FnOnce(watch::Receiver<Arc<ClusterView>>) -> AccessControl,
    ) -> TestGateway {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config { http: loopback, quic: loopback, lanes: 2, ..Config::default() };
        change(&mut config);
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = certificate.unwrap_or_else(|| {
            let generated = certificate::load_or_generate(directory.path(), SystemTime::now());
            CertificateSource::Development(generated.expect("a certificate"))
        });
        let (cluster, cluster_task) = FakeCluster::new();
        let hub = Hub::new(hub::Config::default(), cluster.upstream(), Arc::new(Encoder));
        tokio::spawn(cluster_task.run(hub.clone()));
        let health = get(|| async { "ok" });
        let extra = Pages::new().page("/health/live", PageAccess::Everyone, health);
        let (view_sender, view) = watch::channel(Arc::new(ClusterView::unknown(ClusterId(1))));
        let (publisher, audience) = (cluster.publisher(), cluster.audience_source());
        let access = access(view.clone());
        let backend = Backend { hub, publisher, audience, access, view };
        let gateway = Gateway::bind(config, backend, extra, certificate);
        let gateway = gateway.expect("free ports");
        let (memory, admission) = (gateway.memory(), gateway.admission());
        let shutdown = CancellationToken::new();
        let (http, quic) = (gateway.http_addr(), gateway.quic_addr());
        let https = gateway.https_addr();
        let task = tokio::spawn(gateway.run(shutdown.clone()));
        TestGateway {
            cluster,
            http,
            https,
            quic,
            directory,
            view_sender,
            memory,
            admission,
            shutdown,
            task,
        }
    }

    /// Sets the reported memory use of the process.
    pub fn set_memory_percent(&self, percent: u64) {
        self.memory.set(percent, 100, 0);
    }

    /// Waits until every lane accepts sessions.
    pub async fn wait_until_accepting(&self) {
        self.wait_for_response("HTTP/1.1 101").await;
    }

    /// Waits until every lane rejects sessions.
    pub async fn wait_until_rejecting(&self) {
        self.wait_for_response("HTTP/1.1 503").await;
    }

    /// Waits until every lane responds with `prefix`. The kernel distributes connections over the lanes, so
    /// 20 matching responses in a row are enough.
    async fn wait_for_response(&self, prefix: &str) {
        let mut in_a_row = 0;
        with_timeout(async {
            while in_a_row < 20 {
                let response = RawConnection::handshake_response(self.http).await;
                in_a_row = if response.starts_with(prefix) { in_a_row + 1 } else { 0 };
            }
        })
        .await;
    }

    /// Changes the default settings of all namespaces.
    pub fn change_namespaces(&self, change: NamespaceChange) {
        if let Some(max) = change.payload_bytes_max {
            self.cluster.set_payload_bytes_max(max as usize);
        }
        self.view_sender.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.namespaces.default = view.namespaces.default.with_change(change);
        });
    }

    /// Changes the view of the cluster, and counts it as a change of the namespaces.
    pub fn change_view(&self, change: impl FnOnce(&mut ClusterView)) {
        self.view_sender.send_modify(|view| {
            let view = Arc::make_mut(view);
            change(view);
            view.namespaces.revision += 1;
        });
    }

    /// Requests the shutdown of the gateway, for which [`TestGateway::wait_until_stopped`] waits.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    pub async fn wait_until_stopped(self) {
        self.stop();
        let result = with_timeout(self.task).await.expect("no panic");
        result.expect("a clean shutdown");
    }
}

/// Awaits a future for at most [`TIMEOUT`].
pub async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.expect("the test timed out")
}

//! A node inside a test process, for tests and doc examples.
//!
//! # Overview
//!
//! [`TestNode::start`] creates a cluster of one node and returns when the node is ready. The crate is a
//! dev-dependency of the SDK, whose doc examples run against such a node.
//!
//! # Guarantees
//!
//! - The node is the one of `pushonce serve`: the same engines, listeners and files.
//! - It listens on free loopback ports and writes to a temporary directory, so any number of processes can
//!   run one each. When the [`TestNode`] is dropped the node stops and the directory is deleted.
//!
//! # Non-goals
//!
//! Clusters of several nodes, and faults: `cluster-tests` starts processes for them.
//!
//! # Data flow
//!
//! The node runs in the tokio runtime of the caller; client sessions run on one lane thread.
//!
//! # Caller contract
//!
//! The caller keeps the [`TestNode`] while it uses the addresses. Every function panics on a failure, with
//! the reason.
//!
//! # Example
//!
//! ```
//! # #[tokio::main]
//! # async fn main() {
//! let node = pushonce_test_node::TestNode::start().await;
//! assert!(node.websocket().starts_with("ws://127.0.0.1:"));
//! # }
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use metrics_exporter_prometheus::PrometheusHandle;
use pushonce::config::{Config, Settings};
use pushonce::{Node, Pages, metrics};
use pushonce_quic::certificate::load_or_generate;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A running node.
pub struct TestNode {
    config: Config,
    // In this order: the node ends before its directory is deleted.
    _node: AbortOnDropHandle<()>,
    _data: TempDir,
}

/// Far longer than a start takes on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

impl TestNode {
    /// Starts a node and waits until it serves publishes and subscriptions.
    ///
    /// # Panics
    /// When the node cannot start, or is not ready after a minute.
    pub async fn start() -> TestNode {
        let data = tempfile::tempdir().expect("create a temporary directory");
        let config = node_config(data.path()).await;
        pushonce::init(&config).await.expect("create a cluster in an empty directory");
        let shutdown = CancellationToken::new();
        let node = Node::build(config.clone(), Pages::new(), recorder(), &shutdown).await;
        let node = node.expect("build a node").run(shutdown);
        let node = tokio::spawn(async { node.await.expect("run a node") });
        wait_until_ready(config.settings.http).await;
        TestNode { config, _node: AbortOnDropHandle::new(node), _data: data }
    }

    /// The address for WebSocket: `ws://HOST:PORT`.
    pub fn websocket(&self) -> String {
        format!("ws://{}", self.config.settings.http)
    }

    /// The address for QUIC: `quic://HOST:PORT`.
    pub fn quic(&self) -> String {
        format!("quic://{}", self.config.settings.quic)
    }

    /// The address for gRPC: `http://HOST:PORT`.
    pub fn grpc(&self) -> String {
        format!("http://{}", self.config.settings.grpc)
    }

    /// The SHA-256 hash of its QUIC certificate, in hexadecimal, as `GET /dev/certificate` returns it.
    pub fn certificate_fingerprint(&self) -> String {
        let certificate = load_or_generate(&self.config.data, SystemTime::now());
        certificate.expect("the node stored its certificate").fingerprint().sha256
    }
}

/// The settings of the only node of a cluster. Fewer shards than by default make the start faster.
async fn node_config(data: &Path) -> Config {
    let [http, quic, grpc, peer] = free_addresses().await;
    let settings = Settings {
        data: Some(data.to_owned()),
        http,
        quic,
        grpc,
        peer,
        shards: 1,
        replicas: 1,
        lanes: Some(1),
        ..Settings::default()
    };
    Config::resolve(settings).expect("valid settings")
}

/// Binds all ports at the same time, so that they differ.
async fn free_addresses() -> [SocketAddr; 4] {
    let mut listeners = Vec::new();
    for _ in 0..4 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        listeners.push(listener.expect("bind a free port"));
    }
    std::array::from_fn(|index| listeners[index].local_addr().expect("a bound listener"))
}

/// The recorder of metrics, which a process installs once.
fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER
        .get_or_init(|| metrics::install_recorder().expect("install a recorder of metrics"))
        .clone()
}

async fn wait_until_ready(http: SocketAddr) {
    let ready = async {
        while !is_ready(http).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(READY_TIMEOUT, ready).await.expect("the node becomes ready");
}

async fn is_ready(http: SocketAddr) -> bool {
    let request = async {
        let mut stream = TcpStream::connect(http).await?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: node\r\n\r\n").await?;
        let mut status_line = [0; 13];
        stream.read_exact(&mut status_line).await?;
        std::io::Result::Ok(&status_line == b"HTTP/1.1 200 ")
    };
    request.await.unwrap_or(false)
}

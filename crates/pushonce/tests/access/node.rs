//! A node with issuers in this process.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pushonce::config::{Config, HumanDuration, Settings};
use pushonce::{Node, metrics};
use pushonce_auth::AdminAccess;
use pushonce_gateway::Pages;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::pb::cluster::v1::revoked_tokens::Tokens;
use pushonce_proto::pb::cluster::v1::{
    NamespaceChange, RevokeRequest, RevokedTokens, SetNamespaceRequest,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;

use crate::token;

pub struct TestNode {
    pub http: SocketAddr,
    pub quic: SocketAddr,
    pub grpc: SocketAddr,
    pub monitoring: SocketAddr,
    pub channel: Channel,
    paths: Vec<String>,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    /// Stands for SIGHUP.
    reload: watch::Sender<()>,
    directory: TempDir,
}

/// How long the node may need to start or to apply a change.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes the issuers file, with an issuer that has these keys.
fn write_issuers(directory: &Path, key_ids: &[&str]) {
    let mut text = format!(
        "[[issuer]]\nissuer = {:?}\naudience = {:?}\nalgorithms = [\"HS256\"]\n",
        token::ISSUER,
        token::AUDIENCE,
    );
    for id in key_ids {
        let file = directory.join(id);
        std::fs::write(&file, token::secret_of(id)).expect("writable");
        text += &format!(
            "[[issuer.key]]\nid = {id:?}\nalgorithm = \"HS256\"\nsecret-file = {file:?}\n"
        );
    }
    std::fs::write(directory.join("issuers.toml"), text).expect("writable");
}

impl TestNode {
    /// Starts a node of one issuer, with the public namespace `public` and the revoked subject `revoked`.
    pub async fn start() -> TestNode {
        let directory = tempfile::tempdir().expect("a directory");
        let issuers = directory.path().join("issuers.toml");
        write_issuers(directory.path(), &[token::KEY, token::RETIRED_KEY]);
        let [http, grpc, peer, monitoring] = [(); 4].map(|()| free_tcp_address());
        let quic = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let quic = quic.expect("a free port");
        let settings = Settings {
            data: Some(directory.path().join("data")),
            http,
            quic,
            grpc,
            peer,
            monitoring: Some(monitoring),
            issuers: Some(issuers),
            lanes: Some(1),
            shutdown_grace: HumanDuration(Duration::ZERO),
            ..Settings::default()
        };
        let config = Config::resolve(settings).expect("valid settings");
        pushonce::init(&config).await.expect("an empty directory");
        let recorder = metrics::install_recorder().expect("the only one of this process");
        let shutdown = CancellationToken::new();
        let node = Node::build(config, demo_pages(), recorder, &shutdown).await.expect("a node");
        let paths = node.http_paths().iter().map(|path| (*path).to_owned()).collect();
        let (reload, reloads) = watch::channel(());
        let task = tokio::spawn(node.with_reload(reloads).run(shutdown.clone()));
        let channel = Channel::from_shared(format!("http://{grpc}")).expect("a URL");
        let channel = channel.connect_lazy();
        let node = TestNode {
            http,
            quic,
            grpc,
            monitoring,
            channel,
            paths,
            shutdown,
            task,
            reload,
            directory,
        };
        node.wait_until_ready().await;
        node.set_up().await;
        node
    }

    /// The data directory of the node.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Replaces the keys of the issuer.
    pub fn set_keys(&self, ids: &[&str]) {
        write_issuers(self.directory.path(), ids);
        self.reload.send_replace(());
    }

    async fn wait_until_ready(&self) {
        let ready = async {
            while self.get(self.http, "/health/ready", None).await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(START_TIMEOUT, ready).await.expect("the node does not get ready");
    }

    async fn set_up(&self) {
        let admin = token::mint("operator", 3_600, token::admin(AdminAccess::Write));
        let mut client = ClusterServiceClient::new(self.channel.clone());
        let change = NamespaceChange { anonymous_read: Some(true), ..Default::default() };
        let request = SetNamespaceRequest {
            name: Some("public".to_owned()),
            change: Some(change),
            force: false,
        };
        client.set_namespace(with_token(request, Some(&admin))).await.expect("an admin");
        let tokens = RevokedTokens {
            tokens: Some(Tokens::Subject("revoked".to_owned())),
            issued_before_ms: None,
        };
        let request = RevokeRequest { tokens: Some(tokens), keep_ms: 0 };
        client.revoke(with_token(request, Some(&admin))).await.expect("an admin");
    }

    /// The paths of the HTTP port, as the router has them.
    pub fn http_paths(&self) -> Vec<String> {
        self.paths.clone()
    }

    /// Sends a GET request. Returns the status and the whole response.
    pub async fn get(&self, to: SocketAddr, path: &str, token: Option<&str>) -> (u16, String) {
        self.request(to, "GET", path, token, "").await
    }

    /// Sends a request. Returns the status, 0 without a connection, and the whole response.
    pub async fn request(
        &self,
        to: SocketAddr,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect(to).await else { return (0, String::new()) };
        let token = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{token}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut response = Vec::new();
        let exchange = async {
            stream.write_all(head.as_bytes()).await?;
            stream.read_to_end(&mut response).await
        };
        if exchange.await.is_err() {
            return (0, String::new());
        }
        let response = String::from_utf8_lossy(&response).into_owned();
        let status = response.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or(0), response)
    }

    /// Requests an event stream. Returns the status, 0 without a response.
    pub async fn event_stream_status(&self, path: &str, token: Option<&str>) -> u16 {
        let Ok(mut stream) = TcpStream::connect(self.http).await else { return 0 };
        let token = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n{token}\r\n",
            self.http
        );
        let mut status_line = [0; "HTTP/1.1 200".len()];
        let exchange = async {
            stream.write_all(head.as_bytes()).await?;
            stream.read_exact(&mut status_line).await
        };
        let is_complete = exchange.await.is_ok();
        let status = String::from_utf8_lossy(&status_line[9..]).parse().ok();
        status.filter(|_| is_complete).unwrap_or(0)
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("a clean shutdown");
    }
}

/// A gRPC request with a token in its metadata.
pub fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn demo_pages() -> Pages {
    Pages::new().files(pushonce_console::demo(&[]))
}

/// The listener is closed again: no other process gets the port that soon.
fn free_tcp_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

//! The handshakes of a gRPC port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt as _};
use pushonce_listener::{ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming};
use pushonce_telemetry::test_util::TestRecorder;
use pushonce_tls::test_util::TestAuthority;
use pushonce_tls::{CertificateStore, HANDSHAKE_TIMEOUT, TlsConnection, accept, server_config};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::server::Connected as _;

type Connections = Pin<Box<dyn Stream<Item = Result<TlsConnection, Infallible>> + Send>>;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);

struct TestServer {
    address: SocketAddr,
    connections: Connections,
    authority: TestAuthority,
    store: CertificateStore,
    directory: tempfile::TempDir,
    recorder: TestRecorder,
}

async fn bind() -> (InfallibleListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (InfallibleListener::new("grpc", listener), address)
}

fn accept_on(listener: InfallibleListener, config: ServerConfig) -> Connections {
    let budget = DescriptorBudget::new(1 << 20);
    let connections = incoming(listener, budget, ConnectionPurpose::Publisher, None);
    Box::pin(accept(connections, Arc::new(config), "grpc"))
}

impl TestServer {
    async fn start() -> TestServer {
        let authority = TestAuthority::new();
        let directory = tempfile::tempdir().expect("a directory");
        let files = authority.issue(SystemTime::now()).write(directory.path());
        let store =
            CertificateStore::load("tls-cert", files, SystemTime::now()).expect("valid files");
        let config = server_config(&store, &[b"h2"], None).expect("valid settings");
        let recorder = TestRecorder::default();
        let (listener, address) = bind().await;
        let connections = recorder.run(|| accept_on(listener, config));
        TestServer { address, connections, authority, store, directory, recorder }
    }

    /// The two ends of a connection.
    async fn connected(&mut self) -> (TlsStream<TcpStream>, TlsConnection) {
        let client = connect(self.address, self.authority.client_config(&[b"h2"]));
        let pair = futures::future::join(client, self.connections.next());
        let (client, server) = timeout(TEST_TIMEOUT, pair).await.expect("both ends are ready");
        let Ok(server) = server.expect("endless");
        (client.expect("a handshake"), server)
    }
}

async fn connect(
    address: SocketAddr,
    config: rustls::ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn data_passes_and_the_application_protocol_is_negotiated() {
    let mut server = TestServer::start().await;
    let (mut client, mut connection) = server.connected().await;
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    client.write_all(b"request").await.unwrap();
    let mut received = [0; 7];
    connection.read_exact(&mut received).await.unwrap();
    connection.write_all(b"response").await.unwrap();
    let mut received = [0; 8];
    client.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"response");
    let remote = connection.connect_info().get_ref().remote_addr();
    assert_eq!(remote, client.get_ref().0.local_addr().ok());
}

#[tokio::test]
async fn open_connection_survives_a_reload_and_the_next_one_gets_the_new_certificate() {
    let mut server = TestServer::start().await;
    let (mut client, mut connection) = server.connected().await;
    let chain = |client: &TlsStream<TcpStream>| {
        client.get_ref().1.peer_certificates().map(<[CertificateDer<'_>]>::to_vec)
    };
    server.authority.issue(SystemTime::now()).write(server.directory.path());
    server.store.reload(SystemTime::now());
    client.write_all(b"x").await.unwrap();
    assert_eq!(connection.read_u8().await.unwrap(), b'x');
    let (next, _connection) = server.connected().await;
    assert_ne!(chain(&client), chain(&next));
}

#[tokio::test]
async fn other_protocols_and_cut_handshakes_are_closed_and_the_next_client_is_served() {
    let mut server = TestServer::start().await;
    let hello = client_hello(&server.authority).await;
    let cuts = [0, 1, 4, 5, 6, 43, hello.len() / 2, hello.len() - 1].map(|end| &hello[..end]);
    let inputs = cuts.into_iter().chain([&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n"]);
    let mut count = 0;
    for input in inputs {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(input).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let closed = async {
            tokio::select! {
                _ = server.connections.next() => panic!("{input:?} was accepted"),
                read = client.read_to_end(&mut answer) => read,
            }
        };
        let _ = timeout(TEST_TIMEOUT, closed).await.expect("closed at once");
        count += 1;
    }
    server.connected().await;
    let failures =
        server.recorder.value("pushonce_tls_handshake_failures_total", &["grpc", "error"]);
    assert_eq!(failures, f64::from(count));
}

#[tokio::test(start_paused = true)]
async fn client_that_stalls_in_the_handshake_delays_nobody_and_is_disconnected() {
    let mut server = TestServer::start().await;
    let hello = client_hello(&server.authority).await;
    let mut stalled = TcpStream::connect(server.address).await.unwrap();
    stalled.write_all(&hello[..hello.len() - 1]).await.unwrap();
    server.connected().await;
    let (start, mut answer) = (Instant::now(), Vec::new());
    tokio::select! {
        _ = server.connections.next() => panic!("an incomplete handshake was accepted"),
        read = stalled.read_to_end(&mut answer) => drop(read),
    }
    assert!(start.elapsed() <= HANDSHAKE_TIMEOUT + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn client_that_is_silent_after_the_handshake_is_disconnected() {
    let mut server = TestServer::start().await;
    let (_client, mut connection) = server.connected().await;
    let read = timeout(Duration::from_secs(60), connection.read_u8()).await;
    let error = read.expect("the deadline of the preface").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

/// The first message of a handshake.
async fn client_hello(authority: &TestAuthority) -> Vec<u8> {
    let (client, mut server) = tokio::io::duplex(1 << 14);
    let config = Arc::new(authority.client_config(&[b"h2"]));
    let name = ServerName::try_from("localhost").expect("a name");
    let handshake = TlsConnector::from(config).connect(name, client);
    let mut hello = vec![0; 1 << 14];
    tokio::select! {
        _ = handshake => unreachable!("no server answers"),
        read = server.read(&mut hello) => hello.truncate(read.expect("read")),
    }
    hello
}

//! TLS handshakes on the accepted connections of a gRPC port.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use pushonce_listener::GrpcConnection;
use pushonce_telemetry::Counter;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::{Evicted, Handshakes, metrics};

/// Timeout of a handshake: several lost packets on a slow link.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum concurrent handshakes of a listener. One takes some round trips and some 20 KiB, so that clients that
/// never finish hold at most 20 MiB.
const HANDSHAKES_MAX: usize = 1_024;

/// A connection after its handshake. `tonic::Request::peer_certs` returns the certificates of the client.
pub type TlsConnection = GrpcConnection<TlsStream<TcpStream>>;

/// The connections of `incoming` whose handshake succeeded. Handshakes run concurrently, each in a task of its own,
/// and have a timeout of [`HANDSHAKE_TIMEOUT`]. Other connections are closed and counted in
/// `pushonce_tls_handshake_failures_total` with the name of the `listener`.
pub fn accept(
    incoming: impl Stream<Item = Result<GrpcConnection, Infallible>> + Send + 'static,
    config: Arc<ServerConfig>,
    listener: &'static str,
) -> impl Stream<Item = Result<TlsConnection, Infallible>> + Send + 'static {
    Acceptor::new(incoming.boxed(), config, listener, HANDSHAKES_MAX).into_stream()
}

struct Acceptor {
    incoming: BoxStream<'static, Result<GrpcConnection, Infallible>>,
    acceptor: TlsAcceptor,
    listener: &'static str,
    handshakes: Handshakes<Result<TlsConnection, HandshakeError>>,
    failures: FailureCounters,
}

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error(transparent)]
    Failed(#[from] io::Error),
    #[error("it did not finish within {HANDSHAKE_TIMEOUT:?}")]
    TimedOut,
    #[error(transparent)]
    Evicted(#[from] Evicted),
}

struct FailureCounters {
    error: Counter,
    timeout: Counter,
    evicted: Counter,
}

impl Acceptor {
    fn new(
        incoming: BoxStream<'static, Result<GrpcConnection, Infallible>>,
        config: Arc<ServerConfig>,
        listener: &'static str,
        concurrent_max: usize,
    ) -> Acceptor {
        Acceptor {
            incoming,
            acceptor: TlsAcceptor::from(config),
            listener,
            handshakes: Handshakes::new(concurrent_max),
            failures: FailureCounters::new(listener),
        }
    }

    fn into_stream(self) -> impl Stream<Item = Result<TlsConnection, Infallible>> + Send {
        stream::unfold(self, async |mut acceptor| {
            let connection = acceptor.next().await?;
            Some((Ok(connection), acceptor))
        })
    }

    /// The next connection whose handshake succeeded, or `None` when there are no more.
    async fn next(&mut self) -> Option<TlsConnection> {
        loop {
            tokio::select! {
                Some(finished) = self.handshakes.next() => {
                    if let Some(connection) = self.on_finished(finished) {
                        return Some(connection);
                    }
                }
                accepted = self.incoming.next() => {
                    let Ok(connection) = accepted?;
                    self.start(connection);
                }
            }
        }
    }

    fn start(&mut self, connection: GrpcConnection) {
        let acceptor = self.acceptor.clone();
        let handshake = connection.try_wrap(async move |stream| acceptor.accept(stream).await);
        self.handshakes.start(async {
            timeout(HANDSHAKE_TIMEOUT, handshake)
                .await
                .map_err(|_| HandshakeError::TimedOut)?
                .map_err(HandshakeError::Failed)
        });
    }

    fn on_finished(
        &self,
        finished: Result<Result<TlsConnection, HandshakeError>, Evicted>,
    ) -> Option<TlsConnection> {
        let error = match finished {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(error)) => error,
            Err(evicted) => evicted.into(),
        };
        match error {
            HandshakeError::Failed(_) => self.failures.error.increment(1),
            HandshakeError::TimedOut => self.failures.timeout.increment(1),
            HandshakeError::Evicted(_) => self.failures.evicted.increment(1),
        }
        tracing::debug!(%error, listener = self.listener, "TLS handshake failed");
        None
    }
}

impl FailureCounters {
    fn new(listener: &str) -> FailureCounters {
        let counter = |reason| metrics::HANDSHAKE_FAILURES.register_counter(&[listener, reason]);
        FailureCounters {
            error: counter("error"),
            timeout: counter("timeout"),
            evicted: counter("evicted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use pushonce_listener::{ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming};
    use pushonce_telemetry::test_util::TestRecorder;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::test_util::TestAuthority;
    use crate::{CertificateStore, server_config};

    #[tokio::test]
    async fn oldest_handshake_gives_way_when_too_many_are_open() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let files = TestAuthority::new().issue(now).write(directory.path());
        let store = CertificateStore::load("tls-cert", files, now).unwrap();
        let config = Arc::new(server_config(&store, &[], None).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = incoming(
            InfallibleListener::new("grpc", listener),
            DescriptorBudget::new(1 << 20),
            ConnectionPurpose::Publisher,
            None,
        );
        let recorder = TestRecorder::default();
        let mut acceptor = recorder.run(|| Acceptor::new(connections.boxed(), config, "grpc", 2));
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let mut oldest = clients.remove(0);
        tokio::select! {
            _ = acceptor.next() => panic!("no client sent anything"),
            closed = oldest.read_u8() => assert!(closed.is_err()),
        }
        for client in &clients {
            let still_open = client.try_read(&mut [0]).unwrap_err();
            assert_eq!(still_open.kind(), io::ErrorKind::WouldBlock);
        }
        let counter = "pushonce_tls_handshake_failures_total";
        // It is counted when its task has ended, a moment after its connection is closed.
        while recorder.value(counter, &["grpc", "evicted"]) < 1.0 {
            let _ = timeout(Duration::from_millis(1), acceptor.next()).await;
        }
    }
}

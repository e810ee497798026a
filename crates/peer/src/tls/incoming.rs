//! The accepting side of the peer port.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use pushonce_ca::CertificateInfo;
use pushonce_telemetry::LogLimiter;
use pushonce_tls::{Evicted, Handshakes};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::MutualTls;
use super::connection::{PeerConnection, PeerInfo};
use super::verifier::{CertificateRejection, named_node, rejection_of};
use crate::{Credentials, metrics};

/// Timeout of a handshake: some round trips. A connection that stays silent ends with it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of concurrent handshakes: some 20 KiB each. The oldest gives way to a newer one, so that silent
/// connections keep no node out.
const HANDSHAKES_MAX: usize = 1_024;

/// Maximum duration of a connection without a certificate: a join takes some seconds.
const JOINER_LIFETIME_MAX: Duration = Duration::from_secs(30);

/// Why a connection was closed before its first call.
#[derive(Debug, thiserror::Error)]
enum HandshakeFailure {
    #[error("the handshake failed: {0}")]
    Tls(std::io::Error),
    #[error(
        "the caller does not speak TLS: give it --peer-cert, --peer-key and --peer-ca, or correct the \
         address that it dials"
    )]
    Plaintext,
    #[error("the certificate is not acceptable: {0}")]
    Certificate(#[from] CertificateRejection),
    #[error("the handshake took longer than {HANDSHAKE_TIMEOUT:?}")]
    TimedOut,
    #[error(transparent)]
    Evicted(#[from] Evicted),
}

impl HandshakeFailure {
    /// The label of the counter.
    fn reason(&self) -> &'static str {
        match self {
            HandshakeFailure::Tls(_) => "tls",
            HandshakeFailure::Plaintext => "plaintext",
            HandshakeFailure::Certificate(_) => "certificate",
            HandshakeFailure::TimedOut => "timeout",
            HandshakeFailure::Evicted(_) => "evicted",
        }
    }
}

/// Secures the connections of the peer port with the credentials of this node. Connections that fail are
/// closed, logged and counted.
pub(crate) fn incoming<IO, E>(
    credentials: Credentials,
    connections: impl Stream<Item = Result<IO, E>> + Send + 'static,
) -> impl Stream<Item = Result<PeerConnection<IO>, E>>
where
    IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static,
    E: 'static,
{
    let handshakes = Handshakes::new(HANDSHAKES_MAX);
    let acceptor = Acceptor { credentials, connections: connections.boxed(), handshakes };
    stream::unfold(acceptor, async |mut acceptor| {
        let connection = acceptor.next().await?;
        Some((connection, acceptor))
    })
}

struct Acceptor<IO, E> {
    credentials: Credentials,
    connections: BoxStream<'static, Result<IO, E>>,
    handshakes: Handshakes<Result<PeerConnection<IO>, FailedHandshake>>,
}

/// A handshake that failed, and the address of the caller where it is known.
struct FailedHandshake {
    failure: HandshakeFailure,
    address: Option<SocketAddr>,
}

impl<IO, E> Acceptor<IO, E>
where
    IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static,
{
    /// The next connection that is secured, or an error of the listener; `None` when there are no more.
    async fn next(&mut self) -> Option<Result<PeerConnection<IO>, E>> {
        loop {
            tokio::select! {
                Some(finished) = self.handshakes.next() => {
                    if let Some(connection) = secured(finished) {
                        return Some(Ok(connection));
                    }
                }
                accepted = self.connections.next() => {
                    let io = match accepted? {
                        Ok(io) => io,
                        Err(error) => return Some(Err(error)),
                    };
                    let address = io.connect_info().remote_addr();
                    let info = PeerInfo { address, node: None };
                    let tls = match &self.credentials {
                        Credentials::Plaintext => {
                            return Some(Ok(PeerConnection::plaintext(io, info)));
                        }
                        Credentials::MutualTls(tls) => tls.clone(),
                    };
                    self.handshakes.start(async move {
                        let accepted = accept(tls, io, info).await;
                        accepted.map_err(|failure| FailedHandshake { failure, address })
                    });
                }
            }
        }
    }
}

/// The connection of a handshake that has ended. A failure is logged and counted.
fn secured<IO>(
    finished: Result<Result<PeerConnection<IO>, FailedHandshake>, Evicted>,
) -> Option<PeerConnection<IO>> {
    let failed = match finished {
        Ok(Ok(connection)) => return Some(connection),
        Ok(Err(failed)) => failed,
        Err(evicted) => FailedHandshake { failure: evicted.into(), address: None },
    };
    report(&failed);
    None
}

async fn accept<IO>(
    tls: MutualTls,
    io: IO,
    info: PeerInfo,
) -> Result<PeerConnection<IO>, HandshakeFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.loaded().server.clone());
    let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(io)).await;
    let stream = stream.map_err(|_| HandshakeFailure::TimedOut)?.map_err(handshake_failure)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let (node, lifetime_max) = match certificates.first() {
        Some(certificate) => {
            let node = named_node(certificate, tls.node().cluster)?;
            (Some(node), remaining_validity(certificate, SystemTime::now()))
        }
        // The configuration admits it only where nodes may join.
        None => (None, JOINER_LIFETIME_MAX),
    };
    Ok(PeerConnection::tls(stream.into(), PeerInfo { node, ..info }, lifetime_max))
}

fn handshake_failure(error: std::io::Error) -> HandshakeFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => HandshakeFailure::Plaintext,
        Some(tls) => match rejection_of(tls) {
            Some(rejection) => HandshakeFailure::Certificate(rejection),
            None => HandshakeFailure::Tls(error),
        },
        None => HandshakeFailure::Tls(error),
    }
}

/// The time until a certificate expires; zero for one that is malformed.
pub(super) fn remaining_validity(certificate: &CertificateDer<'_>, now: SystemTime) -> Duration {
    let info = CertificateInfo::parse(certificate).ok();
    info.and_then(|info| info.not_after.duration_since(now).ok()).unwrap_or_default()
}

fn report(FailedHandshake { failure, address }: &FailedHandshake) {
    static LIMITER: LogLimiter = LogLimiter::new();
    metrics::REJECTED_HANDSHAKES.register_counter(&[failure.reason()]).increment(1);
    if let Some(suppressed) = LIMITER.allow(Instant::now()) {
        tracing::warn!(error = %failure, peer = ?address, suppressed,
            "closed a connection to the peer port");
    }
}

/// A TLS caller at a port without TLS.
pub(super) fn report_unexpected_tls(info: PeerInfo) {
    static LIMITER: LogLimiter = LogLimiter::new();
    metrics::REJECTED_HANDSHAKES.register_counter(&["unexpected_tls"]).increment(1);
    if let Some(suppressed) = LIMITER.allow(Instant::now()) {
        tracing::warn!(peer = ?info.address, suppressed,
            "closed a connection to the peer port: the caller speaks TLS and this node does not; give this \
             node --peer-cert, --peer-key and --peer-ca, or correct the address that the caller dials");
    }
}

//! One connection between nodes, secured or not.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pushonce_core::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use super::incoming::report_unexpected_tls;

/// A connection between two nodes. It ends with the certificate of the peer.
#[derive(Debug)]
pub struct PeerConnection<IO> {
    stream: Stream<IO>,
    end: Option<Pin<Box<Sleep>>>,
    info: PeerInfo,
}

/// What a node knows about the other end of a connection. In the extensions of each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// The address of the other end.
    pub address: Option<SocketAddr>,
    /// The node that the certificate names; `None` without TLS, and for a node that joins.
    pub node: Option<SpiffeId>,
}

#[derive(Debug)]
enum Stream<IO> {
    Plaintext { io: IO, has_begun: bool },
    Tls(Box<TlsStream<IO>>),
}

/// The first byte of a TLS handshake. HTTP/2 begins with the letter P.
const TLS_HANDSHAKE: u8 = 0x16;

impl<IO> PeerConnection<IO> {
    pub(super) fn plaintext(io: IO, info: PeerInfo) -> PeerConnection<IO> {
        PeerConnection { stream: Stream::Plaintext { io, has_begun: false }, end: None, info }
    }

    pub(super) fn tls(
        stream: TlsStream<IO>,
        info: PeerInfo,
        lifetime_max: Duration,
    ) -> PeerConnection<IO> {
        let end = Some(Box::pin(tokio::time::sleep(lifetime_max)));
        PeerConnection { stream: Stream::Tls(Box::new(stream)), end, info }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(end) = &mut self.end else { return Poll::Pending };
        end.as_mut().poll(cx).map(|()| {
            io::Error::new(io::ErrorKind::TimedOut, "the certificate of the peer has expired")
        })
    }
}

impl<IO> Connected for PeerConnection<IO> {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for PeerConnection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Before the read: a peer that sends without pause always has bytes to read.
        if let Poll::Ready(error) = self.poll_end(cx) {
            return Poll::Ready(Err(error));
        }
        let (info, filled) = (self.info, buffer.filled().len());
        match &mut self.stream {
            Stream::Plaintext { io, has_begun } => {
                let read = Pin::new(io).poll_read(cx, buffer);
                if read.is_ready() && !std::mem::replace(has_begun, true) {
                    let is_tls = buffer.filled().get(filled) == Some(&TLS_HANDSHAKE);
                    if is_tls {
                        report_unexpected_tls(info);
                        return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                    }
                }
                read
            }
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PeerConnection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plaintext { io, .. } => Pin::new(io).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plaintext { io, .. } => Pin::new(io).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plaintext { io, .. } => Pin::new(io).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plaintext { io, .. } => Pin::new(io).poll_write_vectored(cx, pieces),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plaintext { io, .. } => io.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_connection_ends_with_the_certificate_of_the_peer() {
        let (near, _far) = tokio::io::duplex(64);
        let mut connection = PeerConnection::plaintext(near, PeerInfo::default());
        connection.end = Some(Box::pin(tokio::time::sleep(Duration::from_secs(3_600))));
        let error = connection.read_u8().await.expect_err("no byte arrives");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_with_unread_bytes_ends_with_the_certificate_of_the_peer() {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(&[0; 64]).await.expect("there is room");
        let mut connection = PeerConnection::plaintext(near, PeerInfo::default());
        connection.end = Some(Box::pin(tokio::time::sleep(Duration::from_secs(3_600))));
        connection.read_u8().await.expect("the certificate is valid");
        tokio::time::advance(Duration::from_secs(3_601)).await;
        let error = connection.read_u8().await.expect_err("the certificate has expired");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

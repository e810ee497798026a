//! An accepted TCP connection of a gRPC server, with a deadline for its preface.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// Length of the HTTP/2 client preface (RFC 9113, 3.4). Keep-alive pings begin after it, so a connection that
/// never sends it would stay open forever.
const PREFACE_BYTES: usize = 24;

/// Timeout of the preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// One accepted connection, of TCP or of a protocol above it.
#[derive(Debug)]
pub struct GrpcConnection<S = TcpStream> {
    stream: S,
    /// `None` once the preface was read.
    preface: Option<PrefaceDeadline>,
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct PrefaceDeadline {
    remaining_bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> GrpcConnection<S> {
    pub(crate) fn new(stream: S, permit: Option<OwnedSemaphorePermit>) -> GrpcConnection<S> {
        let deadline = Box::pin(tokio::time::sleep(PREFACE_TIMEOUT));
        let preface = Some(PrefaceDeadline { remaining_bytes: PREFACE_BYTES, deadline });
        GrpcConnection { stream, preface, permit }
    }

    /// Replaces the stream by the result of `handshake` on it. The deadline of the preface begins again: the
    /// preface follows the handshake. The handshake needs a deadline of its own.
    ///
    /// # Errors
    /// Those of `handshake`; the connection is closed.
    pub async fn try_wrap<T, E>(
        self,
        handshake: impl AsyncFnOnce(S) -> Result<T, E>,
    ) -> Result<GrpcConnection<T>, E> {
        let stream = handshake(self.stream).await?;
        Ok(GrpcConnection::new(stream, self.permit))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(preface) = &mut self.preface else { return Poll::Pending };
        preface.deadline.as_mut().poll(cx).map(|()| {
            io::Error::new(io::ErrorKind::TimedOut, "the client sent no HTTP/2 preface in time")
        })
    }

    fn on_read(&mut self, bytes: usize) {
        if let Some(preface) = &mut self.preface {
            preface.remaining_bytes = preface.remaining_bytes.saturating_sub(bytes);
            if preface.remaining_bytes == 0 {
                self.preface = None;
            }
        }
    }
}

impl<S: Connected> Connected for GrpcConnection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GrpcConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match read {
            Poll::Ready(Ok(())) => self.on_read(buffer.filled().len() - before),
            Poll::Pending => {
                if let Poll::Ready(error) = self.poll_deadline(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GrpcConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

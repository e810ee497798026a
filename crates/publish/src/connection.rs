//! A gRPC connection, which is closed after some minutes without a call.
//!
//! A client that answers the pings of the server would otherwise hold a connection indefinitely. A client library
//! connects again by itself at the next call.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pushonce_telemetry::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use crate::metrics;

/// Interval of the checks whether a connection is idle. One is closed after one to two intervals without a call:
/// longer than a back end pauses between two publishes of a burst, and a new connection costs it a handshake.
const IDLE_INTERVAL: Duration = Duration::from_secs(300);

/// A connection whose calls are counted. Its requests have a [`ConnectionInfo`] in their extensions.
pub(crate) struct CallConnection<S> {
    stream: S,
    calls: Arc<Calls>,
    check: Pin<Box<Sleep>>,
    /// The calls that had begun at the last check.
    begun_before: u64,
    closed_total: Counter,
}

/// What a call knows about its connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    pub(crate) remote: Option<SocketAddr>,
    calls: Arc<Calls>,
}

/// The calls of one connection.
#[derive(Debug, Default)]
struct Calls {
    begun: AtomicU64,
    open: AtomicUsize,
}

/// A call in progress, until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<Calls>);

/// The address of the client of a connection with or without TLS.
pub(crate) trait RemoteAddress {
    fn remote_address(&self) -> Option<SocketAddr>;
}

impl RemoteAddress for TcpConnectInfo {
    fn remote_address(&self) -> Option<SocketAddr> {
        self.remote_addr()
    }
}

impl RemoteAddress for TlsConnectInfo<TcpConnectInfo> {
    fn remote_address(&self) -> Option<SocketAddr> {
        self.get_ref().remote_addr()
    }
}

impl ConnectionInfo {
    /// Counts a call as in progress until the result is dropped.
    pub(crate) fn begin_call(&self) -> OpenCall {
        self.calls.begun.fetch_add(1, Ordering::Relaxed);
        self.calls.open.fetch_add(1, Ordering::Relaxed);
        OpenCall(self.calls.clone())
    }

    #[cfg(test)]
    pub(crate) fn open_calls(&self) -> usize {
        self.calls.open.load(Ordering::Relaxed)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> CallConnection<S> {
    pub(crate) fn new(stream: S) -> CallConnection<S> {
        CallConnection {
            stream,
            calls: Arc::default(),
            check: Box::pin(tokio::time::sleep(IDLE_INTERVAL)),
            begun_before: 0,
            closed_total: metrics::IDLE_CLOSED.register_counter(&[]),
        }
    }

    pub(crate) fn info(&self, remote: Option<SocketAddr>) -> ConnectionInfo {
        ConnectionInfo { remote, calls: self.calls.clone() }
    }

    /// Ready when no call was in progress for a whole interval.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.check.as_mut().poll(cx).is_ready() {
            let begun = self.calls.begun.load(Ordering::Relaxed);
            let is_used = begun != self.begun_before || self.calls.open.load(Ordering::Relaxed) > 0;
            if !is_used {
                self.closed_total.increment(1);
                return Poll::Ready(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the connection had no call for some minutes",
                ));
            }
            self.begun_before = begun;
            self.check.as_mut().reset(Instant::now() + IDLE_INTERVAL);
        }
        Poll::Pending
    }
}

impl<S: Connected<ConnectInfo: RemoteAddress>> Connected for CallConnection<S> {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info(self.stream.connect_info().remote_address())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CallConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Before the read: a client that sends without a pause is checked, too.
        if let Poll::Ready(error) = self.poll_idle(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CallConnection<S> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream};

    use super::*;

    fn connection() -> (CallConnection<DuplexStream>, ConnectionInfo, DuplexStream) {
        let (client, server) = tokio::io::duplex(64);
        let connection = CallConnection::new(server);
        let info = connection.info(None);
        (connection, info, client)
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_call_is_closed_although_the_client_answers_pings() {
        let (mut connection, _, mut client) = connection();
        let pings = async {
            loop {
                tokio::io::AsyncWriteExt::write_all(&mut client, b"pong").await.expect("open");
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        let mut received = Vec::new();
        let error = tokio::select! {
            read = connection.read_to_end(&mut received) => read.expect_err("idle"),
            () = pings => unreachable!("endless"),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(received.len() > 40, "{} bytes", received.len());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_call_is_closed_although_bytes_are_always_readable() {
        let (mut connection, _, mut client) = connection();
        for _ in 0..3 {
            tokio::io::AsyncWriteExt::write_all(&mut client, b"pong").await.expect("open");
            tokio::time::advance(IDLE_INTERVAL / 2 + Duration::from_secs(1)).await;
            let read = connection.read(&mut [0; 4]).await;
            if let Err(error) = read {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                return;
            }
        }
        panic!("the connection is still open");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_with_a_call_stays_open_until_an_interval_after_its_end() {
        let (mut connection, info, _client) = connection();
        let call = info.begin_call();
        let mut buffer = [0; 4];
        let read = tokio::time::timeout(10 * IDLE_INTERVAL, connection.read(&mut buffer)).await;
        assert!(read.is_err(), "a call is in progress");
        drop(call);
        // A call that begins and ends between two checks.
        drop(info.begin_call());
        let ended_at = Instant::now();
        connection.read(&mut buffer).await.expect_err("idle");
        assert!(ended_at.elapsed() >= IDLE_INTERVAL, "{:?}", ended_at.elapsed());
    }
}

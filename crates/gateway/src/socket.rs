//! The socket of a client: TCP, or TLS above it.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Suppresses SIGPIPE on a closed socket.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// No flag: on these systems SIGPIPE is suppressed by an option of the socket.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// The socket of a client. HTTP uses it as a stream; a WebSocket session shares it between its task, which reads,
/// and its sink, which writes.
pub(crate) trait ClientSocket: AsyncRead + AsyncWrite + Unpin + 'static {
    /// The TCP connection.
    fn tcp(&self) -> &TcpStream;

    /// Ready when there may be something to read.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what is available. [`io::ErrorKind::Interrupted`] means that bytes were received that contain no data.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes one piece.
    fn try_write(&self, piece: &[u8]) -> io::Result<usize>;

    /// Writes several pieces.
    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Whether bytes that a write accepted wait for the socket. Nothing else can be written before them.
    fn has_unsent(&self) -> bool;

    /// Sends such bytes until the socket is full, and returns how many were sent.
    fn flush_unsent(&self) -> io::Result<usize>;

    /// Ends the outgoing stream. To be repeated while there are unsent bytes.
    fn close_write(&self);
}

impl ClientSocket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer)
    }

    fn try_write(&self, piece: &[u8]) -> io::Result<usize> {
        send_one(self, piece)
    }

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match sendmsg(self, pieces, &mut SendAncillaryBuffer::default(), NO_SIGNAL) {
            Err(Errno::AGAIN) => self.try_write_vectored(pieces),
            sent => Ok(sent?),
        }
    }

    fn has_unsent(&self) -> bool {
        false
    }

    fn flush_unsent(&self) -> io::Result<usize> {
        Ok(0)
    }

    fn close_write(&self) {
        // An error means that the client has already closed the connection.
        let _ = SockRef::from(self).shutdown(Shutdown::Write);
    }
}

/// Writes one piece without a lookup of the runtime's state of the socket, which with thousands of sockets is a
/// cache miss. If the socket is full, the write is repeated through the runtime, which then waits for writability.
pub(crate) fn send_one(stream: &TcpStream, piece: &[u8]) -> io::Result<usize> {
    match send(stream, piece, NO_SIGNAL) {
        Err(Errno::AGAIN) => stream.try_write(piece),
        sent => Ok(sent?),
    }
}

//! The socket of a client: TCP, or TLS above it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

use crate::reactor::{Reactor, SessionTcp};

/// Suppresses SIGPIPE on a closed socket.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// No flag: on these systems SIGPIPE is suppressed by an option of the socket.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// A TCP connection: registered with the runtime while it speaks HTTP, and with the reactor of its lane as a session.
pub(crate) trait Tcp: AsFd + 'static {
    /// The address of the client, while the connection lasts.
    fn peer_addr(&self) -> io::Result<SocketAddr>;

    /// Ready when there may be something to read.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when there may be room to write.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads the available bytes, at most as many as `buffer` holds.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes one piece.
    fn try_send(&self, piece: &[u8]) -> io::Result<usize>;

    /// Writes several pieces.
    fn try_send_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// The socket of a client. A session shares it between its task, which reads, and its sink, which writes.
pub(crate) trait ClientSocket: 'static {
    /// The TCP connection under it.
    type Tcp: Tcp;

    /// The TCP connection.
    fn tcp(&self) -> &Self::Tcp;

    /// Ready when there may be something to read.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads the available bytes, at most as many as `buffer` holds. [`io::ErrorKind::Interrupted`] means that bytes were received that contain no data.
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

/// The socket of a connection that speaks HTTP.
pub(crate) trait HttpSocket:
    ClientSocket<Tcp = TcpStream> + AsyncRead + AsyncWrite + Unpin
{
    /// Whether the connection has TLS.
    const IS_TLS: bool;

    /// The socket of the session that the connection becomes.
    type Session: SessionSocket;

    /// Moves the connection from the runtime to the reactor.
    ///
    /// # Errors
    /// When the system has no room for the registration.
    fn into_session(self, reactor: &Rc<Reactor>) -> io::Result<Self::Session>;
}

/// The socket of a session.
pub(crate) trait SessionSocket: ClientSocket<Tcp = SessionTcp> {}

impl<S: ClientSocket<Tcp = SessionTcp>> SessionSocket for S {}

/// Completes when there may be something to read.
pub(crate) async fn readable(tcp: &impl Tcp) -> io::Result<()> {
    poll_fn(|cx| tcp.poll_read_ready(cx)).await
}

/// Completes when there may be room to write.
pub(crate) async fn writable(tcp: &impl Tcp) -> io::Result<()> {
    poll_fn(|cx| tcp.poll_write_ready(cx)).await
}

/// Sends one piece with one system call. The recorded readiness of the socket is not changed.
pub(crate) fn send(socket: impl AsFd, piece: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, piece, NO_SIGNAL)?)
}

/// Sends several pieces with one system call. The recorded readiness of the socket is not changed.
pub(crate) fn send_vectored(socket: impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), NO_SIGNAL)?)
}

impl<T: Tcp> ClientSocket for T {
    type Tcp = T;

    fn tcp(&self) -> &T {
        self
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Tcp::poll_read_ready(self, cx)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Tcp::try_read(self, buffer)
    }

    fn try_write(&self, piece: &[u8]) -> io::Result<usize> {
        self.try_send(piece)
    }

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_send_vectored(pieces)
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

impl HttpSocket for TcpStream {
    const IS_TLS: bool = false;

    type Session = SessionTcp;

    fn into_session(self, reactor: &Rc<Reactor>) -> io::Result<SessionTcp> {
        SessionTcp::register(reactor, self.into_std()?)
    }
}

impl Tcp for TcpStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.peer_addr()
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_read(buffer)
    }

    fn try_send(&self, piece: &[u8]) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, || send(self, piece))
    }

    fn try_send_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, || send_vectored(self, pieces))
    }
}

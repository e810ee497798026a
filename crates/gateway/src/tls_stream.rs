//! TLS on the connections of a lane.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use pushonce_tls::{TlsBuffers, TlsSession};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::reactor::{Reactor, SessionTcp};
use crate::socket::{ClientSocket, HttpSocket, Tcp};

/// Handshakes that are computed before the other tasks of the lane run. One takes some 200 µs, so that in a storm of
/// new connections a connected client waits a millisecond longer.
const HANDSHAKES_PER_TURN: usize = 4;

/// What the TLS connections of a lane share.
#[derive(Clone)]
pub(crate) struct TlsLane {
    buffers: Rc<RefCell<TlsBuffers>>,
    handshake_turns: Rc<Semaphore>,
}

/// A TLS connection whose handshake is complete.
pub(crate) struct TlsStream<T = TcpStream> {
    tcp: T,
    session: RefCell<TlsSession>,
    /// Decrypted bytes for which the buffer of the reader had no room.
    unread: RefCell<Bytes>,
    buffers: Rc<RefCell<TlsBuffers>>,
}

impl Default for TlsLane {
    fn default() -> TlsLane {
        TlsLane {
            buffers: Rc::default(),
            handshake_turns: Rc::new(Semaphore::new(HANDSHAKES_PER_TURN)),
        }
    }
}

impl TlsLane {
    /// Performs the handshake. The caller limits its time.
    pub(crate) async fn accept(
        &self,
        tcp: TcpStream,
        config: Arc<ServerConfig>,
    ) -> io::Result<TlsStream> {
        let session = TlsSession::new(config).map_err(io::Error::other)?;
        let stream = TlsStream {
            tcp,
            session: RefCell::new(session),
            unread: RefCell::default(),
            buffers: self.buffers.clone(),
        };
        loop {
            if stream.has_unsent() {
                stream.tcp.writable().await?;
                stream.flush_unsent()?;
            } else if stream.session.borrow().is_handshaking() {
                stream.tcp.readable().await?;
                let _turn = self.handshake_turns.acquire().await;
                stream.read_handshake()?;
                // The turn ends after the other tasks that are ready have run.
                tokio::task::yield_now().await;
            } else {
                return Ok(stream);
            }
        }
    }
}

impl TlsStream<TcpStream> {
    /// The application protocol that was negotiated.
    pub(crate) fn is_http2(&self) -> bool {
        self.session.borrow().alpn_protocol() == Some(b"h2")
    }

    fn read_handshake(&self) -> io::Result<()> {
        match self.try_read(&mut []) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            // The client may send a request with the last message of its handshake.
            Ok(_) if !self.unread.borrow().is_empty() => Ok(()),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        }
    }
}

impl<T> TlsStream<T> {
    /// Copies unread bytes.
    fn take_unread(&self, buffer: &mut [u8]) -> usize {
        let mut unread = self.unread.borrow_mut();
        let len = unread.len().min(buffer.len());
        unread.copy_to_slice(buffer.get_mut(..len).unwrap_or_default());
        if unread.is_empty() {
            *unread = Bytes::new();
        }
        len
    }
}

impl HttpSocket for TlsStream<TcpStream> {
    const IS_TLS: bool = true;

    type Session = TlsStream<SessionTcp>;

    fn into_session(self, reactor: &Rc<Reactor>) -> io::Result<TlsStream<SessionTcp>> {
        let TlsStream { tcp, session, unread, buffers } = self;
        Ok(TlsStream { tcp: tcp.into_session(reactor)?, session, unread, buffers })
    }
}

impl<T: Tcp> ClientSocket for TlsStream<T> {
    type Tcp = T;

    fn tcp(&self) -> &T {
        &self.tcp
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unread.borrow().is_empty() {
            self.tcp.poll_read_ready(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.unread.borrow().is_empty() {
            return Ok(self.take_unread(buffer));
        }
        let mut session = self.session.borrow_mut();
        if session.is_peer_closed() {
            return Ok(0);
        }
        let (mut len, mut unread) = (0, Vec::new());
        let read = session.read(
            &mut self.buffers.borrow_mut(),
            |free| self.tcp.try_read(free),
            |plaintext| {
                let free = buffer.get_mut(len..).unwrap_or_default();
                let (fits, rest) = plaintext.split_at(plaintext.len().min(free.len()));
                free[..fits.len()].copy_from_slice(fits);
                len += fits.len();
                unread.extend_from_slice(rest);
            },
        );
        // An alert or the response to a key update. What does not fit is sent with the next write.
        if session.has_unsent() {
            session.flush(|bytes| self.tcp.try_send(bytes))?;
        }
        let received = read?;
        let is_end = received == 0 || session.is_peer_closed();
        if !unread.is_empty() {
            *self.unread.borrow_mut() = unread.into();
        } else if len == 0 && !is_end {
            return Err(ErrorKind::Interrupted.into());
        }
        Ok(len)
    }

    fn try_write(&self, piece: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(piece)])
    }

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut buffers = self.buffers.borrow_mut();
        let send = |bytes: &[u8]| self.tcp.try_send(bytes);
        self.session.borrow_mut().write(&mut buffers, pieces, send)
    }

    fn has_unsent(&self) -> bool {
        self.session.borrow().has_unsent()
    }

    fn flush_unsent(&self) -> io::Result<usize> {
        self.session.borrow_mut().flush(|bytes| self.tcp.try_send(bytes))
    }

    fn close_write(&self) {
        self.session.borrow_mut().close(&mut self.buffers.borrow_mut());
        // An error means that the client has already closed the connection.
        let _ = self.flush_unsent();
        if !self.has_unsent() {
            self.tcp.close_write();
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.as_ref().get_ref().poll_read_ready(cx))?;
            match self.try_read(buffer.initialize_unfilled()) {
                Ok(len) => {
                    buffer.advance(len);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A client that sends records without data must not occupy the lane.
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(piece)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write_vectored(pieces) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.flush_unsent()?;
            if !self.has_unsent() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.tcp.poll_write_ready(cx))?;
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.borrow_mut().close(&mut self.buffers.borrow_mut());
        ready!(self.as_mut().poll_flush(cx))?;
        self.tcp.close_write();
        Poll::Ready(Ok(()))
    }
}

//! The TCP connection of a session.

use std::io::{self, ErrorKind, IoSlice, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use mio::unix::SourceFd;
use mio::{Interest, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Reactor, Slot, SlotKey};
use crate::socket::{Tcp, send, send_vectored};

/// A TCP connection that is registered with the [`Reactor`] of its lane. Its readiness is for the task of its session
/// alone: an event runs that task.
pub(crate) struct SessionTcp {
    stream: TcpStream,
    key: SlotKey,
    reactor: Rc<Reactor>,
}

impl SessionTcp {
    /// Registers a connection whose socket does not block.
    ///
    /// # Errors
    /// When the system has no room for another registration.
    pub(crate) fn register(reactor: &Rc<Reactor>, stream: TcpStream) -> io::Result<SessionTcp> {
        // The first event reports whether the socket is readable. Writes are tried until the socket is full.
        let slot = Slot { task: None, is_readable: false, is_writable: true, is_woken: false };
        let key = SlotKey(reactor.slots.borrow_mut().insert(slot));
        let tcp = SessionTcp { stream, key, reactor: reactor.clone() };
        let (token, interest) = (Token(key.0), Interest::READABLE | Interest::WRITABLE);
        reactor.registry.register(&mut SourceFd(&tcp.stream.as_raw_fd()), token, interest)?;
        Ok(tcp)
    }

    /// The slot of the session.
    pub(crate) fn key(&self) -> SlotKey {
        self.key
    }

    /// Schedules the task of the session.
    pub(crate) fn wake(&self) {
        self.reactor.wake(self.key);
    }

    /// Whether the kernel holds no unsent bytes, by the low-water mark of the socket. A write alone does not show
    /// it: small writes join the last pending packet regardless of the mark. If there are unsent bytes, the socket
    /// counts as full.
    pub(crate) fn is_send_buffer_empty(&self) -> bool {
        let mut socket = [PollFd::new(&self.stream, PollFlags::OUT)];
        // The following write detects an error of the socket.
        let is_empty = poll(&mut socket, Some(&Timespec::default())) != Ok(0);
        if !is_empty {
            self.reactor.change(self.key, |slot| slot.is_writable = false);
        }
        is_empty
    }

    fn poll_ready(&self, is_ready: impl FnOnce(&Slot) -> bool) -> Poll<io::Result<()>> {
        match self.reactor.change(self.key, |slot| is_ready(slot)) {
            Some(false) => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn note_full<T>(&self, sent: io::Result<T>) -> io::Result<T> {
        if is_blocked(&sent) {
            self.reactor.change(self.key, |slot| slot.is_writable = false);
        }
        sent
    }
}

fn is_blocked<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

impl Tcp for SessionTcp {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(|slot| slot.is_readable)
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(|slot| slot.is_writable)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = (&self.stream).read(buffer);
        if is_blocked(&received) {
            self.reactor.change(self.key, |slot| slot.is_readable = false);
        }
        received
    }

    fn try_send(&self, piece: &[u8]) -> io::Result<usize> {
        self.note_full(send(self, piece))
    }

    fn try_send_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.note_full(send_vectored(self, pieces))
    }
}

impl AsFd for SessionTcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for SessionTcp {
    fn drop(&mut self) {
        // Closing the socket would have the same effect, unless another process has its descriptor. Where the
        // registration failed, so does this.
        let _ = self.reactor.registry.deregister(&mut SourceFd(&self.stream.as_raw_fd()));
        let slot = self.reactor.slots.borrow_mut().remove(self.key.0);
        // Dropped after the borrow: a task may hold sockets.
        drop(slot);
    }
}

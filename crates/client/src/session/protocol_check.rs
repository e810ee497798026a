//! Detects that a port speaks another protocol than expected, from the first bytes that it sends. The libraries
//! report it as "frame with invalid size" or "connection closed", and a publisher would try again until its deadline.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server_address::{Scheme, ServerAddress};

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Tls,
}

/// What one server speaks, and what was expected.
#[derive(Debug)]
pub(crate) struct ProtocolCheck {
    server: ServerAddress,
    expected: Protocol,
    found: OnceLock<Protocol>,
}

/// A connection whose first bytes are checked.
#[derive(Debug)]
pub(super) struct CheckedStream<S> {
    stream: S,
    /// `None` after the first bytes.
    check: Option<Arc<ProtocolCheck>>,
}

impl Protocol {
    /// The protocol whose servers begin with these bytes: a status line, a SETTINGS frame (RFC 9113, 6.5), or a
    /// record of a handshake or an alert (RFC 8446, 5.1).
    fn identify(bytes: &[u8]) -> Option<Protocol> {
        match bytes {
            [b'H', b'T', b'T', b'P', ..] => Some(Protocol::Http1),
            [0x15 | 0x16, 3, ..] => Some(Protocol::Tls),
            [_, _, _, 4, ..] => Some(Protocol::Http2),
            _ => None,
        }
    }
}

impl ProtocolCheck {
    /// The check of a connection for `application`, which is inside TLS at `https://` and `wss://` addresses.
    pub(super) fn new(server: &ServerAddress, application: Protocol) -> Arc<ProtocolCheck> {
        let expected = match server.scheme {
            Scheme::Https | Scheme::Wss => Protocol::Tls,
            _ => application,
        };
        Arc::new(ProtocolCheck { server: server.clone(), expected, found: OnceLock::new() })
    }

    /// What the server speaks instead, and what to change; `None` if nothing is wrong with its first bytes.
    pub(crate) fn rejection(&self) -> Option<String> {
        let server = &self.server;
        let remedy = match (*self.found.get()?, self.expected) {
            (found, expected) if found == expected => return None,
            (Protocol::Tls, _) => "the port requires TLS; write https:// or wss://",
            (_, Protocol::Tls) => {
                "the port does not use TLS; write http:// or ws://, or give a port with TLS"
            }
            (Protocol::Http1, _) => {
                "the port speaks HTTP/1.1 and not gRPC; give the address of a node's --grpc"
            }
            (Protocol::Http2, _) => {
                "the port speaks gRPC and not HTTP/1.1; give the address of a node's --http or --https"
            }
        };
        Some(format!("{server}: {remedy}"))
    }

    fn on_first_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(found) = Protocol::identify(bytes) {
            let _is_first = self.found.set(found);
        }
        self.rejection().map_or(Ok(()), |rejection| Err(io::Error::other(rejection)))
    }
}

impl<S> CheckedStream<S> {
    pub(super) fn new(stream: S, check: Arc<ProtocolCheck>) -> CheckedStream<S> {
        CheckedStream { stream, check: Some(check) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CheckedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let check = self.check.take();
        Poll::Ready(check.map_or(Ok(()), |check| {
            check.on_first_bytes(buffer.filled().get(filled..).unwrap_or_default())
        }))
    }
}

impl<S: AsyncRead + Unpin> CheckedStream<S> {
    /// Replaces the error of a write by its cause: a server of another protocol may have answered and closed the
    /// connection while the client was still writing.
    fn explain<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = written
            && let Some(check) = self.check.take()
        {
            let mut bytes = [0; 16];
            let mut answer = ReadBuf::new(&mut bytes);
            let _unread = Pin::new(&mut self.stream).poll_read(context, &mut answer);
            check.on_first_bytes(answer.filled())?;
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for CheckedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.explain(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.explain(written, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(server: &str, application: Protocol, first_bytes: &[u8]) -> Option<String> {
        let check = ProtocolCheck::new(&server.parse().unwrap(), application);
        assert_eq!(check.on_first_bytes(first_bytes).is_err(), check.rejection().is_some());
        check.rejection()
    }

    #[test]
    fn protocol_is_identified_by_the_first_bytes_of_a_server() {
        let settings = b"\0\0\x12\x04\0\0\0\0\0";
        let (hello, alert) = (b"\x16\x03\x03\0\x7a", b"\x15\x03\x03\0\x02\x02\x46");
        for (server, application, right, wrong, remedy) in [
            ("http://a:1", Protocol::Http2, &settings[..], &b"HTTP/1.1 400"[..], "--grpc"),
            ("http://a:1", Protocol::Http2, settings, alert, "write https://"),
            ("https://a:1", Protocol::Http2, hello, settings, "write http://"),
            ("https://a:1", Protocol::Http1, alert, b"HTTP/1.1 400", "write http://"),
            ("ws://a:1", Protocol::Http1, b"HTTP/1.1 101", alert, "wss://"),
            ("ws://a:1", Protocol::Http1, b"HTTP/1.1 101", settings, "--http"),
        ] {
            assert_eq!(rejection(server, application, right), None);
            assert_eq!(rejection(server, application, b""), None);
            assert_eq!(rejection(server, application, b"SSH-2.0"), None);
            let text = rejection(server, application, wrong).expect("another protocol");
            assert!(text.contains(remedy) && text.contains(server), "{text}");
        }
    }
}

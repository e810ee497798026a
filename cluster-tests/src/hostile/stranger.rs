//! Connections of a hostile client, byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::wait::secs;

/// The address of the hostile client. The limits of addresses do not apply to 127.0.0.1.
pub const STRANGER: [u8; 4] = [127, 0, 0, 2];

/// A request for a session without a topic.
pub const WEBSOCKET_HANDSHAKE: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A complete request.
pub const HEALTH_REQUEST: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The first bytes of an HTTP/2 client, with empty settings.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A TCP connection for malformed and incomplete requests.
pub struct Stranger(TcpStream);

impl Stranger {
    /// Connects from [`STRANGER`], with a small receive buffer: it soon reads nothing.
    pub async fn connect(server: SocketAddr) -> Stranger {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("set");
        socket.bind((STRANGER, 0).into()).expect("an address of this host");
        Stranger(socket.connect(server).await.expect("connected"))
    }

    /// Connects and opens a WebSocket session.
    pub async fn open_session(server: SocketAddr) -> Stranger {
        let mut stranger = Stranger::connect(server).await;
        assert!(stranger.send(WEBSOCKET_HANDSHAKE).await);
        let head = stranger.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        stranger
    }

    /// Sends bytes for at most two seconds. Returns whether all were sent: the node may have closed the connection,
    /// or stopped reading it.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(secs(2), self.0.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Reads the head of a response.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match timeout(secs(20), self.0.read_u8()).await.expect("a response") {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Reads until the node closes the connection.
    pub async fn wait_closed(&mut self, limit: Duration) -> Vec<u8> {
        let mut received = Vec::new();
        let closed = timeout(limit, self.0.read_to_end(&mut received)).await;
        // A reset is an end as well.
        let _ = closed.unwrap_or_else(|_| panic!("the node keeps the connection for {limit:?}"));
        received
    }

    /// Resets the connection instead of closing it.
    pub fn reset(self) {
        // Deprecated for tokio because it may block; with a time of zero it does not.
        let stream = self.0.into_std().expect("open");
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
    }
}

/// A WebSocket frame as a client sends it, masked with zeros. `first` holds the flags and the opcode.
pub fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// An HTTP/2 frame (RFC 9113, 4.1).
pub fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

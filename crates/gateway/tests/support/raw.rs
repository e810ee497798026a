//! A raw WebSocket client that can send invalid bytes.

use std::net::SocketAddr;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::with_timeout;

/// A valid handshake request.
pub const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub struct RawConnection {
    stream: Box<dyn RawStream>,
    /// Bytes that were received and not yet returned.
    buffer: Vec<u8>,
}

/// TCP, or TLS above it.
trait RawStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> RawStream for S {}

impl RawConnection {
    /// Opens a connection and sends `first`.
    pub async fn connect(address: SocketAddr, first: &[u8]) -> RawConnection {
        RawConnection::connect_from([127, 0, 0, 1], address, first).await
    }

    /// Opens a connection from this address and sends `first`. The limits of addresses do not apply to 127.0.0.1.
    pub async fn connect_from(source: [u8; 4], address: SocketAddr, first: &[u8]) -> RawConnection {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of this host");
        // Small, so that the server soon detects a client that does not read.
        socket.set_recv_buffer_size(4 << 10).expect("set");
        let mut stream = with_timeout(socket.connect(address)).await.expect("connected");
        stream.write_all(first).await.expect("sent");
        RawConnection::over(stream)
    }

    /// Uses an open connection.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> RawConnection {
        RawConnection { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// Opens a session and sends `extra` in one write with the request.
    pub async fn session(address: SocketAddr, extra: &[u8]) -> RawConnection {
        let mut raw =
            RawConnection::connect(address, &[HANDSHAKE.as_bytes(), extra].concat()).await;
        raw.expect_upgrade().await;
        raw
    }

    /// Reads the response to [`HANDSHAKE`].
    pub async fn expect_upgrade(&mut self) {
        let head = self.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    }

    /// Requests a session, returns the head of the response and disconnects.
    pub async fn handshake_response(address: SocketAddr) -> String {
        RawConnection::connect(address, HANDSHAKE.as_bytes()).await.read_head().await
    }

    /// Opens a session with this offer of extensions, and returns it with the negotiated extensions.
    pub async fn session_with_extensions(
        address: SocketAddr,
        offer: &str,
    ) -> (RawConnection, Option<String>) {
        let offer = format!("\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n");
        let request = HANDSHAKE.replace("\r\n\r\n", &offer);
        let mut raw = RawConnection::connect(address, request.as_bytes()).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let agreed =
            |line: &str| line.strip_prefix("sec-websocket-extensions: ").map(str::to_owned);
        let agreed = head.lines().find_map(agreed);
        (raw, agreed)
    }

    /// Opens a session from this address.
    pub async fn session_from(source: [u8; 4], address: SocketAddr) -> RawConnection {
        let mut raw = RawConnection::connect_from(source, address, HANDSHAKE.as_bytes()).await;
        let head = raw.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// Reads the status line and the headers.
    pub async fn read_head(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return String::from_utf8(head).expect("text");
            }
            assert!(self.read_more().await, "the connection ended in the headers");
        }
    }

    /// Reads the next frame and returns its first byte and payload.
    pub async fn read_frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((header, len)) = parse_header(&self.buffer)
                && self.buffer.len() >= header + len
            {
                let frame: Vec<u8> = self.buffer.drain(..header + len).collect();
                return (frame[0], frame[header..].to_vec());
            }
            assert!(self.read_more().await, "the connection ended in a frame");
        }
    }

    /// Reads the next frame that is not a heartbeat; heartbeats are sent at any time.
    pub async fn read_frame_after_heartbeats(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (first, payload) = self.read_frame().await;
            if !payload.starts_with(b"{\"heartbeat\"") {
                return (first, payload);
            }
        }
    }

    /// Reads until a text frame contains `part`, and returns it.
    pub async fn read_text_containing(&mut self, part: &str) -> String {
        loop {
            let (first, payload) = self.read_frame().await;
            assert_ne!(first, 0x88, "closed: {}", payload.escape_ascii());
            let text = String::from_utf8_lossy(&payload).into_owned();
            if first == 0x81 && text.contains(part) {
                return text;
            }
        }
    }

    /// Reads until the next pong and returns its payload.
    pub async fn read_pong(&mut self) -> Vec<u8> {
        loop {
            let (first, payload) = self.read_frame().await;
            assert_ne!(first, 0x88, "closed: {}", payload.escape_ascii());
            if first == 0x8a {
                return payload;
            }
        }
    }

    /// Reads until the close frame, checks that the connection then ends, and returns the code.
    pub async fn read_close_code(&mut self) -> u16 {
        loop {
            if let (0x88, payload) = self.read_frame().await {
                assert!(!self.read_more().await, "data after the close frame");
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }

    /// Reads the next block of an event stream; `None` at the end of the connection.
    pub async fn read_block(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Some(String::from_utf8(block).expect("text"));
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// Reads the next block of an event stream that has data, without the comments and the time to retry before it;
    /// `None` at the end of the connection.
    pub async fn read_event(&mut self) -> Option<String> {
        loop {
            let block = self.read_block().await?;
            let is_before = |line: &str| line.starts_with(':') || line.starts_with("retry: ");
            let begin: usize =
                block.split_inclusive('\n').take_while(|line| is_before(line)).map(str::len).sum();
            let event = &block[begin..];
            if event.starts_with("data:") || event.contains("\ndata:") {
                return Some(event.to_owned());
            }
        }
    }

    /// Reads the next line of a text.
    pub async fn read_line(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return String::from_utf8(line).expect("text");
            }
            assert!(self.read_more().await, "the connection ended in a line");
        }
    }

    /// Reads until the end of the connection.
    pub async fn read_to_end(&mut self) -> String {
        while self.read_more().await {}
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn read_more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let len = with_timeout(self.stream.read(&mut buffer)).await.unwrap_or(0);
        self.buffer.extend(&buffer[..len]);
        len > 0
    }
}

/// Returns the lengths of the header and payload of a server frame.
fn parse_header(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [_, 126, high, low, ..] => Some((4, usize::from(u16::from_be_bytes([high, low])))),
        [_, 127, ..] => {
            let len = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            Some((10, usize::try_from(len).ok()?))
        }
        [_, 126, ..] => None,
        [_, len, ..] => Some((2, usize::from(len))),
        _ => None,
    }
}

/// Compresses a message as a client with permessage-deflate sends it.
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(message.len() + 100);
    compress.compress_vec(message, &mut out, FlushCompress::Sync).expect("deflates");
    out.strip_suffix(b"\x00\x00\xff\xff").expect("a flush").to_vec()
}

/// Decompresses a message of permessage-deflate.
pub fn inflate(deflated: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let message = [deflated, b"\x00\x00\xff\xff"].concat();
    let mut decompress = Decompress::new(false);
    decompress.decompress_vec(&message, &mut out, FlushDecompress::Sync).expect("inflates");
    out
}

/// Encodes a frame as a client sends it, masked with zeros.
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("short");
    let mut bytes = match len {
        0..=125 => vec![first, 0x80 | len as u8],
        _ => [&[first, 0x80 | 126][..], &len.to_be_bytes()].concat(),
    };
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

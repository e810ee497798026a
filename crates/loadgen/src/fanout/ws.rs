//! A cheap WebSocket subscriber: it counts frames, and decodes only the rare ones.
//!
//! The SDK keeps order, resumes, and creates an event per message. That would use the generator's cores for
//! work that is not measured here.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use pushonce_client::{AccessToken, connect_http};
use pushonce_proto::client::{Encoding, ServerEvent};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::SubscriberSpec;
use super::audience::{DeliveryTracker, SubscriberCursor};
use super::frame::{self, WebSocketFrame, WebSocketFrameKind};
use crate::Access;

/// Maximum size of one read: a few hundred messages of a lagging subscriber.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Maximum size of the headers of the handshake response.
const RESPONSE_HEAD_BYTES_MAX: usize = 8 << 10;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

thread_local! {
    /// The read buffer shared by every connection of the thread: none of them uses it across a wait.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER_BYTES].into());
}

/// A connection and its state.
struct WebSocketSubscriber<'a, S> {
    stream: S,
    encoding: Encoding,
    tracker: &'a DeliveryTracker,
    topic_index: usize,
    /// `None` until the subscription is confirmed.
    cursor: Option<SubscriberCursor>,
    /// The start of an incomplete frame. Mostly empty.
    partial_frame: Vec<u8>,
    /// Pongs to send.
    pending_pongs: Vec<u8>,
}

/// Subscribes, and reads until the connection ends; returns the reason.
pub(super) async fn run_subscriber(
    spec: &SubscriberSpec,
    encoding: Encoding,
    access: &Access,
    tracker: &DeliveryTracker,
) -> anyhow::Error {
    let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(spec, encoding, access)).await;
    let (stream, partial) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return error,
        Err(_) => return anyhow!("no response to the handshake within {HANDSHAKE_TIMEOUT:?}"),
    };
    let connection = WebSocketSubscriber {
        stream,
        encoding,
        tracker,
        topic_index: spec.topic_index,
        cursor: None,
        partial_frame: Vec::new(),
        pending_pongs: Vec::new(),
    };
    match connection.run(partial).await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Performs the handshake; returns the bytes after its response.
async fn handshake(
    spec: &SubscriberSpec,
    encoding: Encoding,
    access: &Access,
) -> anyhow::Result<(impl AsyncRead + AsyncWrite + Unpin + use<>, Vec<u8>)> {
    let token = match &access.token {
        Some(provider) => Some(provider.token().await.map_err(anyhow::Error::from_boxed)?),
        None => None,
    };
    let mut stream = connect_http(&spec.server, &access.trust).await?;
    stream.write_all(handshake_request(spec, encoding, token.as_ref()).as_bytes()).await?;
    // A stream of TLS may hold what was written.
    stream.flush().await?;
    let mut head = Vec::with_capacity(1_024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            bail!("the server closed the connection during the handshake");
        }
        if let Some(end) = head.windows(4).position(|part| part == b"\r\n\r\n") {
            let remainder = head.split_off(end + 4);
            check_handshake_response(&head)?;
            return Ok((stream, remainder));
        }
        if head.len() > RESPONSE_HEAD_BYTES_MAX {
            bail!("the response to the handshake does not end");
        }
    }
}

fn handshake_request(
    spec: &SubscriberSpec,
    encoding: Encoding,
    token: Option<&AccessToken>,
) -> String {
    let authorization = token
        .map(|token| format!("Authorization: Bearer {}\r\n", token.secret()))
        .unwrap_or_default();
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("topic", spec.topic.as_str());
    // The key distinguishes the response from a cached one; a node has no cache and accepts any key.
    format!(
        "GET /ws?{} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: {}\r\n{authorization}\r\n",
        query.finish(),
        spec.server.authority(),
        encoding.subprotocol(),
    )
}

fn check_handshake_response(head: &[u8]) -> anyhow::Result<()> {
    if !head.starts_with(b"HTTP/1.1 101 ") {
        let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
        bail!("the handshake failed: the server answered {:?}", String::from_utf8_lossy(line));
    }
    Ok(())
}

/// Has no values: a connection ends only with an error.
enum Uninhabited {}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketSubscriber<'_, S> {
    async fn run(mut self, first: Vec<u8>) -> anyhow::Result<Uninhabited> {
        self.on_bytes(&first)?;
        loop {
            poll_fn(|cx| {
                READ_BUFFER.with_borrow_mut(|scratch| {
                    let mut read = ReadBuf::new(scratch);
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                    Poll::Ready(match read.filled() {
                        [] => Err(anyhow!("the server closed the connection")),
                        bytes => self.on_bytes(bytes),
                    })
                })
            })
            .await?;
            if !self.pending_pongs.is_empty() {
                self.stream.write_all(&std::mem::take(&mut self.pending_pongs)).await?;
                self.stream.flush().await?;
            }
        }
    }

    fn on_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.partial_frame.is_empty() {
            let remaining = self.count_frames(bytes)?;
            self.partial_frame.extend_from_slice(&bytes[bytes.len() - remaining..]);
        } else {
            let mut joined = std::mem::take(&mut self.partial_frame);
            joined.extend_from_slice(bytes);
            let remaining = self.count_frames(&joined)?;
            joined.drain(..joined.len() - remaining);
            self.partial_frame = joined;
        }
        Ok(())
    }

    /// Counts whole frames; returns the number of remaining bytes.
    fn count_frames(&mut self, mut bytes: &[u8]) -> anyhow::Result<usize> {
        if self.cursor.is_none() {
            while let (None, Some(frame)) = (&self.cursor, frame::parse_frame(&mut bytes)?) {
                if let Some(ServerEvent::Subscribed { .. }) = decode_event(self.encoding, &frame)? {
                    self.cursor = Some(self.tracker.on_subscribed(self.topic_index));
                }
            }
        }
        let Some(cursor) = &mut self.cursor else { return Ok(bytes.len()) };
        let mut batch = self.tracker.begin_read(cursor);
        while let Some(frame) = frame::parse_frame(&mut bytes)? {
            if let Some(stamp) = self.tracker.clock.find_stamp(frame.payload) {
                batch.on_message(stamp);
            } else if frame.kind == WebSocketFrameKind::Ping {
                self.pending_pongs.extend(frame::pong(frame.payload));
            } else if let Some(ServerEvent::Gap { gap, .. }) = decode_event(self.encoding, &frame)?
            {
                batch.on_gap(&gap);
            }
        }
        Ok(bytes.len())
    }
}

/// Decodes a frame that is not a message; `None` for a pong.
fn decode_event(
    encoding: Encoding,
    frame: &WebSocketFrame<'_>,
) -> anyhow::Result<Option<ServerEvent>> {
    match frame.kind {
        WebSocketFrameKind::Close => {
            let code = frame.payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
            bail!("the server closed the session with {code}");
        }
        WebSocketFrameKind::Ping | WebSocketFrameKind::Pong => return Ok(None),
        WebSocketFrameKind::Text | WebSocketFrameKind::Binary => {}
    }
    let event = encoding.decode_event(&Bytes::copy_from_slice(frame.payload));
    match event
        .map_err(|error| anyhow!(error.message))
        .context("the server sent an invalid event")?
    {
        ServerEvent::Error { message, .. } => bail!("refused: {message}"),
        event => Ok(Some(event)),
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::Topic;

    use super::*;
    use crate::fanout::SubscriberTransport;

    #[test]
    fn topic_is_percent_encoded_in_the_query() {
        let spec = SubscriberSpec {
            server: "http://127.0.0.1:7080".parse().unwrap(),
            topic: Topic::new("a b/ü").unwrap(),
            topic_index: 0,
            transport: SubscriberTransport::Ws(Encoding::Json),
        };
        let request = handshake_request(&spec, Encoding::Json, None);
        assert!(request.starts_with("GET /ws?topic=a+b%2F%C3%BC HTTP/1.1\r\nHost: 127.0.0.1:7080"));
        assert!(request.contains("Sec-WebSocket-Protocol: pushonce.v1.json\r\n"));
        assert!(request.ends_with("\r\n\r\n"));
        let request = handshake_request(&spec, Encoding::Json, Some(&AccessToken::new("t")));
        assert!(request.ends_with("\r\nAuthorization: Bearer t\r\n\r\n"), "{request}");
    }

    #[test]
    fn handshake_response_other_than_101_is_an_error() {
        assert!(check_handshake_response(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").is_ok());
        let error = check_handshake_response(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n")
            .unwrap_err();
        assert!(error.to_string().contains("503 Service Unavailable\""));
    }
}

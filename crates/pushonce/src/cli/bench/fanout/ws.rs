//! A WebSocket subscriber that costs little: it counts frames and decodes none but the rare ones.
//!
//! The SDK would take a generator's cores for what is not measured here: it keeps order, resumes,
//! and makes an event of each message.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use pushonce_proto::client::{Encoding, Event};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::Guest;
use super::audience::{Audience, Cursor};
use super::frame::{self, Frame, Kind};

/// What one read takes at most. It holds a lagging subscriber's some hundred messages.
const SCRATCH_BYTES: usize = 64 << 10;

/// What the answer to the handshake may have in headers.
const HEAD_BYTES_MAX: usize = 8 << 10;

const OPEN_MAX: Duration = Duration::from_secs(10);

thread_local! {
    /// Read into by every connection of the thread: none of them keeps it over a wait.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// A connection, and where it stands.
struct Connection<'a> {
    stream: TcpStream,
    encoding: Encoding,
    audience: &'a Audience,
    topic: usize,
    /// `None` until the subscription is confirmed.
    cursor: Option<Cursor>,
    /// The front of a frame whose rest has not come. Mostly empty.
    partial: Vec<u8>,
    /// Pongs to be sent.
    answers: Vec<u8>,
}

/// Subscribes, and reads until the connection ends; says why it did.
pub(super) async fn listen(
    guest: &Guest,
    encoding: Encoding,
    audience: &Audience,
) -> anyhow::Error {
    let opened = tokio::time::timeout(OPEN_MAX, open(guest, encoding)).await;
    let (stream, partial) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(why)) => return why,
        Err(_) => return anyhow!("no answer to the handshake within {OPEN_MAX:?}"),
    };
    let connection = Connection {
        stream,
        encoding,
        audience,
        topic: guest.index,
        cursor: None,
        partial: Vec::new(),
        answers: Vec::new(),
    };
    match connection.run(partial).await {
        Err(why) => why,
        Ok(never) => match never {},
    }
}

/// The handshake; gives back what came behind its answer.
async fn open(guest: &Guest, encoding: Encoding) -> anyhow::Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(guest.door.authority()).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request(guest, encoding).as_bytes()).await?;
    let mut head = Vec::with_capacity(1_024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            bail!("the server hung up during the handshake");
        }
        if let Some(end) = head.windows(4).position(|part| part == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            accepted(&head)?;
            return Ok((stream, rest));
        }
        if head.len() > HEAD_BYTES_MAX {
            bail!("the answer to the handshake does not end");
        }
    }
}

fn request(guest: &Guest, encoding: Encoding) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("topic", guest.topic.as_str());
    // The key is there to be unlike a cached answer; a node that keeps none takes any.
    format!(
        "GET /ws?{} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: {}\r\n\r\n",
        query.finish(),
        guest.door.authority(),
        encoding.subprotocol(),
    )
}

fn accepted(head: &[u8]) -> anyhow::Result<()> {
    if !head.starts_with(b"HTTP/1.1 101 ") {
        let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
        bail!("the handshake was answered with {:?}", String::from_utf8_lossy(line));
    }
    Ok(())
}

/// Nothing: a connection ends with a reason only.
enum Never {}

impl Connection<'_> {
    async fn run(mut self, first: Vec<u8>) -> anyhow::Result<Never> {
        self.take(&first)?;
        loop {
            poll_fn(|cx| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let mut read = ReadBuf::new(scratch);
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                    Poll::Ready(match read.filled() {
                        [] => Err(anyhow!("the server hung up")),
                        bytes => self.take(bytes),
                    })
                })
            })
            .await?;
            if !self.answers.is_empty() {
                self.stream.write_all(&std::mem::take(&mut self.answers)).await?;
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.partial.is_empty() {
            let rest = self.frames(bytes)?;
            self.partial.extend_from_slice(&bytes[bytes.len() - rest..]);
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(bytes);
            let rest = self.frames(&whole)?;
            whole.drain(..whole.len() - rest);
            self.partial = whole;
        }
        Ok(())
    }

    /// Counts whole frames; gives back how many bytes are left.
    fn frames(&mut self, mut bytes: &[u8]) -> anyhow::Result<usize> {
        if self.cursor.is_none() {
            while let (None, Some(frame)) = (&self.cursor, frame::take(&mut bytes)?) {
                if let Some(Event::Subscribed { .. }) = event(self.encoding, &frame)? {
                    self.cursor = Some(self.audience.joined(self.topic));
                }
            }
        }
        let Some(cursor) = &mut self.cursor else { return Ok(bytes.len()) };
        let mut reading = self.audience.read(cursor);
        while let Some(frame) = frame::take(&mut bytes)? {
            if let Some(stamp) = self.audience.clock.find(frame.payload) {
                reading.message(stamp);
            } else if frame.kind == Kind::Ping {
                self.answers.extend(frame::pong(frame.payload));
            } else if let Some(Event::Gap { gap, .. }) = event(self.encoding, &frame)? {
                reading.gap(&gap);
            }
        }
        Ok(bytes.len())
    }
}

/// What the server says beside messages; `None` for a pong.
fn event(encoding: Encoding, frame: &Frame<'_>) -> anyhow::Result<Option<Event>> {
    match frame.kind {
        Kind::Close => {
            let code = frame.payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
            bail!("the server closed the session with {code}");
        }
        Kind::Ping | Kind::Pong => return Ok(None),
        Kind::Text | Kind::Binary => {}
    }
    let event = encoding.decode_event(&Bytes::copy_from_slice(frame.payload));
    match event.map_err(|why| anyhow!(why.message)).context("an event that cannot be read")? {
        Event::Error { message, .. } => bail!("refused: {message}"),
        event => Ok(Some(event)),
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::Topic;

    use super::*;
    use crate::cli::bench::fanout::Carrier;

    #[test]
    fn the_topic_is_written_as_a_query_wants_it() {
        let guest = Guest {
            door: "http://127.0.0.1:7080".parse().unwrap(),
            topic: Topic::new("a b/ü").unwrap(),
            index: 0,
            carrier: Carrier::Ws(Encoding::Json),
        };
        let request = request(&guest, Encoding::Json);
        assert!(request.starts_with("GET /ws?topic=a+b%2F%C3%BC HTTP/1.1\r\nHost: 127.0.0.1:7080"));
        assert!(request.contains("Sec-WebSocket-Protocol: pushonce.v1.json\r\n"));
        assert!(request.ends_with("\r\n\r\n"));
    }

    #[test]
    fn any_answer_but_101_is_told() {
        assert!(accepted(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").is_ok());
        let refused = accepted(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n").unwrap_err();
        assert!(refused.to_string().contains("503 Service Unavailable\""));
    }
}

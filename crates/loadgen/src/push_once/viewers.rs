//! Viewers, each with its own connection and as cheap as possible, because the site is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::progress::{self, WaitOutcome};

/// The topic to which the site publishes.
pub(super) const TOPIC: &str = "bench/push-once";

/// A byte that occurs once in each change, and nowhere else.
const CHANGE_MARK: u8 = b'~';

/// Maximum number of connections that are opened, or requests in flight, at the same time.
const CONCURRENT_MAX: usize = 64;

const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

const HEAD_BYTES_MAX: usize = 8 << 10;

/// Viewers that poll over persistent connections, one request at a time each.
pub(super) struct PollingViewers {
    path: &'static str,
    viewers: Vec<PollingViewer>,
}

struct PollingViewer {
    stream: TcpStream,
    /// The entity tag of the viewer's last response.
    etag: String,
}

/// Viewers that receive a stream.
pub(super) struct StreamingViewers {
    count: u64,
    received: Arc<AtomicU64>,
    // Dropping the tasks closes all connections.
    _tasks: JoinSet<()>,
}

impl PollingViewers {
    pub(super) async fn connect(
        site: SocketAddr,
        path: &'static str,
        viewers: u32,
    ) -> anyhow::Result<PollingViewers> {
        let connect_one = |_| async move {
            let mut asker =
                PollingViewer { stream: TcpStream::connect(site).await?, etag: String::new() };
            asker.poll_once(path).await?;
            anyhow::Ok(asker)
        };
        let viewers = stream::iter(0..viewers).map(connect_one).buffer_unordered(CONCURRENT_MAX);
        Ok(PollingViewers { path, viewers: viewers.try_collect().await? })
    }

    /// Every viewer polls once.
    pub(super) async fn poll_all(&mut self) -> anyhow::Result<()> {
        let path = self.path;
        let all = stream::iter(self.viewers.iter_mut().map(Ok));
        all.try_for_each_concurrent(CONCURRENT_MAX, |viewer| viewer.poll_once(path)).await
    }
}

impl PollingViewer {
    async fn poll_once(&mut self, path: &str) -> anyhow::Result<()> {
        let if_none_match = match self.etag.as_str() {
            "" => String::new(),
            tag => format!("If-None-Match: {tag}\r\n"),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: site\r\n{if_none_match}\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::with_capacity(1_024);
        let end = loop {
            if self.stream.read_buf(&mut response).await? == 0
                || response.len() > HEAD_BYTES_MAX + (1 << 20)
            {
                bail!("the site closed the connection, or its response does not end");
            }
            if let Some(end) = find_bytes(&response, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&response[..end]).into_owned();
        if !head.starts_with("HTTP/1.1 200 ") && !head.starts_with("HTTP/1.1 304 ") {
            bail!("the site answered {:?}", head.lines().next());
        }
        if let Some(tag) = header_value(&head, "etag") {
            tag.clone_into(&mut self.etag);
        }
        let length: usize = header_value(&head, "content-length").unwrap_or("0").parse()?;
        let body = if head.starts_with("HTTP/1.1 304 ") { 0 } else { length };
        let mut remaining = (end + body).saturating_sub(response.len());
        while remaining > 0 {
            response.clear();
            match self.stream.read_buf(&mut response).await? {
                0 => bail!("the site closed the connection during its response"),
                count => remaining = remaining.saturating_sub(count),
            }
        }
        Ok(())
    }
}

/// Each viewer opens an event stream of the site.
pub(super) async fn connect_to_site(
    site: SocketAddr,
    viewers: u32,
) -> anyhow::Result<StreamingViewers> {
    let request = "GET /events HTTP/1.1\r\nHost: site\r\nAccept: text/event-stream\r\n\r\n";
    StreamingViewers::connect(site, request.to_owned(), b":ready", viewers).await
}

/// Each viewer opens a WebSocket to the node.
pub(super) async fn connect_to_node(
    node: SocketAddr,
    viewers: u32,
) -> anyhow::Result<StreamingViewers> {
    let request = format!(
        "GET /ws?topic={TOPIC} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    StreamingViewers::connect(node, request, b"\"subscribed\"", viewers).await
}

/// Whether a node reports that it is ready.
pub(super) async fn is_ready(node: SocketAddr) -> bool {
    let request = async {
        let mut stream = TcpStream::connect(node).await.ok()?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        let mut response = [0; 64];
        let count = stream.read(&mut response).await.ok()?;
        response[..count].starts_with(b"HTTP/1.1 200 ").then_some(())
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), request).await, Ok(Some(())))
}

impl StreamingViewers {
    async fn connect(
        server: SocketAddr,
        request: String,
        ready: &'static [u8],
        viewers: u32,
    ) -> anyhow::Result<StreamingViewers> {
        let received = Arc::new(AtomicU64::new(0));
        let connect_one = |_| open_stream(server, &request, ready);
        let mut streams =
            stream::iter(0..viewers).map(connect_one).buffer_unordered(CONCURRENT_MAX);
        let mut tasks = JoinSet::new();
        while let Some(stream) = streams.try_next().await? {
            tasks.spawn(count_marks(stream, received.clone()));
        }
        drop(streams);
        Ok(StreamingViewers { count: viewers.into(), received, _tasks: tasks })
    }

    /// Waits until every viewer has received `changes` changes.
    pub(super) async fn wait_until_received(&self, changes: u32) -> anyhow::Result<()> {
        let expected = self.count * u64::from(changes);
        let received = || self.received.load(Ordering::Relaxed);
        let progress_text = || format!("{} of {expected} deliveries", received());
        match progress::wait_with_progress(
            DELIVERY_TIMEOUT,
            &Default::default(),
            || received() >= expected,
            progress_text,
        )
        .await
        {
            WaitOutcome::Done => Ok(()),
            _ => Err(anyhow!("{} of {expected} deliveries after {DELIVERY_TIMEOUT:?}", received())),
        }
    }
}

/// Connects, and waits for the confirmation from which on no change is missed.
async fn open_stream(server: SocketAddr, request: &str, ready: &[u8]) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::with_capacity(1_024);
    while find_bytes(&response, ready).is_none() {
        if stream.read_buf(&mut response).await? == 0 || response.len() > HEAD_BYTES_MAX {
            let line = String::from_utf8_lossy(&response);
            return Err(anyhow!("{:?}", line.lines().next()))
                .context("the subscription was not confirmed");
        }
    }
    Ok(stream)
}

async fn count_marks(mut stream: TcpStream, received: Arc<AtomicU64>) {
    let mut bytes = [0; 2_048];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        let changes = bytes[..count].iter().filter(|&&byte| byte == CHANGE_MARK).count();
        received.fetch_add(changes as u64, Ordering::Relaxed);
    }
}

fn find_bytes(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|part| part == needle)
}

/// The value of a header field.
fn header_value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

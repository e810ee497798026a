//! Viewers, each with a connection of its own, as thin as they can be: what is measured is the site.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cli::bench::progress::{self, Ended};

/// Where the site publishes in the last of the four ways.
pub(super) const TOPIC: &str = "bench/push-once";

/// Once in each change, and in nothing else.
const MARK: u8 = b'~';

/// Connections that are opened, and requests that are under way, at one moment.
const TOGETHER: usize = 64;

const HEAR_MAX: Duration = Duration::from_secs(60);

const HEAD_BYTES_MAX: usize = 8 << 10;

/// Viewers that ask, one request at a time each, over connections that stay.
pub(super) struct Askers {
    path: &'static str,
    viewers: Vec<Asker>,
}

struct Asker {
    stream: TcpStream,
    /// What the site said of what this one has.
    tag: String,
}

/// Viewers that are told.
pub(super) struct Listeners {
    viewers: u64,
    heard: Arc<AtomicU64>,
    // Dropped, all of them leave.
    _tasks: JoinSet<()>,
}

impl Askers {
    pub(super) async fn gather(
        site: SocketAddr,
        path: &'static str,
        viewers: u32,
    ) -> anyhow::Result<Askers> {
        let open = |_| async move {
            let mut asker = Asker { stream: TcpStream::connect(site).await?, tag: String::new() };
            asker.ask(path).await?;
            anyhow::Ok(asker)
        };
        let viewers = stream::iter(0..viewers).map(open).buffer_unordered(TOGETHER);
        Ok(Askers { path, viewers: viewers.try_collect().await? })
    }

    /// Everybody asks once.
    pub(super) async fn ask(&mut self) -> anyhow::Result<()> {
        let path = self.path;
        let all = stream::iter(self.viewers.iter_mut().map(Ok));
        all.try_for_each_concurrent(TOGETHER, |viewer| viewer.ask(path)).await
    }
}

impl Asker {
    async fn ask(&mut self, path: &str) -> anyhow::Result<()> {
        let known = match self.tag.as_str() {
            "" => String::new(),
            tag => format!("If-None-Match: {tag}\r\n"),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: site\r\n{known}\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(1_024);
        let end = loop {
            if self.stream.read_buf(&mut answer).await? == 0
                || answer.len() > HEAD_BYTES_MAX + (1 << 20)
            {
                bail!("the site hung up, or its answer has no end");
            }
            if let Some(end) = find(&answer, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        if !head.starts_with("HTTP/1.1 200 ") && !head.starts_with("HTTP/1.1 304 ") {
            bail!("the site answered {:?}", head.lines().next());
        }
        if let Some(tag) = field(&head, "etag") {
            tag.clone_into(&mut self.tag);
        }
        let length: usize = field(&head, "content-length").unwrap_or("0").parse()?;
        let body = if head.starts_with("HTTP/1.1 304 ") { 0 } else { length };
        let mut rest = (end + body).saturating_sub(answer.len());
        while rest > 0 {
            answer.clear();
            match self.stream.read_buf(&mut answer).await? {
                0 => bail!("the site hung up in the middle of its answer"),
                count => rest = rest.saturating_sub(count),
            }
        }
        Ok(())
    }
}

/// Each holds a stream of events of the site.
pub(super) async fn of_site(site: SocketAddr, viewers: u32) -> anyhow::Result<Listeners> {
    let request = "GET /events HTTP/1.1\r\nHost: site\r\nAccept: text/event-stream\r\n\r\n";
    Listeners::gather(site, request.to_owned(), b":ready", viewers).await
}

/// Each has a WebSocket to the node.
pub(super) async fn of_node(node: SocketAddr, viewers: u32) -> anyhow::Result<Listeners> {
    let request = format!(
        "GET /ws?topic={TOPIC} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    Listeners::gather(node, request, b"\"subscribed\"", viewers).await
}

/// Whether a node says that it can do its work.
pub(super) async fn ready(node: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(node).await.ok()?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: node\r\n\r\n").await.ok()?;
        let mut answer = [0; 64];
        let count = stream.read(&mut answer).await.ok()?;
        answer[..count].starts_with(b"HTTP/1.1 200 ").then_some(())
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), asked).await, Ok(Some(())))
}

impl Listeners {
    async fn gather(
        server: SocketAddr,
        request: String,
        ready: &'static [u8],
        viewers: u32,
    ) -> anyhow::Result<Listeners> {
        let heard = Arc::new(AtomicU64::new(0));
        let open = |_| listen(server, &request, ready);
        let mut streams = stream::iter(0..viewers).map(open).buffer_unordered(TOGETHER);
        let mut tasks = JoinSet::new();
        while let Some(stream) = streams.try_next().await? {
            tasks.spawn(count(stream, heard.clone()));
        }
        drop(streams);
        Ok(Listeners { viewers: viewers.into(), heard, _tasks: tasks })
    }

    /// Returns when everybody has heard of `changes` changes.
    pub(super) async fn heard(&self, changes: u32) -> anyhow::Result<()> {
        let expected = self.viewers * u64::from(changes);
        let so_far = || self.heard.load(Ordering::Relaxed);
        let tell = || format!("{} of {expected} deliveries", so_far());
        match progress::watch(HEAR_MAX, &Default::default(), || so_far() >= expected, tell).await {
            Ended::Done => Ok(()),
            _ => Err(anyhow!("{} of {expected} deliveries after {HEAR_MAX:?}", so_far())),
        }
    }
}

/// Connects, and waits for the sign that nothing will be missed from here on.
async fn listen(server: SocketAddr, request: &str, ready: &[u8]) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1_024);
    while find(&answer, ready).is_none() {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > HEAD_BYTES_MAX {
            let line = String::from_utf8_lossy(&answer);
            return Err(anyhow!("{:?}", line.lines().next())).context("no subscription");
        }
    }
    Ok(stream)
}

async fn count(mut stream: TcpStream, heard: Arc<AtomicU64>) {
    let mut bytes = [0; 2_048];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        let marks = bytes[..count].iter().filter(|&&byte| byte == MARK).count();
        heard.fetch_add(marks as u64, Ordering::Relaxed);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// A field of a head.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

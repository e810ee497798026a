//! A small site in a process of its own: a page, what changes in it, and a stream of the changes.
//!
//! It is told what to do on standard input, a word a line, and answers each with a line of JSON; it
//! ends with its standard input, so that nobody is left behind. It counts what it does itself.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::get;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use serde_json::json;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
    ReadBuf,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

use crate::output::{self, OutputError};

/// What the site is made of.
#[derive(clap::Args)]
pub(in crate::cli::bench) struct Args {
    #[arg(long)]
    page: usize,
    #[arg(long)]
    state: usize,
    /// A node to which each change is published
    #[arg(long)]
    publish_to: Option<SocketAddr>,
}

/// Changes that a viewer may lag behind. One more, and it would have to connect anew.
const LAG_MAX: usize = 128;

struct Site {
    state_bytes: usize,
    page_bytes: usize,
    version: AtomicU64,
    state: Mutex<Bytes>,
    changes: broadcast::Sender<Bytes>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Answered, sent, or pushed.
    requests: AtomicU64,
    /// Over its connections, in and out.
    bytes: AtomicU64,
}

pub(in crate::cli::bench) async fn run(args: Args) -> anyhow::Result<()> {
    let site = Arc::new(Site {
        state_bytes: args.state,
        page_bytes: args.page,
        version: AtomicU64::new(0),
        state: Mutex::default(),
        changes: broadcast::channel(LAG_MAX).0,
        counts: Arc::default(),
    });
    site.change();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(json!({ "address": listener.local_addr()?.to_string() }))?;
    let routes = Router::new()
        .route("/page", get(page))
        .route("/state", get(state))
        .route("/events", get(events))
        .with_state(site.clone());
    tokio::select! {
        served = axum::serve(Counting { listener, counts: site.counts.clone() }, routes) => {
            Ok(served?)
        }
        obeyed = obey(&site, args.publish_to) => obeyed,
    }
}

async fn obey(site: &Site, publish_to: Option<SocketAddr>) -> anyhow::Result<()> {
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    let mut node = match publish_to {
        None => None,
        Some(node) => {
            let stream = TcpStream::connect(node).await?;
            stream.set_nodelay(true)?;
            Some(Counted { stream, counts: site.counts.clone() })
        }
    };
    while let Some(word) = words.next_line().await? {
        match word.as_str() {
            "change" => {
                let state = site.change();
                if let Some(node) = &mut node {
                    site.counts.requests.fetch_add(1, Ordering::Relaxed);
                    publish(node, &state).await?;
                }
                say(json!({}))?;
            }
            "tell" => say(json!({
                "requests": site.counts.requests.load(Ordering::Relaxed),
                "bytes": site.counts.bytes.load(Ordering::Relaxed),
                "cpu_nanos": cpu_nanos()?,
            }))?,
            other => bail!("{other:?} is no word of this site"),
        }
    }
    Ok(())
}

/// `POST /topics/…`, as any site can.
async fn publish(node: &mut Counted, state: &[u8]) -> anyhow::Result<()> {
    let head = format!(
        "POST /topics/{} HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        super::viewers::TOPIC,
        state.len()
    );
    node.write_all(&[head.as_bytes(), state].concat()).await?;
    let mut answer = [0; 4_096];
    let count = node.read(&mut answer).await?;
    if !answer[..count].starts_with(b"HTTP/1.1 200 ") {
        bail!("the node answered {:?}", String::from_utf8_lossy(&answer[..count]));
    }
    Ok(())
}

impl Site {
    /// Makes a new state, and tells those who listen.
    fn change(&self) -> Bytes {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let mut text = format!("{{\"mark\":\"~\",\"version\":{version},\"rest\":\"");
        text.extend(std::iter::repeat_n('x', self.state_bytes.saturating_sub(text.len() + 2)));
        text += "\"}";
        let state = Bytes::from(text);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state.clone();
        // Nobody may listen.
        let _listeners = self.changes.send(event(&state));
        state
    }

    fn now(&self) -> (String, Bytes) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (format!("\"{}\"", self.version.load(Ordering::Relaxed)), state)
    }
}

fn event(state: &[u8]) -> Bytes {
    [b"data: ", state, b"\n\n"].concat().into()
}

type Shared = State<Arc<Site>>;

async fn page(State(site): Shared) -> Response<Body> {
    site.counts.requests.fetch_add(1, Ordering::Relaxed);
    let (_, state) = site.now();
    let mut page =
        b"<!doctype html><title>Score</title><script type=\"application/json\">".to_vec();
    page.extend_from_slice(&state);
    page.extend_from_slice(b"</script><p>");
    page.resize(page.len().max(site.page_bytes), b'x');
    answer(StatusCode::OK, "text/html", "", page.into())
}

async fn state(State(site): Shared, headers: HeaderMap) -> Response<Body> {
    site.counts.requests.fetch_add(1, Ordering::Relaxed);
    let (tag, state) = site.now();
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return answer(StatusCode::NOT_MODIFIED, "application/json", &tag, Body::empty());
    }
    answer(StatusCode::OK, "application/json", &tag, state.into())
}

async fn events(State(site): Shared) -> Response<Body> {
    let changes = stream::once(async { Bytes::from_static(b":ready\n\n") })
        .chain(of(site.changes.subscribe(), site.counts.clone()));
    let body = Body::from_stream(changes.map(Ok::<_, Infallible>));
    answer(StatusCode::OK, "text/event-stream", "", body)
}

/// Ends when the viewer has lagged too far behind.
fn of(changes: broadcast::Receiver<Bytes>, counts: Arc<Counts>) -> impl Stream<Item = Bytes> {
    stream::unfold((changes, counts), |(mut changes, counts)| async {
        let change = changes.recv().await.ok()?;
        counts.requests.fetch_add(1, Ordering::Relaxed);
        Some((change, (changes, counts)))
    })
}

fn answer(status: StatusCode, content_type: &str, tag: &str, body: Body) -> Response<Body> {
    let mut builder = Response::builder().status(status).header(header::CACHE_CONTROL, "no-cache");
    builder = builder.header(header::CONTENT_TYPE, content_type);
    if !tag.is_empty() {
        builder = builder.header(header::ETAG, tag);
    }
    builder.body(body).unwrap_or_default()
}

/// Counts the bytes of every connection that it takes.
struct Counting {
    listener: TcpListener,
    counts: Arc<Counts>,
}

struct Counted {
    stream: TcpStream,
    counts: Arc<Counts>,
}

impl axum::serve::Listener for Counting {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        loop {
            if let Ok((stream, from)) = self.listener.accept().await {
                // Without it a push may wait for the acknowledgement of the last.
                let _quick = stream.set_nodelay(true);
                return (Counted { stream, counts: self.counts.clone() }, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        self.counts.bytes.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.counts.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        if let Poll::Ready(Ok(count)) = written {
            self.counts.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Of all threads of this process. The usual count in hundredths of a second does not see one publish.
fn cpu_nanos() -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").context("this bench needs Linux")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split(' ').next().unwrap_or_default();
        sum += first.parse::<u64>().context("/proc looks otherwise than expected")?;
    }
    Ok(sum)
}

fn say(line: serde_json::Value) -> Result<(), OutputError> {
    output::line(line)
}

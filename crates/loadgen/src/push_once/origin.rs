//! A small site in a separate process: a page, the part of it that changes, and a stream of the changes.
//!
//! It reads commands from standard input, one word per line, and answers each with a line of JSON. It ends
//! with its standard input, so that no process is left behind. It counts its own work.

use std::convert::Infallible;
use std::io::{self, Write as _};
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

/// The settings of the site.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    page: usize,
    #[arg(long)]
    state: usize,
    /// HTTP address of a node to which each change is published
    #[arg(long)]
    publish_to: Option<SocketAddr>,
}

/// Maximum number of changes that a viewer may lag behind; beyond it, its stream ends and it must reconnect.
const LAGGING_CHANGES_MAX: usize = 128;

struct OriginSite {
    state_bytes: usize,
    page_bytes: usize,
    version: AtomicU64,
    state: Mutex<Bytes>,
    changes: broadcast::Sender<Bytes>,
    counters: Arc<OriginCounters>,
}

#[derive(Default)]
struct OriginCounters {
    /// Number of requests answered, and of changes sent or pushed.
    requests: AtomicU64,
    /// Bytes over its connections, in both directions.
    bytes: AtomicU64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let site = Arc::new(OriginSite {
        state_bytes: args.state,
        page_bytes: args.page,
        version: AtomicU64::new(0),
        state: Mutex::default(),
        changes: broadcast::channel(LAGGING_CHANGES_MAX).0,
        counters: Arc::default(),
    });
    site.change();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    print_json_line(json!({ "address": listener.local_addr()?.to_string() }))?;
    let routes = Router::new()
        .route("/page", get(get_page))
        .route("/state", get(get_state))
        .route("/events", get(get_events))
        .with_state(site.clone());
    tokio::select! {
        served = axum::serve(CountingListener { listener, counters: site.counters.clone() }, routes) => {
            Ok(served?)
        }
        command_loop = serve_commands(&site, args.publish_to) => command_loop,
    }
}

async fn serve_commands(site: &OriginSite, publish_to: Option<SocketAddr>) -> anyhow::Result<()> {
    let mut stdin_lines = BufReader::new(tokio::io::stdin()).lines();
    let mut node = match publish_to {
        None => None,
        Some(node) => {
            let stream = TcpStream::connect(node).await?;
            stream.set_nodelay(true)?;
            Some(CountingStream { stream, counters: site.counters.clone() })
        }
    };
    while let Some(command) = stdin_lines.next_line().await? {
        match command.as_str() {
            "change" => {
                let state = site.change();
                if let Some(node) = &mut node {
                    site.counters.requests.fetch_add(1, Ordering::Relaxed);
                    publish(node, &state).await?;
                }
                print_json_line(json!({}))?;
            }
            "tell" => print_json_line(json!({
                "requests": site.counters.requests.load(Ordering::Relaxed),
                "bytes": site.counters.bytes.load(Ordering::Relaxed),
                "cpu_nanos": cpu_nanos()?,
            }))?,
            unknown => bail!("unknown command {unknown:?}"),
        }
    }
    Ok(())
}

/// Publishes with `POST /topics/…`, as any site can.
async fn publish(node: &mut CountingStream, state: &[u8]) -> anyhow::Result<()> {
    let head = format!(
        "POST /topics/{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        super::viewers::TOPIC,
        state.len()
    );
    node.write_all(&[head.as_bytes(), state].concat()).await?;
    let mut response = [0; 4_096];
    let count = node.read(&mut response).await?;
    if !response[..count].starts_with(b"HTTP/1.1 200 ") {
        bail!("the node answered {:?}", String::from_utf8_lossy(&response[..count]));
    }
    Ok(())
}

impl OriginSite {
    /// Creates a new state, and sends it to the connected viewers.
    fn change(&self) -> Bytes {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let mut json_text = format!("{{\"mark\":\"~\",\"version\":{version},\"rest\":\"");
        json_text
            .extend(std::iter::repeat_n('x', self.state_bytes.saturating_sub(json_text.len() + 2)));
        json_text += "\"}";
        let state = Bytes::from(json_text);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state.clone();
        // There may be no viewers.
        let _listeners = self.changes.send(sse_event(&state));
        state
    }

    fn current_state(&self) -> (String, Bytes) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (format!("\"{}\"", self.version.load(Ordering::Relaxed)), state)
    }
}

fn sse_event(state: &[u8]) -> Bytes {
    [b"data: ", state, b"\n\n"].concat().into()
}

type SiteState = State<Arc<OriginSite>>;

async fn get_page(State(site): SiteState) -> Response<Body> {
    site.counters.requests.fetch_add(1, Ordering::Relaxed);
    let (_, state) = site.current_state();
    let mut page =
        b"<!doctype html><title>Score</title><script type=\"application/json\">".to_vec();
    page.extend_from_slice(&state);
    page.extend_from_slice(b"</script><p>");
    page.resize(page.len().max(site.page_bytes), b'x');
    response(StatusCode::OK, "text/html", "", page.into())
}

async fn get_state(State(site): SiteState, headers: HeaderMap) -> Response<Body> {
    site.counters.requests.fetch_add(1, Ordering::Relaxed);
    let (etag, state) = site.current_state();
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|header_value| header_value.as_bytes() == etag.as_bytes())
    {
        return response(StatusCode::NOT_MODIFIED, "application/json", &etag, Body::empty());
    }
    response(StatusCode::OK, "application/json", &etag, state.into())
}

async fn get_events(State(site): SiteState) -> Response<Body> {
    let changes = stream::once(async { Bytes::from_static(b":ready\n\n") })
        .chain(change_stream(site.changes.subscribe(), site.counters.clone()));
    let body = Body::from_stream(changes.map(Ok::<_, Infallible>));
    response(StatusCode::OK, "text/event-stream", "", body)
}

/// The stream of changes. Ends when the viewer lags too far behind.
fn change_stream(
    changes: broadcast::Receiver<Bytes>,
    counters: Arc<OriginCounters>,
) -> impl Stream<Item = Bytes> {
    stream::unfold((changes, counters), |(mut changes, counts)| async {
        let change = changes.recv().await.ok()?;
        counts.requests.fetch_add(1, Ordering::Relaxed);
        Some((change, (changes, counts)))
    })
}

fn response(status: StatusCode, content_type: &str, etag: &str, body: Body) -> Response<Body> {
    let mut builder = Response::builder().status(status).header(header::CACHE_CONTROL, "no-cache");
    builder = builder.header(header::CONTENT_TYPE, content_type);
    if !etag.is_empty() {
        builder = builder.header(header::ETAG, etag);
    }
    builder.body(body).unwrap_or_default()
}

/// Counts the bytes of every connection that it accepts.
struct CountingListener {
    listener: TcpListener,
    counters: Arc<OriginCounters>,
}

struct CountingStream {
    stream: TcpStream,
    counters: Arc<OriginCounters>,
}

impl axum::serve::Listener for CountingListener {
    type Io = CountingStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (CountingStream, SocketAddr) {
        loop {
            if let Ok((stream, peer)) = self.listener.accept().await {
                // Without this a push may wait for the acknowledgement of the previous one.
                let _quick = stream.set_nodelay(true);
                return (CountingStream { stream, counters: self.counters.clone() }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for CountingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        self.counters.bytes.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for CountingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.counters.bytes.fetch_add(count as u64, Ordering::Relaxed);
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
            self.counters.bytes.fetch_add(count as u64, Ordering::Relaxed);
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

/// CPU time of all threads of this process. The usual counters, in 10 ms, and those of `sysinfo`, in 1 ms, are
/// too coarse for one publish, which costs 0.3 ms.
fn cpu_nanos() -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").context("this bench needs Linux")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split(' ').next().unwrap_or_default();
        sum += first.parse::<u64>().context("unexpected format of /proc")?;
    }
    Ok(sum)
}

fn print_json_line(line: serde_json::Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

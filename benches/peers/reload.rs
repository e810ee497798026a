//! Reloads of one page: many keep-alive connections that read the same URL again and again.
//!
//! One thread writes a request on each connection and then reads the responses in the same order, so that the
//! server has as many requests at once as there are connections. With `--publish` the page changes meanwhile, and
//! the metrics of the node tell how many requests its readers cost the owner of the topic.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use pushonce_instruments::ProcessMonitor;
use serde_json::{Value, json};

use crate::ReloadArgs;

/// The counter of the requests to owners of topics.
const FETCHES: &str = "pushonce_fanout_fetches_total";

/// The interval of changes of the page.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// A connection with its receive buffer.
struct ReloadClient {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Measures reloads at a rate, or as many as the server answers.
pub(crate) fn run(args: &ReloadArgs) -> anyhow::Result<Value> {
    let request =
        format!("GET {} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n", args.path);
    let mut clients = (0..args.connections)
        .map(|_| ReloadClient::connect(args.server))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut page = Page::new(args)?;
    page.publish()?;
    // The node watches the topic from the second read on.
    reload_once(&mut clients, &request)?;
    std::thread::sleep(Duration::from_millis(500));
    let fetches_before = page.fetches()?;
    let mut watch = ProcessMonitor::start(&args.pid)?;
    watch.restart();
    let (begun, mut reloads, mut bytes) = (Instant::now(), 0_u64, 0_u64);
    while begun.elapsed().as_secs_f64() < args.seconds {
        page.publish_if_due()?;
        if args.rate.is_some_and(|rate| reloads as f64 >= begun.elapsed().as_secs_f64() * rate) {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        bytes += reload_once(&mut clients, &request)?;
        reloads += clients.len() as u64;
    }
    let usage = watch.usage();
    let (seconds, cpu) = (usage.elapsed.as_secs_f64(), usage.servers_cpu().as_secs_f64());
    let fetches = page.fetches()?.zip(fetches_before).map(|(after, before)| after - before);
    Ok(json!({
        "connections": args.connections, "seconds": seconds, "reloads": reloads,
        "per_second": reloads as f64 / seconds, "cpu_us": cpu * 1e6 / reloads as f64,
        "server_cores": cpu / seconds, "bytes_each": bytes / reloads.max(1),
        "generator_cores": usage.generator_cpu.map(|own| own.as_secs_f64() / seconds),
        "changes": page.changes, "owner_requests_per_second": fetches.map(|count| count / seconds),
    }))
}

fn reload_once(clients: &mut [ReloadClient], request: &str) -> anyhow::Result<u64> {
    for client in &mut *clients {
        client.stream.write_all(request.as_bytes())?;
    }
    clients.iter_mut().map(ReloadClient::read_response).sum()
}

impl ReloadClient {
    fn connect(server: SocketAddr) -> anyhow::Result<ReloadClient> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(ReloadClient { stream, received: Vec::new() })
    }

    /// Reads a response, which must have a length, and returns the number of its bytes.
    fn read_response(&mut self) -> anyhow::Result<u64> {
        let head_len = loop {
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more()?;
        };
        let head = String::from_utf8_lossy(&self.received[..head_len]).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") {
            bail!("unexpected response: {head}");
        }
        let length: Option<usize> =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let whole = head_len + length.context("a response without a length")?;
        while self.received.len() < whole {
            self.read_more()?;
        }
        self.received.drain(..whole);
        Ok(whole as u64)
    }

    fn read_more(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 16 << 10];
        let len = self.stream.read(&mut buffer).context("the server does not answer")?;
        if len == 0 {
            bail!("the server closed a connection");
        }
        self.received.extend_from_slice(&buffer[..len]);
        Ok(())
    }
}

/// The page, which changes if the server is a node.
struct Page<'a> {
    args: &'a ReloadArgs,
    publisher: Option<ReloadClient>,
    published_at: Instant,
    changes: u64,
}

impl Page<'_> {
    fn new(args: &ReloadArgs) -> anyhow::Result<Page<'_>> {
        let publisher = args.publish.then(|| ReloadClient::connect(args.server)).transpose()?;
        Ok(Page { args, publisher, published_at: Instant::now(), changes: 0 })
    }

    fn publish_if_due(&mut self) -> anyhow::Result<()> {
        if self.published_at.elapsed() >= PUBLISH_INTERVAL { self.publish() } else { Ok(()) }
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let Some(publisher) = &mut self.publisher else { return Ok(()) };
        self.published_at = Instant::now();
        self.changes += 1;
        let body = format!(
            "{{\"minute\":{},\"score\":\"{}\"}}",
            self.changes,
            "x".repeat(self.args.payload)
        );
        let path = self.args.path.split('?').next().unwrap_or_default();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        publisher.stream.write_all(head.as_bytes())?;
        publisher.read_response().map(drop)
    }

    /// The requests to owners so far, if the server is a node.
    fn fetches(&self) -> anyhow::Result<Option<f64>> {
        if self.publisher.is_none() {
            return Ok(None);
        }
        let mut stream = TcpStream::connect(self.args.server)?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let counts = text.lines().filter(|line| line.starts_with(FETCHES));
        let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(Some(counts.sum()))
    }
}

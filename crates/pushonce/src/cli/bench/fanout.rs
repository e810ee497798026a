//! `pushonce bench fanout`: how soon every subscriber has read what was published once.

mod audience;
mod frame;
mod publisher;
mod quic;
mod report;
mod ws;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;
use pushonce_client::{Publisher, Scheme, Server};
use pushonce_core::{Publish, Topic};
use pushonce_proto::client::Encoding;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pace::{Pace, Schedule};
use super::progress::{self, Ended};
use crate::instruments::Stamp;
use crate::instruments::Watch;
use audience::Audience;
use publisher::Published;
use report::Report;

/// Who subscribes to what, and what is published.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Connections, each with one subscription
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscribers: u32,
    /// Topics, in turn: bench/fanout/0 and so on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    topics: u32,
    /// Publishes a second over all topics, by the clock; 0 publishes nothing
    /// [default: the next goes when every subscriber has read the last]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Bytes of each payload, which is text
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(Stamp::BYTES as i64..=Publish::PAYLOAD_BYTES_CAP as i64))]
    payload: u32,
    /// How long to publish, as in 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = super::duration)]
    duration: Duration,
    /// What carries the subscriptions
    #[arg(long, default_value = "ws")]
    transport: Transport,
    /// How frames are written [only with ws]
    #[arg(long, default_value = "json")]
    encoding: Written,
    /// Connections a second that are opened at the beginning
    #[arg(long, value_name = "PER_SECOND", default_value = "1000", value_parser = connect_rate)]
    connect_rate: f64,
    /// Where subscribers connect, spread over all that are given: http://HOST:PORT (ws) or
    /// quic://HOST:PORT [default: the transport's usual port on this machine]
    #[arg(long, value_delimiter = ',')]
    server: Vec<Server>,
    /// gRPC address of a node to publish to; may be given more than once
    #[arg(
        long,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    publish_to: Vec<Server>,
    /// A node's process on this machine, whose use of CPU and memory is told; may be given more
    /// than once
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    server_pid: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    Ws,
    Quic,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Written {
    Json,
    Proto,
}

/// How long the last connection may take after the last was begun.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long the last message may take to arrive everywhere.
const TAIL_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<Report> {
    let doors = args.doors()?;
    let mut watch = Watch::begin(&args.server_pid)?;
    let stream = Publisher::new(args.publish_to.clone()).stream().await?;
    let empty_bytes = watch.rss_bytes();

    let audience = Arc::new(Audience::new(args.topics as usize));
    // Dropped at the end, whatever that is: every connection closes.
    let mut tasks = JoinSet::new();
    tasks.spawn(invite(args.guests(doors)?, args.connect_rate, audience.clone()));
    let gathered = gather(&args, &audience, &shutdown).await;
    if gathered == Ended::Interrupted || audience.listening() == 0 {
        bail!("nobody listens: {}", audience.failure().as_deref().unwrap_or("interrupted"));
    }

    watch.restart();
    let (listening, full_bytes) = (audience.listening(), watch.rss_bytes());
    let stop = CancellationToken::new();
    let load = publisher::Load {
        topics: args.names()?,
        payload_bytes: args.payload as usize,
        audience: audience.clone(),
        stop: stop.clone(),
        published: Published::default(),
    };
    let publishing = tokio::spawn(publisher::run(load, stream, args.pacing()));
    show(&args, &audience, &shutdown).await;
    let (window, deliveries) = (watch.end(), audience.delivered());
    let ended = audience.gone();
    stop.cancel();
    let published = publishing.await?;
    let arrived = || audience.delivered() >= audience.expected();
    let tell = || {
        let missing = audience.expected().saturating_sub(audience.delivered());
        format!("{missing} deliveries are still on their way")
    };
    // Also after an interruption, or what is on its way would count as missing. Another ends it all.
    progress::watch(TAIL_MAX, &CancellationToken::new(), arrived, tell).await;
    Ok(Report {
        window,
        deliveries,
        subscribers: args.subscribers.into(),
        listening,
        session_bytes: full_bytes.saturating_sub(empty_bytes) / listening,
        watched: !args.server_pid.is_empty(),
        published,
        expected: audience.expected(),
        seen: audience.seen(),
        ended,
        failure: audience.failure(),
    })
}

/// One subscriber to be.
struct Guest {
    door: Server,
    topic: Topic,
    /// Which of the topics that is.
    index: usize,
    carrier: Carrier,
}

#[derive(Clone, Copy)]
enum Carrier {
    Ws(Encoding),
    Quic,
}

/// Opens the connections, not all in one moment: a node takes in so many a second.
async fn invite(guests: Vec<Guest>, rate: f64, audience: Arc<Audience>) {
    let mut pace = Pace::open(Schedule::new(Instant::now(), rate));
    let mut sessions = JoinSet::new();
    for guest in guests {
        pace.next().await;
        let audience = audience.clone();
        sessions.spawn(async move {
            let ended = match guest.carrier {
                Carrier::Ws(encoding) => ws::listen(&guest, encoding, &audience).await,
                Carrier::Quic => quic::listen(&guest, &audience).await,
            };
            audience.left(&format!("{}: {ended}", guest.door));
        });
    }
    drop(pace);
    while sessions.join_next().await.is_some() {}
}

async fn gather(args: &Args, audience: &Audience, shutdown: &CancellationToken) -> Ended {
    let subscribers = u64::from(args.subscribers);
    let span = Duration::from_secs_f64(f64::from(args.subscribers) / args.connect_rate);
    let settled = || audience.listening() + audience.gone() >= subscribers;
    let tell = || format!("{} of {subscribers} subscribed", audience.listening());
    progress::watch(span + CONNECT_MAX, shutdown, settled, tell).await
}

async fn show(args: &Args, audience: &Audience, shutdown: &CancellationToken) {
    let mut meter = progress::Meter::new(Instant::now());
    let tell = || {
        let delivered = audience.delivered();
        format!(
            "{delivered} delivered, {:.0}/s, {} on their way",
            meter.rate(delivered, Instant::now()),
            audience.expected().saturating_sub(delivered)
        )
    };
    progress::watch(args.duration, shutdown, || false, tell).await;
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|&rate| rate == 0.0 || (0.001..=1e6).contains(&rate));
    rate.ok_or_else(|| "a number of publishes a second, from 0.001 to 1000000, or 0".to_owned())
}

fn connect_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1.0..=1e5).contains(rate));
    rate.ok_or_else(|| "a number of connections a second, from 1 to 100000".to_owned())
}

impl Args {
    fn doors(&self) -> anyhow::Result<Vec<Server>> {
        if self.server.is_empty() {
            let usual = match self.transport {
                Transport::Ws => "http://127.0.0.1:7080",
                Transport::Quic => "quic://127.0.0.1:7443",
            };
            return Ok(vec![usual.parse()?]);
        }
        let quic = self.transport == Transport::Quic;
        if let Some(door) = self.server.iter().find(|door| (door.scheme == Scheme::Quic) != quic) {
            bail!("--server {door} is no address for --transport {:?}", self.transport);
        }
        Ok(self.server.clone())
    }

    fn names(&self) -> anyhow::Result<Vec<Topic>> {
        let names = (0..self.topics).map(|n| Topic::new(&format!("bench/fanout/{n}")));
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Every door gets as many of each topic, if the numbers allow it.
    fn guests(&self, doors: Vec<Server>) -> anyhow::Result<Vec<Guest>> {
        let names = self.names()?;
        let carrier = match (self.transport, self.encoding) {
            (Transport::Quic, _) => Carrier::Quic,
            (Transport::Ws, Written::Json) => Carrier::Ws(Encoding::Json),
            (Transport::Ws, Written::Proto) => Carrier::Ws(Encoding::Proto),
        };
        let guest = |nth: usize| {
            let index = nth % names.len();
            let door = doors[(nth + nth / names.len()) % doors.len()].clone();
            Guest { door, topic: names[index].clone(), index, carrier }
        };
        Ok((0..self.subscribers as usize).map(guest).collect())
    }

    fn pacing(&self) -> publisher::Pacing {
        match self.rate {
            None => publisher::Pacing::OneAtATime,
            Some(0.0) => publisher::Pacing::Silent,
            Some(rate) => publisher::Pacing::Rate(rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::try_parse_from(std::iter::once("bench").chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn every_topic_is_heard_at_every_door() {
        let args = args("--subscribers 8 --topics 2 --server http://a:1,http://b:1");
        let guests = args.guests(args.doors().unwrap()).unwrap();
        for (index, host) in [(0, "a"), (0, "b"), (1, "a"), (1, "b")] {
            let here = guests.iter().filter(|g| g.index == index && g.door.host == host).count();
            assert_eq!(here, 2, "topic {index} at {host}");
        }
    }

    #[test]
    fn a_door_of_another_transport_is_refused() {
        assert!(args("--server quic://a:1").doors().is_err());
        assert!(args("--server quic://a:1 --transport quic").doors().is_ok());
        assert!(args("--server http://a:1 --transport quic").doors().is_err());
    }

    #[test]
    fn a_payload_without_room_for_the_stamp_is_refused() {
        assert!(Line::try_parse_from(["bench", "--payload", "8"]).is_err());
    }

    #[test]
    fn a_rate_of_nothing_is_silence() {
        assert_eq!(rate("0"), Ok(0.0));
        assert!(rate("-1").is_err() && rate("1e7").is_err() && connect_rate("0").is_err());
    }
}

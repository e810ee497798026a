//! `pushonce bench fanout`: the time until every subscriber has received a message that was published once.

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
use pushonce_client::{Scheme, ServerAddress};
use pushonce_core::{Publish, Topic};
use pushonce_instruments::{MessageStamp, ProcessMonitor};
use pushonce_proto::client::Encoding;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Access;
use super::pace::{ArrivalSchedule, LoadPacer};
use super::progress::{self, WaitOutcome};
use audience::DeliveryTracker;
use publisher::PublishOutcomes;
use report::FanoutReport;

/// The subscribers, and the load.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Number of connections, each with one subscription
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscribers: u32,
    /// Number of topics, used in turn: bench/fanout/0 and so on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    topics: u32,
    /// Publishes per second over all topics, by the clock; 0 publishes nothing
    /// [default: the next goes when every subscriber has read the last]
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Payload size in bytes; payloads are text
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(MessageStamp::BYTES as i64..=Publish::PAYLOAD_BYTES_CAP as i64))]
    payload: u32,
    /// Duration of publishing, as in 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = super::parse_duration)]
    duration: Duration,
    /// Transport of the subscriptions
    #[arg(long, default_value = "ws")]
    transport: FanoutTransportArg,
    /// Encoding of frames [only with ws]
    #[arg(long, default_value = "json")]
    encoding: EncodingArg,
    /// Number of connections opened per second at the start
    #[arg(long, value_name = "PER_SECOND", default_value = "1000", value_parser = parse_connect_rate)]
    connect_rate: f64,
    /// Servers that subscribers connect to, in turn: https://HOST:PORT or http://HOST:PORT (ws), or
    /// quic://HOST:PORT [default: the transport's usual port on this machine]
    #[arg(long, value_delimiter = ',')]
    server: Vec<ServerAddress>,
    /// gRPC address of a node to publish to; may be repeated
    #[arg(
        long,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    publish_to: Vec<ServerAddress>,
    /// Process id of a node on this machine, whose CPU and memory usage is reported; may be
    /// repeated
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    server_pid: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FanoutTransportArg {
    Ws,
    Quic,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EncodingArg {
    Json,
    Proto,
}

/// Maximum time until the last connection is established, after the last attempt started.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time until the last message has arrived everywhere.
const TAIL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(
    args: Args,
    access: Access,
    shutdown: CancellationToken,
) -> anyhow::Result<FanoutReport> {
    let servers = args.servers()?;
    let mut monitor = ProcessMonitor::start(&args.server_pid)?;
    let publisher = access.publisher(args.publish_to.clone())?;
    let stream = publisher.stream().await?;
    let rss_before_bytes = monitor.rss_bytes();

    let tracker = Arc::new(DeliveryTracker::new(args.topics as usize));
    // Dropping the tasks closes every connection, however the bench ends.
    let mut tasks = JoinSet::new();
    tasks.spawn(connect_subscribers(
        args.subscriber_specs(servers)?,
        args.connect_rate,
        access,
        tracker.clone(),
    ));
    let connect_outcome = wait_for_subscribers(&args, &tracker, &shutdown).await;
    if connect_outcome == WaitOutcome::Interrupted || tracker.subscribed() == 0 {
        bail!(
            "no subscriber is connected: {}",
            tracker.first_failure().as_deref().unwrap_or("interrupted")
        );
    }

    monitor.restart();
    let (subscribed, rss_after_bytes) = (tracker.subscribed(), monitor.rss_bytes());
    let stop = CancellationToken::new();
    let load = publisher::FanoutBenchLoad {
        topics: args.topic_names()?,
        payload_bytes: args.payload as usize,
        tracker: tracker.clone(),
        stop: stop.clone(),
        published: PublishOutcomes::default(),
    };
    let publish_task = tokio::spawn(publisher::run(load, stream, args.publish_pacing()));
    show_deliveries(&args, &tracker, &shutdown).await;
    let (window, deliveries) = (monitor.usage(), tracker.delivered());
    let ended_early = tracker.ended();
    stop.cancel();
    let published = publish_task.await?;
    let all_arrived = || tracker.delivered() >= tracker.expected();
    let progress_text = || {
        let missing = tracker.expected().saturating_sub(tracker.delivered());
        format!("{missing} deliveries are still in flight")
    };
    // Also after an interruption, or deliveries in flight would count as missing. A second one exits at once.
    progress::wait_with_progress(
        TAIL_TIMEOUT,
        &CancellationToken::new(),
        all_arrived,
        progress_text,
    )
    .await;
    Ok(FanoutReport {
        window,
        deliveries,
        subscribers: args.subscribers.into(),
        subscribed,
        session_bytes: rss_after_bytes.saturating_sub(rss_before_bytes) / subscribed,
        are_servers_measured: !args.server_pid.is_empty(),
        published,
        expected: tracker.expected(),
        stats: tracker.total_stats(),
        ended_early,
        first_failure: tracker.first_failure(),
    })
}

/// A subscriber to connect.
struct SubscriberSpec {
    server: ServerAddress,
    topic: Topic,
    /// The index of the topic.
    topic_index: usize,
    transport: SubscriberTransport,
}

#[derive(Clone, Copy)]
enum SubscriberTransport {
    Ws(Encoding),
    Quic,
}

/// Opens the connections at a limited rate, because a node accepts a limited number per second.
async fn connect_subscribers(
    specs: Vec<SubscriberSpec>,
    rate: f64,
    access: Access,
    tracker: Arc<DeliveryTracker>,
) {
    let mut pacer = LoadPacer::open_loop(ArrivalSchedule::new(Instant::now(), rate));
    let mut sessions = JoinSet::new();
    for spec in specs {
        pacer.next_due().await;
        let (tracker, access) = (tracker.clone(), access.clone());
        sessions.spawn(async move {
            let error = match spec.transport {
                SubscriberTransport::Ws(encoding) => {
                    ws::run_subscriber(&spec, encoding, &access, &tracker).await
                }
                SubscriberTransport::Quic => quic::run_subscriber(&spec, &access, &tracker).await,
            };
            tracker.on_session_ended(&format!("{}: {error}", spec.server));
        });
    }
    drop(pacer);
    while sessions.join_next().await.is_some() {}
}

async fn wait_for_subscribers(
    args: &Args,
    tracker: &DeliveryTracker,
    shutdown: &CancellationToken,
) -> WaitOutcome {
    let subscribers = u64::from(args.subscribers);
    let connect_time = Duration::from_secs_f64(f64::from(args.subscribers) / args.connect_rate);
    let all_settled = || tracker.subscribed() + tracker.ended() >= subscribers;
    let progress_text = || format!("{} of {subscribers} subscribed", tracker.subscribed());
    progress::wait_with_progress(
        connect_time + CONNECT_TIMEOUT,
        shutdown,
        all_settled,
        progress_text,
    )
    .await
}

async fn show_deliveries(args: &Args, tracker: &DeliveryTracker, shutdown: &CancellationToken) {
    let mut rate_meter = progress::RateMeter::new(Instant::now());
    let progress_text = || {
        let delivered = tracker.delivered();
        format!(
            "{delivered} delivered, {:.0}/s, {} in flight",
            rate_meter.per_second(delivered, Instant::now()),
            tracker.expected().saturating_sub(delivered)
        )
    };
    progress::wait_with_progress(args.duration, shutdown, || false, progress_text).await;
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|&rate| rate == 0.0 || (0.001..=1e6).contains(&rate));
    rate.ok_or_else(|| {
        "expected a number of publishes per second from 0.001 to 1000000, or 0".to_owned()
    })
}

fn parse_connect_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1.0..=1e5).contains(rate));
    rate.ok_or_else(|| "expected a number of connections per second from 1 to 100000".to_owned())
}

impl Args {
    fn servers(&self) -> anyhow::Result<Vec<ServerAddress>> {
        if self.server.is_empty() {
            let default_server = match self.transport {
                FanoutTransportArg::Ws => "http://127.0.0.1:7080",
                FanoutTransportArg::Quic => "quic://127.0.0.1:7443",
            };
            return Ok(vec![default_server.parse()?]);
        }
        let quic = self.transport == FanoutTransportArg::Quic;
        if let Some(server) =
            self.server.iter().find(|server| (server.scheme == Scheme::Quic) != quic)
        {
            bail!("--server {server} is not an address for --transport {:?}", self.transport);
        }
        Ok(self.server.clone())
    }

    fn topic_names(&self) -> anyhow::Result<Vec<Topic>> {
        let names = (0..self.topics).map(|n| Topic::new(&format!("bench/fanout/{n}")));
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Spreads the subscribers of each topic evenly over the servers, if the numbers allow it.
    fn subscriber_specs(&self, servers: Vec<ServerAddress>) -> anyhow::Result<Vec<SubscriberSpec>> {
        let names = self.topic_names()?;
        let carrier = match (self.transport, self.encoding) {
            (FanoutTransportArg::Quic, _) => SubscriberTransport::Quic,
            (FanoutTransportArg::Ws, EncodingArg::Json) => SubscriberTransport::Ws(Encoding::Json),
            (FanoutTransportArg::Ws, EncodingArg::Proto) => {
                SubscriberTransport::Ws(Encoding::Proto)
            }
        };
        let to_spec = |number: usize| {
            let topic_index = number % names.len();
            let server = servers[(number + number / names.len()) % servers.len()].clone();
            SubscriberSpec {
                server,
                topic: names[topic_index].clone(),
                topic_index,
                transport: carrier,
            }
        };
        Ok((0..self.subscribers as usize).map(to_spec).collect())
    }

    fn publish_pacing(&self) -> publisher::PublishPacing {
        match self.rate {
            None => publisher::PublishPacing::OneAtATime,
            Some(0.0) => publisher::PublishPacing::Silent,
            Some(rate) => publisher::PublishPacing::Rate(rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct FanoutCli {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        FanoutCli::try_parse_from(std::iter::once("bench").chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn subscribers_of_each_topic_are_spread_over_all_servers() {
        let args = args("--subscribers 8 --topics 2 --server http://a:1,http://b:1");
        let specs = args.subscriber_specs(args.servers().unwrap()).unwrap();
        for (index, host) in [(0, "a"), (0, "b"), (1, "a"), (1, "b")] {
            let count =
                specs.iter().filter(|g| g.topic_index == index && g.server.host == host).count();
            assert_eq!(count, 2, "topic {index} at {host}");
        }
    }

    #[test]
    fn server_of_another_transport_is_rejected() {
        assert!(args("--server quic://a:1").servers().is_err());
        assert!(args("--server quic://a:1 --transport quic").servers().is_ok());
        assert!(args("--server http://a:1 --transport quic").servers().is_err());
    }

    #[test]
    fn payload_smaller_than_the_stamp_is_rejected() {
        assert!(FanoutCli::try_parse_from(["bench", "--payload", "8"]).is_err());
    }

    #[test]
    fn rate_of_zero_publishes_nothing() {
        assert_eq!(parse_rate("0"), Ok(0.0));
        assert!(
            parse_rate("-1").is_err()
                && parse_rate("1e7").is_err()
                && parse_connect_rate("0").is_err()
        );
    }
}

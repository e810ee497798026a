//! `pushonce bench publish`: the rate and latency of acknowledged publishes.

mod report;
mod stream;
mod tally;
mod unary;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use pushonce_client::{PublishFailure, PublishStream, Publisher, ServerAddress};
use pushonce_core::{Acknowledgement, ContentType, Publish, Topic};
use pushonce_instruments::ProcessMonitor;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Access;
use super::pace::{ArrivalSchedule, LoadPacer};
use super::progress;
use report::PublishReport;
use tally::{PublishCounts, PublishTally};

/// The load, and the servers to use.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Number of publishes in flight at any time, over all streams
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    in_flight: u32,
    /// Number of connections, each with one stream; they are spread over the servers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    streams: u32,
    /// Use one call per publish instead of a stream
    #[arg(long)]
    unary: bool,
    /// Number of topics, used in turn: bench/publish/0 and so on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    topics: u32,
    /// Payload size in bytes; payloads are text
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=Publish::PAYLOAD_BYTES_CAP as i64))]
    payload: u32,
    /// Duration of the bench, as in 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = super::parse_duration)]
    duration: Duration,
    /// Publishes per second, by the clock; --in-flight then limits the pending publishes
    /// [default: the next goes when one is acknowledged]
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// gRPC address of a node; may be repeated
    #[arg(
        long,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    server: Vec<ServerAddress>,
    /// Process id of a node on this machine, whose CPU and memory usage is reported; may be
    /// repeated
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    server_pid: Vec<u32>,
}

/// Timeout for the publishes in flight at the end: the deadline of a publish in the SDK.
const DRAIN_TIMEOUT: Duration = Publisher::DEADLINE;

/// The load of one worker, and its results.
#[derive(Clone)]
struct PublishBenchLoad {
    publisher: Publisher,
    topics: Arc<[Topic]>,
    payload: Bytes,
    /// The index of the next topic.
    topic_index: usize,
    tally: Arc<PublishTally>,
    /// When cancelled, no more is sent, and the publishes in flight are awaited.
    stop: CancellationToken,
}

pub(super) async fn run(
    args: Args,
    access: Access,
    shutdown: CancellationToken,
) -> anyhow::Result<PublishReport> {
    args.check()?;
    let mut monitor = ProcessMonitor::start(&args.server_pid)?;
    let stop = CancellationToken::new();
    let mut workers = JoinSet::new();
    let loads = args.loads(&access, &stop)?;
    let tallies: Vec<_> = loads.iter().map(|load| load.tally.clone()).collect();
    let streams = if args.unary { vec![] } else { open_streams(&loads).await? };
    monitor.restart();
    let start = Instant::now();
    if args.unary {
        for (load, in_flight_max) in loads.into_iter().zip(args.in_flight_shares()) {
            unary::spawn(&mut workers, load, args.pacer(start), in_flight_max);
        }
    } else {
        for ((load, stream), in_flight_max) in
            loads.into_iter().zip(streams).zip(args.in_flight_shares())
        {
            workers.spawn(stream::run(load, stream, args.pacer(start), in_flight_max));
        }
    }
    let mut rate_meter = progress::RateMeter::new(start);
    let progress_text = || {
        let acknowledged = tallies.iter().map(|tally| tally.acknowledged_count()).sum();
        format!(
            "{acknowledged} acknowledged, {:.0}/s",
            rate_meter.per_second(acknowledged, Instant::now())
        )
    };
    progress::wait_with_progress(args.duration, &shutdown, || false, progress_text).await;
    let (window, acknowledged) = (monitor.usage(), sum_tallies(&tallies).acknowledged);
    stop.cancel();
    let drain_workers = async { while workers.join_next().await.is_some() {} };
    let timed_out = tokio::time::timeout(DRAIN_TIMEOUT, drain_workers).await.is_err();
    let mut total = sum_tallies(&tallies);
    if timed_out {
        total.first_failure.get_or_insert_with(|| "no response before the end".to_owned());
    }
    total.unknown += total.sent.saturating_sub(total.finished_count());
    Ok(PublishReport { window, acknowledged, total })
}

/// Opens all streams before the clock starts.
async fn open_streams(loads: &[PublishBenchLoad]) -> anyhow::Result<Vec<PublishStream>> {
    let mut streams = Vec::with_capacity(loads.len());
    for load in loads {
        streams.push(load.publisher.stream().await?);
    }
    Ok(streams)
}

fn sum_tallies(tallies: &[Arc<PublishTally>]) -> PublishCounts {
    let mut sum = PublishCounts::default();
    tallies.iter().for_each(|tally| tally.add_to(&mut sum));
    sum
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| {
        "expected a number of publishes per second from 0.001 to 10000000".to_owned()
    })
}

impl Args {
    fn check(&self) -> anyhow::Result<()> {
        if self.in_flight < self.streams {
            bail!("--in-flight {} is less than --streams {}", self.in_flight, self.streams);
        }
        let in_flight_max = PublishStream::IN_FLIGHT_MAX as u32;
        if !self.unary && self.in_flight.div_ceil(self.streams) > in_flight_max {
            bail!("a stream allows at most {in_flight_max} in flight: use more --streams");
        }
        Ok(())
    }

    /// One load per stream, each with its own connection, spread over the servers.
    fn loads(
        &self,
        access: &Access,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<PublishBenchLoad>> {
        let topics = (0..self.topics).map(|n| Topic::new(&format!("bench/publish/{n}")));
        let topics: Arc<[Topic]> = topics.collect::<Result<_, _>>()?;
        let payload = Bytes::from(vec![b'x'; self.payload as usize]);
        let to_load = |index: usize| {
            let mut servers = self.server.clone();
            let first = index % servers.len().max(1);
            servers.rotate_left(first);
            Ok(PublishBenchLoad {
                publisher: access.publisher(servers)?,
                topics: topics.clone(),
                payload: payload.clone(),
                topic_index: index * topics.len() / self.streams as usize,
                tally: Arc::default(),
                stop: stop.clone(),
            })
        };
        (0..self.streams as usize).map(to_load).collect()
    }

    /// The share of each stream in the publishes in flight.
    fn in_flight_shares(&self) -> impl Iterator<Item = usize> {
        let (in_flight, streams) = (self.in_flight as usize, self.streams as usize);
        (0..streams).map(move |nth| in_flight / streams + usize::from(nth < in_flight % streams))
    }

    /// The share of one stream in the rate.
    fn pacer(&self, start: Instant) -> LoadPacer {
        match self.rate {
            Some(rate) => {
                LoadPacer::open_loop(ArrivalSchedule::new(start, rate / f64::from(self.streams)))
            }
            None => LoadPacer::ClosedLoop,
        }
    }
}

impl PublishBenchLoad {
    fn next_message(&mut self) -> Publish {
        let topic = self.topics[self.topic_index % self.topics.len()].clone();
        self.topic_index = self.topic_index.wrapping_add(1);
        // Set explicitly: detecting the type costs a scan of the whole payload.
        let content_type = ContentType::Text;
        Publish { topic, content_type, key: None, publish_id: None, payload: self.payload.clone() }
    }

    fn record_outcome(&self, due_at: Instant, outcome: Result<Acknowledgement, PublishFailure>) {
        match outcome {
            Ok(_) => self.tally.on_acknowledged(due_at.elapsed()),
            Err(failure) => self.tally.on_failed(&failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct PublishCli {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        PublishCli::try_parse_from(std::iter::once("bench").chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn in_flight_limit_is_divided_among_streams_without_remainder() {
        let args = args("--in-flight 10 --streams 4");
        assert_eq!(args.in_flight_shares().collect::<Vec<_>>(), [3, 3, 2, 2]);
    }

    #[test]
    fn in_flight_outside_the_limits_of_a_stream_is_rejected() {
        assert!(args("--in-flight 4096 --streams 1").check().is_ok());
        assert!(args("--in-flight 1 --streams 2").check().is_err());
        assert!(args("--in-flight 8193").check().is_err());
        assert!(args("--in-flight 8193 --unary").check().is_ok());
        assert!(args("--in-flight 8194 --streams 2").check().is_ok());
    }

    #[test]
    fn streams_start_at_different_topics_and_servers() {
        let line = "--in-flight 2 --streams 2 --topics 10 --server http://a:1,http://b:1";
        let loads = args(line).loads(&Access::default(), &CancellationToken::new()).unwrap();
        let first = loads.into_iter().map(|mut load| load.next_message().topic.to_string());
        assert_eq!(first.collect::<Vec<_>>(), ["bench/publish/0", "bench/publish/5"]);
    }

    #[test]
    fn rate_outside_its_range_is_rejected() {
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        for text in ["0", "-1", "x", "nan", "1e9"] {
            assert!(parse_rate(text).is_err(), "{text:?}");
        }
    }
}

//! `pushonce bench publish`: how many publishes a cluster acknowledges, and how soon.

mod report;
mod stream;
mod tally;
mod unary;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use pushonce_client::{Failure, PublishStream, Publisher, Server};
use pushonce_core::{ContentType, Placed, Publish, Topic};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pace::{Pace, Schedule};
use super::progress;
use crate::instruments::Watch;
use report::Report;
use tally::{Count, Tally};

/// How much to publish, and through whom.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Publishes that wait for their acknowledgement at any moment, over all streams
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    in_flight: u32,
    /// Connections, each with one stream; they are spread over the servers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    streams: u32,
    /// One call a publish instead of a stream
    #[arg(long)]
    unary: bool,
    /// Topics, in turn: bench/publish/0 and so on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    topics: u32,
    /// Bytes of each payload, which is text
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=Publish::PAYLOAD_BYTES_CAP as i64))]
    payload: u32,
    /// How long, as in 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_parser = super::duration)]
    duration: Duration,
    /// Publishes a second, by the clock; --in-flight is then the most that may wait
    /// [default: the next goes when one is acknowledged]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// gRPC address of a node; may be given more than once
    #[arg(
        long,
        env = "PUSHONCE_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7090"
    )]
    server: Vec<Server>,
    /// A node's process on this machine, whose use of CPU and memory is told; may be given more
    /// than once
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    server_pid: Vec<u32>,
}

/// How long what is on its way at the end may take: as long as the SDK gives a publish.
const DRAIN_MAX: Duration = Publisher::DEADLINE;

/// What each worker publishes, and what comes of it.
#[derive(Clone)]
struct Load {
    publisher: Publisher,
    topics: Arc<[Topic]>,
    payload: Bytes,
    /// The topic that is next.
    turn: usize,
    tally: Arc<Tally>,
    /// No more is sent; what is on its way is waited for.
    stop: CancellationToken,
}

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<Report> {
    args.check()?;
    let mut watch = Watch::begin(&args.server_pid)?;
    let stop = CancellationToken::new();
    let mut workers = JoinSet::new();
    let loads = args.loads(&stop)?;
    let tallies: Vec<_> = loads.iter().map(|load| load.tally.clone()).collect();
    let streams = if args.unary { vec![] } else { open(&loads).await? };
    watch.restart();
    let begun = Instant::now();
    if args.unary {
        for (load, room) in loads.into_iter().zip(args.rooms()) {
            unary::spawn(&mut workers, load, args.pace(begun), room);
        }
    } else {
        for ((load, stream), room) in loads.into_iter().zip(streams).zip(args.rooms()) {
            workers.spawn(stream::run(load, stream, args.pace(begun), room));
        }
    }
    let mut meter = progress::Meter::new(begun);
    let tell = || {
        let acknowledged = tallies.iter().map(|tally| tally.acknowledged()).sum();
        format!("{acknowledged} acknowledged, {:.0}/s", meter.rate(acknowledged, Instant::now()))
    };
    progress::watch(args.duration, &shutdown, || false, tell).await;
    let (window, acknowledged) = (watch.end(), sum(&tallies).acknowledged);
    stop.cancel();
    let drained = async { while workers.join_next().await.is_some() {} };
    let late = tokio::time::timeout(DRAIN_MAX, drained).await.is_err();
    let mut total = sum(&tallies);
    if late {
        total.failure.get_or_insert_with(|| "no answer until the end".to_owned());
    }
    total.unknown += total.sent.saturating_sub(total.ended());
    Ok(Report { window, acknowledged, total })
}

/// All streams are open before the clock runs.
async fn open(loads: &[Load]) -> anyhow::Result<Vec<PublishStream>> {
    let mut streams = Vec::with_capacity(loads.len());
    for load in loads {
        streams.push(load.publisher.stream().await?);
    }
    Ok(streams)
}

fn sum(tallies: &[Arc<Tally>]) -> Count {
    let mut sum = Count::default();
    tallies.iter().for_each(|tally| tally.add_to(&mut sum));
    sum
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| "a number of publishes a second, from 0.001 to 10000000".to_owned())
}

impl Args {
    fn check(&self) -> anyhow::Result<()> {
        if self.in_flight < self.streams {
            bail!("--in-flight {} is less than --streams {}", self.in_flight, self.streams);
        }
        let most = PublishStream::IN_FLIGHT_MAX as u32;
        if !self.unary && self.in_flight.div_ceil(self.streams) > most {
            bail!("a stream takes at most {most} in flight: give more --streams");
        }
        Ok(())
    }

    /// One for each stream, each with a connection of its own, the next to the next server.
    fn loads(&self, stop: &CancellationToken) -> anyhow::Result<Vec<Load>> {
        let topics = (0..self.topics).map(|n| Topic::new(&format!("bench/publish/{n}")));
        let topics: Arc<[Topic]> = topics.collect::<Result<_, _>>()?;
        let payload = Bytes::from(vec![b'x'; self.payload as usize]);
        let load = |nth: usize| {
            let mut servers = self.server.clone();
            let first = nth % servers.len().max(1);
            servers.rotate_left(first);
            Load {
                publisher: Publisher::new(servers),
                topics: topics.clone(),
                payload: payload.clone(),
                turn: nth * topics.len() / self.streams as usize,
                tally: Arc::default(),
                stop: stop.clone(),
            }
        };
        Ok((0..self.streams as usize).map(load).collect())
    }

    /// Each stream's share of what may be in flight.
    fn rooms(&self) -> impl Iterator<Item = usize> {
        let (in_flight, streams) = (self.in_flight as usize, self.streams as usize);
        (0..streams).map(move |nth| in_flight / streams + usize::from(nth < in_flight % streams))
    }

    /// Each stream's share of the rate.
    fn pace(&self, begun: Instant) -> Pace {
        match self.rate {
            Some(rate) => Pace::open(Schedule::new(begun, rate / f64::from(self.streams))),
            None => Pace::Closed,
        }
    }
}

impl Load {
    fn message(&mut self) -> Publish {
        let topic = self.topics[self.turn % self.topics.len()].clone();
        self.turn = self.turn.wrapping_add(1);
        // Said, not guessed: a guess costs a look at the whole payload.
        let content_type = ContentType::Text;
        Publish { topic, content_type, key: None, stamp: None, payload: self.payload.clone() }
    }

    fn count(&self, meant: Instant, outcome: Result<Placed, Failure>) {
        match outcome {
            Ok(_) => self.tally.acknowledged_after(meant.elapsed()),
            Err(why) => self.tally.failed(&why),
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
    fn what_is_in_flight_is_shared_out_whole() {
        let args = args("--in-flight 10 --streams 4");
        assert_eq!(args.rooms().collect::<Vec<_>>(), [3, 3, 2, 2]);
    }

    #[test]
    fn a_stream_without_room_or_with_too_much_is_refused() {
        assert!(args("--in-flight 4096 --streams 1").check().is_ok());
        assert!(args("--in-flight 1 --streams 2").check().is_err());
        assert!(args("--in-flight 8193").check().is_err());
        assert!(args("--in-flight 8193 --unary").check().is_ok());
        assert!(args("--in-flight 8194 --streams 2").check().is_ok());
    }

    #[test]
    fn streams_begin_with_other_topics_and_servers() {
        let line = "--in-flight 2 --streams 2 --topics 10 --server http://a:1,http://b:1";
        let loads = args(line).loads(&CancellationToken::new()).unwrap();
        let first = loads.into_iter().map(|mut load| load.message().topic.to_string());
        assert_eq!(first.collect::<Vec<_>>(), ["bench/publish/0", "bench/publish/5"]);
    }

    #[test]
    fn a_rate_is_a_number_within_reason() {
        assert_eq!(rate("2.5"), Ok(2.5));
        for text in ["0", "-1", "x", "nan", "1e9"] {
            assert!(rate(text).is_err(), "{text:?}");
        }
    }
}

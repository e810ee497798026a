//! The cost of idle topics in a node's relay: CPU while nothing is published.
//!
//! One node that owns every shard watches the topics; each has one message. Ticks, heartbeats and the audit
//! of quiet topics continue. The CPU time is that of the process, from `/proc/self/stat`, over ten seconds
//! after the topics have settled. Run with `cargo bench -p pushonce-benches --bench relay_idle_topics`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    Acknowledgement, ClusterId, ClusterView, CommitAge, ConsensusTimes, FetchError, Gap,
    HistoryPage, HistoryRange, Message, NodeId, Position, Publish, PublishError, ShardId,
    SubscriberCount, Timestamp, Topic, UnavailableReason, test_util,
};
use pushonce_peer::{PeerAddresses, PeerTransport};
use pushonce_relay::{Clocks, Config, Relay, ShardSource, TopicSink};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NODE: NodeId = NodeId(1);
const TOPICS: [usize; 4] = [0, 1_000, 15_000, 150_000];
/// The time for the topics to settle: a new owner counts the audience of each topic once, some seconds after
/// its claim.
const SETTLE_TIME: Duration = Duration::from_secs(20);
const MEASURE_TIME: Duration = Duration::from_secs(10);

/// Shards in which every topic has one message.
struct BenchShards;

impl ShardSource for BenchShards {
    fn publish(&self, _: Publish) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        async { Err(UnavailableReason::NoView.into()) }.boxed()
    }

    fn read_history(&self, _: &Topic, _: HistoryRange) -> Result<HistoryPage, FetchError> {
        Ok(HistoryPage { messages: Vec::new(), head: Position::new(1, 1), gap: None })
    }

    fn log_times(&self) -> Vec<(ShardId, Timestamp)> {
        Vec::new()
    }
}

struct BenchClock;

impl Clocks for BenchClock {
    fn local_time(&self) -> Timestamp {
        Timestamp(1)
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn on_peer_time(&self, _: NodeId, _: Timestamp) {}
}

/// Counts the live topics.
#[derive(Default)]
struct LiveCounter(AtomicUsize);

impl TopicSink for LiveCounter {
    fn on_live(&self, _: &Topic, _: Position) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn deliver(&self, _: &Topic, _: Vec<Arc<Message>>, _: Option<CommitAge>) {}

    fn on_gap(&self, _: &Topic, _: Gap) {}

    fn on_stale(&self, _: &Topic) {}

    fn on_fresh(&self, _: &Topic) {}

    fn on_audience(&self, _: &Topic, _: u64) {}

    fn on_log_time(&self, _: ShardId, _: Timestamp) {}

    fn take_changed_counts(&self, _: usize) -> Vec<(Topic, SubscriberCount)> {
        Vec::new()
    }
}

fn view() -> ClusterView {
    test_util::view([test_util::member(NODE.0)])
}

/// The CPU time of the process so far, in user mode and in the kernel.
fn cpu_time() -> Duration {
    // After the name, which may contain spaces: utime and stime are fields 14 and 15 of the line.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

async fn measure(topics: usize) {
    let view = view();
    let shards = view.shards;
    let (_never_changes, view) = watch::channel(Arc::new(view));
    let live_counter = Arc::new(LiveCounter::default());
    let addresses = PeerAddresses::default();
    let transport = PeerTransport::new(ClusterId(1), NODE, addresses, &ConsensusTimes::LAN);
    let (relay, handle) =
        Relay::new(Config::new(NODE), transport, view, Arc::new(BenchShards), Arc::new(BenchClock));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(live_counter.clone(), shutdown.clone()));
    for shard in shards.ids() {
        handle.announce_claim(test_util::claim(shard.0, NODE.0, 1));
    }
    for nth in 0..topics {
        handle.watch(&Topic::new(&format!("match/{nth}")).unwrap(), None);
    }
    while live_counter.0.load(Ordering::Relaxed) < topics {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(SETTLE_TIME).await;
    let (cpu_before, started) = (cpu_time(), Instant::now());
    tokio::time::sleep(MEASURE_TIME).await;
    let share = (cpu_time() - cpu_before).as_secs_f64() / started.elapsed().as_secs_f64();
    println!("{topics:>8} idle watched topics: {:.2} % of a core", share * 100.0);
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::main]
async fn main() {
    for topics in TOPICS {
        measure(topics).await;
    }
}

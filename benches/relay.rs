//! What topics at rest cost a node's relay: CPU in a second in which nothing is published.
//!
//! One node that owns every shard watches the topics; each has one message. Ticks, heartbeats and the
//! audit of quiet topics go on. CPU is that of the process, by `/proc/self/stat`, over ten seconds after the topics
//! have come to rest. `cargo bench --bench relay`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    Addresses, Build, Claim, ClusterId, ClusterView, FetchError, Gap, Member, MemberState, Message,
    NodeId, Page, Placed, Position, Publish, PublishError, Refusal, Roles, ShardId, Term,
    Timestamp, Topic, Want, Watching,
};
use pushonce_relay::{Clocks, Config, Relay, Sink, Source};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const ME: NodeId = NodeId(1);
const TOPICS: [usize; 4] = [0, 1_000, 15_000, 150_000];
/// How long the topics may take to come to rest: a new owner counts the audience of each once, some seconds
/// after its claim.
const REST: Duration = Duration::from_secs(20);
const MEASURED: Duration = Duration::from_secs(10);

/// Every topic has one message.
struct Shards;

impl Source for Shards {
    fn publish(&self, _: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        async { Err(Refusal::Unavailable("this bench takes no publishes".to_owned()).into()) }
            .boxed()
    }

    fn page(&self, _: &Topic, _: Want) -> Result<Page, FetchError> {
        Ok(Page { messages: Vec::new(), head: Position::new(1, 1), gap: None })
    }

    fn log_times(&self) -> Vec<(ShardId, Timestamp)> {
        Vec::new()
    }
}

struct Clock;

impl Clocks for Clock {
    fn local(&self) -> Timestamp {
        Timestamp(1)
    }

    fn on_reading(&self, _: NodeId, _: Timestamp) {}
}

/// Counts the topics that are live.
#[derive(Default)]
struct Edge(AtomicUsize);

impl Sink for Edge {
    fn live(&self, _: &Topic, _: Position) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn deliver(&self, _: &Topic, _: Vec<Arc<Message>>) {}

    fn lost(&self, _: &Topic, _: Gap) {}

    fn stale(&self, _: &Topic) {}

    fn fresh(&self, _: &Topic) {}

    fn audience(&self, _: &Topic, _: u64) {}

    fn log_time(&self, _: ShardId, _: Timestamp) {}

    fn watching(&self, _: usize) -> Vec<(Topic, Watching)> {
        Vec::new()
    }
}

fn view() -> ClusterView {
    let member = Member {
        id: ME,
        name: "one".to_owned(),
        addresses: Addresses::default(),
        region: String::new(),
        zone: String::new(),
        roles: Roles::default(),
        weight: 1,
        state: MemberState::Active,
        build: Build::default(),
    };
    let unknown = ClusterView::unknown(ClusterId(1));
    ClusterView { version: 1, members: [(ME, member)].into(), ..unknown }
}

/// CPU time of the process so far, in user mode and in the kernel.
fn cpu() -> Duration {
    // Behind the name, which may have spaces: utime and stime are the 14th and 15th of the line.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

async fn measure(topics: usize) {
    let view = view();
    let shards = view.shards;
    let (_never_changes, view) = watch::channel(Arc::new(view));
    let edge = Arc::new(Edge::default());
    let config = Config::new(ME, ClusterId(1));
    let (relay, handle) = Relay::new(config, view, Arc::new(Shards), edge.clone(), Arc::new(Clock));
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    for shard in shards.ids() {
        let (voters, learners) = (vec![ME], vec![]);
        handle.claim(Claim { shard, owner: ME, term: Term(1), membership: 1, voters, learners });
    }
    for nth in 0..topics {
        handle.watch(&Topic::new(&format!("match/{nth}")).unwrap(), None);
    }
    while edge.0.load(Ordering::Relaxed) < topics {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(REST).await;
    let (before, begun) = (cpu(), Instant::now());
    tokio::time::sleep(MEASURED).await;
    let share = (cpu() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    println!("{topics:>8} watched topics at rest: {:.2} % of a core", share * 100.0);
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::main]
async fn main() {
    for topics in TOPICS {
        measure(topics).await;
    }
}

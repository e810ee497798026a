//! The load of a run: publishers and subscribers that continue through every fault, and record what they
//! observe.
//!
//! One topic is hot: half of the publishes go to it, and every node has a subscriber of it on every
//! transport. The other topics have two subscribers each. Publishers are open loops: they begin a publish
//! when it is due, even while others are in flight, up to a limit. Half of them send unary publishes with a
//! key, and retry at the next node when the outcome is unknown; the other half use the ordered stream of the
//! SDK. Subscribers reconnect to the next node and resume; some disconnect and reconnect now and then.
//! WebSocket and gRPC subscribers use raw sessions, so that the history also contains what an SDK would
//! filter; QUIC subscribers use the SDK.

mod burst;
mod forged_positions;
mod health_prober;
mod idle_connections;
mod log_reader;
mod raw_session;
mod raw_subscriber;
mod sdk_subscriber;
mod stream_publisher;
mod unary_publisher;

use std::time::Duration;

use pushonce_client::{CertificateTrust, Transport};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{HistoryEvent, Recorder};
use crate::node::Ports;

pub use idle_connections::open_idle_connections;
pub use log_reader::{read_logs, topic_head};

/// The shape of a load.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadPlan {
    /// The seed of all random choices.
    pub seed: u64,
    /// The number of topics besides the hot one.
    pub topics: usize,
    /// The interval between two publishes of one publisher. There are two publishers per node.
    pub publish_interval: Duration,
}

/// The busiest topic.
pub const HOT_TOPIC: &str = "hot";

/// The heartbeat interval of sessions: short enough that a run of half a minute sees several.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(4);

/// The limit of publishes in flight per publisher: ten seconds at the usual rate, rounded to a power of two.
const IN_FLIGHT_MAX: usize = 256;

/// The running publishers and subscribers.
pub struct Workload {
    publishers_running: watch::Sender<bool>,
    subscribers_running: watch::Sender<bool>,
    publishers: JoinSet<()>,
    subscribers: JoinSet<()>,
}

/// What each participant of the load needs.
#[derive(Clone)]
struct WorkloadContext {
    plan: WorkloadPlan,
    nodes: Vec<Ports>,
    trust: CertificateTrust,
    recorder: Recorder,
    running: watch::Receiver<bool>,
}

impl WorkloadPlan {
    /// The usual plan.
    pub fn new(seed: u64) -> WorkloadPlan {
        WorkloadPlan { seed, topics: 11, publish_interval: Duration::from_millis(25) }
    }

    /// All topics, the hot one first.
    pub fn topic_names(&self) -> Vec<String> {
        let other_topics = (0..self.topics).map(|n| format!("game/{n}"));
        std::iter::once(HOT_TOPIC.to_owned()).chain(other_topics).collect()
    }

    /// Chooses the topic of the next publish.
    fn pick_topic(&self, rng: &mut StdRng) -> String {
        if rng.random() {
            HOT_TOPIC.to_owned()
        } else {
            format!("game/{}", rng.random_range(0..self.topics))
        }
    }

    /// A separate random number generator for each participant.
    fn rng_for(&self, process: &str) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ crate::history::hash(process.as_bytes()))
    }
}

impl Workload {
    /// Starts the load at these nodes.
    pub fn start(
        plan: WorkloadPlan,
        nodes: Vec<Ports>,
        trust: &CertificateTrust,
        recorder: &Recorder,
    ) -> Workload {
        let (publishers_running, publish) = watch::channel(true);
        let (subscribers_running, watch) = watch::channel(true);
        let (mut publishers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        let context = |running| {
            let (nodes, trust, recorder) = (nodes.clone(), trust.clone(), recorder.clone());
            WorkloadContext { plan, nodes, trust, recorder, running }
        };
        for i in 0..nodes.len() {
            publishers.spawn(unary_publisher::run(context(publish.clone()), i));
            publishers.spawn(stream_publisher::run(context(publish.clone()), i));
        }
        let mut viewers = Vec::new();
        for i in 0..nodes.len() {
            viewers.extend(TRANSPORTS.map(|transport| (HOT_TOPIC.to_owned(), i, transport)));
        }
        for (n, topic) in plan.topic_names().into_iter().skip(1).enumerate() {
            let placement =
                |k: usize| ((n + k) % nodes.len(), TRANSPORTS[(n + k) % TRANSPORTS.len()]);
            viewers.extend(
                [placement(0), placement(1)]
                    .map(|(node, transport)| (topic.clone(), node, transport)),
            );
        }
        for (topic, node, transport) in viewers {
            let context = context(watch.clone());
            match transport {
                Transport::Quic => subscribers.spawn(sdk_subscriber::run(context, topic, node)),
                _ => subscribers.spawn(raw_subscriber::run(context, topic, node, transport)),
            };
        }
        subscribers.spawn(forged_positions::run(context(watch.clone())));
        subscribers.spawn(burst::run(context(watch.clone())));
        subscribers.spawn(health_prober::run(context(watch)));
        Workload { publishers_running, subscribers_running, publishers, subscribers }
    }

    /// Stops new publishes, and waits for the outcomes of those in flight.
    pub async fn stop_publishers(&mut self) {
        self.publishers_running.send_replace(false);
        while let Some(ended) = self.publishers.join_next().await {
            ended.expect("a publisher does not panic");
        }
    }

    /// Stops all subscribers.
    pub async fn stop(mut self) {
        self.subscribers_running.send_replace(false);
        while let Some(ended) = self.subscribers.join_next().await {
            ended.expect("a subscriber does not panic");
        }
    }
}

const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Grpc, Transport::Quic];

impl WorkloadContext {
    /// Whether the load is over.
    fn is_over(&self) -> bool {
        !*self.running.borrow()
    }

    /// Waits until the load is over.
    async fn wait_over(&self) {
        let mut running = self.running.clone();
        // A dropped sender also ends the load.
        let _ = running.wait_for(|running| !running).await;
    }
}

/// The event of an outcome.
fn outcome_event(
    op: crate::history::OpId,
    outcome: Result<pushonce_core::Acknowledgement, pushonce_client::PublishFailure>,
) -> HistoryEvent {
    match outcome {
        Ok(acknowledgement) => HistoryEvent::acknowledged(op, acknowledgement),
        Err(pushonce_client::PublishFailure::Rejected { message, .. }) => {
            HistoryEvent::Rejected { op, reason: message.into() }
        }
        Err(pushonce_client::PublishFailure::Unknown(reason)) => {
            HistoryEvent::Unknown { op, reason: reason.into() }
        }
    }
}

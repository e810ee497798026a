//! The load of a run: publishers and subscribers that go on whatever happens, and write down what
//! they see.
//!
//! One topic is hot: half of the publishes go to it, and every node has a subscriber of it on every
//! transport. The others have two subscribers each. Publishers are open loops: they begin a publish
//! when it is due, also while others wait, up to a bound. Half of them are unary, with a key, and try
//! again at the next node when the outcome is unknown; half use the SDK's ordered stream. Subscribers
//! turn to the next node and resume by themselves; some hang up and come back now and then. Over
//! WebSocket and gRPC they are bare sessions, so that nothing an SDK leaves out is lost to the
//! record; over QUIC it is the SDK.

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
    /// Of all that is drawn.
    pub seed: u64,
    /// Topics beside the hot one.
    pub topics: usize,
    /// Between two publishes of one publisher. There are two publishers a node.
    pub publish_interval: Duration,
}

/// The busiest topic.
pub const HOT_TOPIC: &str = "hot";

/// How often sessions get a heartbeat: often enough that a run of half a minute sees many.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(4);

/// Publishes of one publisher that may be under way: at the usual pace, of ten seconds.
const IN_FLIGHT_MAX: usize = 256;

/// Everybody who makes the load.
pub struct Workload {
    publishers_running: watch::Sender<bool>,
    subscribers_running: watch::Sender<bool>,
    publishers: JoinSet<()>,
    subscribers: JoinSet<()>,
}

/// What everybody who takes part is told.
#[derive(Clone)]
struct WorkloadContext {
    plan: WorkloadPlan,
    nodes: Vec<Ports>,
    trust: CertificateTrust,
    recorder: Recorder,
    running: watch::Receiver<bool>,
}

impl WorkloadPlan {
    /// The usual shape.
    pub fn new(seed: u64) -> WorkloadPlan {
        WorkloadPlan { seed, topics: 11, publish_interval: Duration::from_millis(25) }
    }

    /// Every topic, the hot one first.
    pub fn topic_names(&self) -> Vec<String> {
        let other_topics = (0..self.topics).map(|n| format!("game/{n}"));
        std::iter::once(HOT_TOPIC.to_owned()).chain(other_topics).collect()
    }

    /// The topic of the next publish.
    fn pick_topic(&self, rng: &mut StdRng) -> String {
        if rng.random() {
            HOT_TOPIC.to_owned()
        } else {
            format!("game/{}", rng.random_range(0..self.topics))
        }
    }

    /// Chance of its own for everybody who takes part.
    fn rng_for(&self, process: &str) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ crate::history::hash(process.as_bytes()))
    }
}

impl Workload {
    /// Begins, at these nodes, with this trust in their certificates.
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

    /// No new publishes; waits for the outcomes of those under way.
    pub async fn stop_publishers(&mut self) {
        self.publishers_running.send_replace(false);
        while let Some(ended) = self.publishers.join_next().await {
            ended.expect("a publisher does not panic");
        }
    }

    /// Everybody leaves.
    pub async fn stop(mut self) {
        self.subscribers_running.send_replace(false);
        while let Some(ended) = self.subscribers.join_next().await {
            ended.expect("nobody who takes part panics");
        }
    }
}

const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Grpc, Transport::Quic];

impl WorkloadContext {
    /// The load is over.
    fn is_over(&self) -> bool {
        !*self.running.borrow()
    }

    /// Until the load is over.
    async fn wait_over(&self) {
        let mut running = self.running.clone();
        // A sender that is gone is an end as well.
        let _ = running.wait_for(|running| !running).await;
    }
}

/// A word for a transport.
fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Ws => "ws",
        Transport::Grpc => "grpc",
        Transport::Quic => "quic",
    }
}

/// An outcome, as it is written down.
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

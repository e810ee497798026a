//! The load of a run: publishers and subscribers that continue through every fault, and record what they
//! observe.
//!
//! One topic is hot: half of the publishes go to it, and every node has a subscriber of it of every
//! kind. The other topics have two subscribers each. Publishers are open loops: they begin a publish
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

use std::collections::BTreeSet;
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
#[derive(Clone, Debug)]
pub struct WorkloadPlan {
    /// The seed of all random choices.
    pub seed: u64,
    /// All topics. The first is the hot one.
    pub topics: Vec<String>,
    /// The interval between two publishes of one publisher. There are two publishers per node.
    pub publish_interval: Duration,
    /// The maximum number of random bytes in a payload.
    pub payload_bytes_max: usize,
    /// The interval between two checks of a node's health.
    pub probe_interval: Duration,
    /// The kinds of subscribers, which take turns.
    pub subscribers: Vec<SubscriberKind>,
    /// The participants that are left out, by name.
    pub excluded: BTreeSet<String>,
}

/// How a subscriber receives a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriberKind {
    /// Every frame of the node, over WebSocket or gRPC.
    Raw(Transport),
    /// The events of the SDK.
    Sdk(Transport),
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
        let other_topics = (0..11).map(|n| format!("game/{n}"));
        WorkloadPlan {
            seed,
            topics: std::iter::once(HOT_TOPIC.to_owned()).chain(other_topics).collect(),
            publish_interval: Duration::from_millis(25),
            payload_bytes_max: 120,
            probe_interval: Duration::from_millis(200),
            subscribers: vec![
                SubscriberKind::Raw(Transport::Ws),
                SubscriberKind::Raw(Transport::Grpc),
                SubscriberKind::Sdk(Transport::Quic),
            ],
            excluded: BTreeSet::new(),
        }
    }

    /// The names of all participants that can be left out, in a cluster of this size.
    pub fn participants(&self, nodes: usize) -> Vec<String> {
        let publishers =
            (0..nodes).flat_map(|i| [unary_publisher::name(i), stream_publisher::name(i)]);
        let subscribers = self.subscriptions(nodes).into_iter();
        let subscribers = subscribers.map(|(topic, node, kind)| subscriber_name(kind, node, topic));
        publishers.chain(subscribers).chain(["forger", "burst"].map(str::to_owned)).collect()
    }

    /// Chooses the topic of the next publish: the hot one every second time.
    fn pick_topic(&self, rng: &mut StdRng) -> String {
        match &self.topics[..] {
            [_, others @ ..] if !others.is_empty() && !rng.random::<bool>() => {
                others[rng.random_range(0..others.len())].clone()
            }
            all => all[0].clone(),
        }
    }

    /// Every subscription of the load: topic, first node, kind.
    fn subscriptions(&self, nodes: usize) -> Vec<(&str, usize, SubscriberKind)> {
        let kinds = &self.subscribers;
        let hot = (0..nodes).flat_map(|node| kinds.iter().map(move |&kind| (node, kind)));
        let mut all: Vec<_> = hot.map(|(node, kind)| (&*self.topics[0], node, kind)).collect();
        for (n, topic) in self.topics.iter().skip(1).enumerate() {
            all.extend([n, n + 1].map(|k| (&**topic, k % nodes, kinds[k % kinds.len()])));
        }
        all
    }

    /// A separate random number generator for each participant.
    fn rng_for(&self, process: &str) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ crate::history::hash(process.as_bytes()))
    }
}

impl Workload {
    /// Starts the load at these nodes.
    pub fn start(
        plan: &WorkloadPlan,
        nodes: Vec<Ports>,
        trust: &CertificateTrust,
        recorder: &Recorder,
    ) -> Workload {
        let (publishers_running, publish) = watch::channel(true);
        let (subscribers_running, watch) = watch::channel(true);
        let (mut publishers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        let context = |running| {
            let (nodes, trust, recorder) = (nodes.clone(), trust.clone(), recorder.clone());
            WorkloadContext { plan: plan.clone(), nodes, trust, recorder, running }
        };
        let takes_part = |name: &str| !plan.excluded.contains(name);
        for i in 0..nodes.len() {
            if takes_part(&unary_publisher::name(i)) {
                publishers.spawn(unary_publisher::run(context(publish.clone()), i));
            }
            if takes_part(&stream_publisher::name(i)) {
                publishers.spawn(stream_publisher::run(context(publish.clone()), i));
            }
        }
        for (topic, node, kind) in plan.subscriptions(nodes.len()) {
            let name = subscriber_name(kind, node, topic);
            if !takes_part(&name) {
                continue;
            }
            let (context, topic) = (context(watch.clone()), topic.to_owned());
            match kind {
                SubscriberKind::Sdk(transport) => {
                    subscribers.spawn(sdk_subscriber::run(context, name, topic, node, transport))
                }
                SubscriberKind::Raw(transport) => {
                    subscribers.spawn(raw_subscriber::run(context, name, topic, node, transport))
                }
            };
        }
        if takes_part("forger") {
            subscribers.spawn(forged_positions::run(context(watch.clone())));
        }
        if takes_part("burst") {
            subscribers.spawn(burst::run(context(watch.clone())));
        }
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

/// The name of a subscriber as a process of the history.
fn subscriber_name(kind: SubscriberKind, node: usize, topic: &str) -> String {
    match kind {
        SubscriberKind::Raw(transport) => format!("{}{node}/{topic}", transport.as_str()),
        SubscriberKind::Sdk(transport) => format!("sdk-{}{node}/{topic}", transport.as_str()),
    }
}

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

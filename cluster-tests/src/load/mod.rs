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

mod bare;
mod burst;
mod forger;
mod idle;
mod prober;
mod reader;
mod sdk;
mod session;
mod stream;
mod unary;

use std::time::Duration;

use pushonce_client::{Transport, Trust};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{Event, Recorder};
use crate::node::Ports;

pub use idle::flood;
pub use reader::{head, read};

/// The shape of a load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of all that is drawn.
    pub seed: u64,
    /// Topics beside the hot one.
    pub topics: usize,
    /// Between two publishes of one publisher. There are two publishers a node.
    pub pace: Duration,
}

/// The busiest topic.
pub const HOT: &str = "hot";

/// How often sessions get a heartbeat: often enough that a run of half a minute sees many.
pub const HEARTBEAT: Duration = Duration::from_secs(4);

/// Publishes of one publisher that may be under way: at the usual pace, of ten seconds.
const UNDER_WAY_MAX: usize = 256;

/// Everybody who makes the load.
pub struct Load {
    publishing: watch::Sender<bool>,
    watching: watch::Sender<bool>,
    publishers: JoinSet<()>,
    others: JoinSet<()>,
}

/// What everybody who takes part is told.
#[derive(Clone)]
struct Part {
    plan: Plan,
    nodes: Vec<Ports>,
    trust: Trust,
    recorder: Recorder,
    goes_on: watch::Receiver<bool>,
}

impl Plan {
    /// The usual shape.
    pub fn of(seed: u64) -> Plan {
        Plan { seed, topics: 11, pace: Duration::from_millis(25) }
    }

    /// Every topic, the hot one first.
    pub fn names(&self) -> Vec<String> {
        let others = (0..self.topics).map(|n| format!("game/{n}"));
        std::iter::once(HOT.to_owned()).chain(others).collect()
    }

    /// The topic of the next publish.
    fn draw(&self, rng: &mut StdRng) -> String {
        if rng.random() {
            HOT.to_owned()
        } else {
            format!("game/{}", rng.random_range(0..self.topics))
        }
    }

    /// Chance of its own for everybody who takes part.
    fn rng(&self, who: &str) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ crate::history::hash(who.as_bytes()))
    }
}

impl Load {
    /// Begins, at these nodes, with this trust in their certificates.
    pub fn start(plan: Plan, nodes: Vec<Ports>, trust: &Trust, recorder: &Recorder) -> Load {
        let (publishing, publish) = watch::channel(true);
        let (watching, watch) = watch::channel(true);
        let (mut publishers, mut others) = (JoinSet::new(), JoinSet::new());
        let part = |goes_on| {
            let (nodes, trust, recorder) = (nodes.clone(), trust.clone(), recorder.clone());
            Part { plan, nodes, trust, recorder, goes_on }
        };
        for i in 0..nodes.len() {
            publishers.spawn(unary::publish(part(publish.clone()), i));
            publishers.spawn(stream::publish(part(publish.clone()), i));
        }
        let mut viewers = Vec::new();
        for i in 0..nodes.len() {
            viewers.extend(TRANSPORTS.map(|transport| (HOT.to_owned(), i, transport)));
        }
        for (n, topic) in plan.names().into_iter().skip(1).enumerate() {
            let at = |k: usize| ((n + k) % nodes.len(), TRANSPORTS[(n + k) % TRANSPORTS.len()]);
            viewers
                .extend([at(0), at(1)].map(|(node, transport)| (topic.clone(), node, transport)));
        }
        for (topic, node, transport) in viewers {
            let part = part(watch.clone());
            match transport {
                Transport::Quic => others.spawn(sdk::watch(part, topic, node)),
                _ => others.spawn(bare::watch(part, topic, node, transport)),
            };
        }
        others.spawn(forger::forge(part(watch.clone())));
        others.spawn(burst::burst(part(watch.clone())));
        others.spawn(prober::probe(part(watch)));
        Load { publishing, watching, publishers, others }
    }

    /// No new publishes; waits for the outcomes of those under way.
    pub async fn hush(&mut self) {
        self.publishing.send_replace(false);
        while let Some(ended) = self.publishers.join_next().await {
            ended.expect("a publisher does not panic");
        }
    }

    /// Everybody leaves.
    pub async fn end(mut self) {
        self.watching.send_replace(false);
        while let Some(ended) = self.others.join_next().await {
            ended.expect("nobody who takes part panics");
        }
    }
}

const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Grpc, Transport::Quic];

impl Part {
    /// The load is over.
    fn over(&self) -> bool {
        !*self.goes_on.borrow()
    }

    /// Until the load is over.
    async fn until_over(&self) {
        let mut goes_on = self.goes_on.clone();
        // A sender that is gone is an end as well.
        let _ = goes_on.wait_for(|goes_on| !goes_on).await;
    }
}

/// A word for a transport.
fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Ws => "ws",
        Transport::Grpc => "grpc",
        Transport::Quic => "quic",
    }
}

/// An outcome, as it is written down.
fn outcome(
    op: crate::history::Op,
    outcome: Result<pushonce_core::Placed, pushonce_client::Failure>,
) -> Event {
    match outcome {
        Ok(placed) => Event::placed(op, placed),
        Err(pushonce_client::Failure::Refused { message, .. }) => {
            Event::Refused { op, why: message.into() }
        }
        Err(pushonce_client::Failure::Unknown(why)) => Event::Unknown { op, why: why.into() },
    }
}

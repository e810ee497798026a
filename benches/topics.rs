//! What many topics cost a node's fan-out, that a few subscribers each watch: memory for a topic, a
//! subscription and a message, and the time to come and to go among few topics and among many.
//!
//! Memory is what the process grew by (`VmRSS`), so it holds the allocator's slack too; relay, shard and
//! sockets are not in it. `cargo bench --bench topics`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use pushonce_core::{
    ContentType, FetchError, From, Gap, Message, Options, Page, Position, Timestamp, Topic, Want,
};
use pushonce_fanout::{
    Closed, Driver, Encode, Hub, Lane, Offered, Outlet, Retention, Run, SessionKey, Standing,
    Upstream, Wire, hub,
};
use tokio_util::sync::CancellationToken;

const SUBSCRIBERS: usize = 3;
const TOPICS_EACH: usize = 300;
const PAYLOAD_BYTES: usize = 128;

/// Has no past; remembers who is to hear that a topic is live.
#[derive(Default)]
struct Source(Mutex<Vec<Topic>>);

impl Upstream for Source {
    fn watch(&self, topic: &Topic, _: Option<Position>) {
        self.0.lock().unwrap().push(topic.clone());
    }

    fn unwatch(&self, _: &Topic) {}

    fn fetch(&self, _: Topic, _: Want) -> BoxFuture<'static, Result<Page, FetchError>> {
        Box::pin(async { Err(FetchError::Unavailable("nobody asks".to_owned())) })
    }

    fn retention(&self, _: &Topic) -> Retention {
        Retention::default()
    }
}

/// The payload as it is.
struct Plain;

impl Encode for Plain {
    fn message(&self, _: Wire, _: &Topic, message: &Message) -> Bytes {
        message.payload.clone()
    }

    fn delta(&self, _: &Message, _: &Message) -> Option<Bytes> {
        None
    }

    fn difference(&self, _: Wire, _: &Topic, _: &Message, delta: Bytes) -> Bytes {
        delta
    }

    fn gap(&self, _: Wire, _: &Topic, _: &Gap) -> Bytes {
        Bytes::new()
    }

    fn standing(&self, _: Wire, _: &Topic, _: Standing, _: Position) -> Bytes {
        Bytes::new()
    }

    fn audience(&self, _: Wire, _: &Topic, _: u64) -> Bytes {
        Bytes::new()
    }
}

/// Takes everything, and counts it for all sessions.
struct Sink(Rc<RefCell<usize>>);

impl Outlet for Sink {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        let taken = runs.iter().map(|run| run.frames.len()).sum();
        *self.0.borrow_mut() += taken;
        Ok(Offered { taken, blocked: false })
    }
}

/// A fan-out with one lane and so many topics.
struct Stage {
    hub: Hub,
    source: Arc<Source>,
    lane: Lane,
    topics: Vec<Topic>,
    sessions: Vec<SessionKey>,
    delivered: Rc<RefCell<usize>>,
}

impl Stage {
    fn new(topics: usize) -> (Stage, Driver) {
        let source = Arc::new(Source::default());
        let hub = Hub::new(hub::Config::default(), source.clone(), Arc::new(Plain));
        let (lane, driver) = hub.lane();
        let delivered = Rc::default();
        let topics = (0..topics).map(|n| Topic::new(&format!("game/{n}/score")).unwrap()).collect();
        let sessions = Vec::new();
        (Stage { hub, source, lane, topics, sessions, delivered }, driver)
    }

    /// Each session with its share of the topics: neighbours, so that each topic has its subscribers in
    /// sessions of their own.
    fn watches(&self) -> Vec<(SessionKey, &[Topic])> {
        let shares = self.topics.chunks(TOPICS_EACH).cycle();
        self.sessions.iter().copied().zip(shares).collect()
    }

    fn open(&mut self) {
        let sessions = SUBSCRIBERS * self.topics.len().div_ceil(TOPICS_EACH);
        let outlet = || Rc::new(RefCell::new(Sink(Rc::clone(&self.delivered))));
        self.sessions = (0..sessions).map(|_| self.lane.open(Wire(0), outlet())).collect();
    }

    /// Everybody subscribes to everything of theirs. How long that took, a subscription.
    async fn come(&self) -> Duration {
        let start = Instant::now();
        for (session, topics) in self.watches() {
            let ask = |topic: &Topic| {
                self.lane.subscribe(session, 0, topic.clone(), From::Now, Options::default())
            };
            let asked = join_all(topics.iter().map(ask));
            let live = async {
                tokio::task::yield_now().await;
                for topic in std::mem::take(&mut *self.source.0.lock().unwrap()) {
                    self.hub.live(&topic, Position::ZERO);
                }
            };
            let (asked, ()) = tokio::join!(asked, live);
            assert!(asked.iter().all(Result::is_ok), "everybody gets in");
            topics.iter().for_each(|topic| self.lane.start(session, topic));
        }
        start.elapsed() / self.subscriptions()
    }

    /// One more message on each topic, brought to all.
    async fn publish(&self, offset: u64) {
        let wanted = *self.delivered.borrow() + self.subscriptions() as usize;
        for topic in &self.topics {
            let message = Message {
                position: Position::new(1, offset),
                time: Timestamp(0),
                content_type: ContentType::Text,
                key: None,
                payload: vec![b'x'; PAYLOAD_BYTES].into(),
            };
            self.hub.deliver(topic, &[Arc::new(message)]);
        }
        while *self.delivered.borrow() < wanted {
            tokio::task::yield_now().await;
        }
    }

    /// Everybody goes. How long that took, a subscription.
    fn go(&self) -> Duration {
        let start = Instant::now();
        for (session, topics) in self.watches() {
            topics.iter().for_each(|topic| assert!(self.lane.unsubscribe(session, topic)));
        }
        start.elapsed() / self.subscriptions()
    }

    fn subscriptions(&self) -> u32 {
        u32::try_from(self.topics.len() * SUBSCRIBERS).unwrap()
    }
}

/// What the process holds of the machine's memory, in KiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn measure(topics: usize) {
    let (mut stage, driver) = Stage::new(topics);
    let end = CancellationToken::new();
    let driving = tokio::task::spawn_local(driver.run(end.clone()));
    stage.open();
    let empty = resident();
    let come = stage.come().await;
    let subscribed = resident();
    stage.publish(1).await;
    let one = resident();
    for offset in 2..=10 {
        stage.publish(offset).await;
    }
    let ten = resident();
    let go = stage.go();
    let each = |kib: f64| kib * 1024.0 / topics as f64;
    println!(
        "{topics:>7} topics x {SUBSCRIBERS}: {:>6.0} B a topic with its subscriptions, {:>5.0} B more with a \
         message of {PAYLOAD_BYTES} B, {:>5.0} B for each of nine more; subscribe {come:?}, unsubscribe {go:?}",
        each(subscribed - empty),
        each(one - subscribed),
        each(ten - one) / 9.0,
    );
    end.cancel();
    driving.await.unwrap();
}

fn main() {
    // The few first: what they leave behind would hide what the many take.
    for topics in [1_000, 10_000, 100_000] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, measure(topics));
    }
}

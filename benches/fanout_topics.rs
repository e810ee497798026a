//! The cost of many topics with a few subscribers each in a node's fan-out: memory per topic, subscription
//! and message, and the time of a subscribe and an unsubscribe among few and among many topics.
//!
//! Memory is the growth of the process (`VmRSS`), which includes unused memory of the allocator; relay, shard
//! and sockets are not included. Run with `cargo bench -p pushonce-benches --bench fanout_topics`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use pushonce_core::{
    CommitAge, ContentType, FetchError, Gap, HistoryPage, HistoryRange, Message, Position,
    StartFrom, SubscribeOptions, Timestamp, Topic, UnavailableReason,
};
use pushonce_fanout::{
    FrameEncoder, FrameRun, FrameSink, Hub, Lane, LaneDriver, OfferOutcome, Retention, SessionKey,
    SinkClosed, TopicHealth, Upstream, WireFormat, hub,
};
use tokio_util::sync::CancellationToken;

const SUBSCRIBERS: usize = 3;
const TOPICS_EACH: usize = 300;
const PAYLOAD_BYTES: usize = 128;

/// As for the messages of a remote owner.
const AGE: CommitAge = CommitAge { elapsed: Duration::from_millis(1), is_local: false };

/// Has no history; collects the topics that must be marked live.
#[derive(Default)]
struct EmptyUpstream(Mutex<Vec<Topic>>);

impl Upstream for EmptyUpstream {
    fn watch(&self, topic: &Topic, _: Option<Position>) {
        self.0.lock().unwrap().push(topic.clone());
    }

    fn unwatch(&self, _: &Topic) {}

    fn fetch(
        &self,
        _: Topic,
        _: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        Box::pin(async { Err(UnavailableReason::NoView.into()) })
    }

    fn retention(&self, _: &Topic) -> Retention {
        Retention::default()
    }
}

/// Encodes a message as its payload.
struct PlainEncoder;

impl FrameEncoder for PlainEncoder {
    fn wire_formats(&self) -> &'static [(WireFormat, &'static str)] {
        &[(WireFormat(0), "websocket")]
    }

    fn encode_message(&self, _: WireFormat, _: &Topic, message: &Message) -> Bytes {
        message.payload.clone()
    }

    fn compute_delta(&self, _: &Message, _: &Message) -> Option<Bytes> {
        None
    }

    fn encode_delta(&self, _: WireFormat, _: &Topic, _: &Message, delta: Bytes) -> Bytes {
        delta
    }

    fn encode_gap(&self, _: WireFormat, _: &Topic, _: &Gap) -> Bytes {
        Bytes::new()
    }

    fn encode_health(&self, _: WireFormat, _: &Topic, _: TopicHealth, _: Position) -> Bytes {
        Bytes::new()
    }

    fn encode_audience(&self, _: WireFormat, _: &Topic, _: u64) -> Bytes {
        Bytes::new()
    }
}

/// Accepts every frame and counts the frames of all sessions.
struct CountingFrameSink(Rc<RefCell<usize>>);

impl FrameSink for CountingFrameSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        let taken = runs.iter().map(|run| run.frames.len()).sum();
        *self.0.borrow_mut() += taken;
        Ok(OfferOutcome { accepted: taken, is_blocked: false })
    }
}

/// A fan-out with one lane and many topics.
struct FanoutBench {
    hub: Hub,
    upstream: Arc<EmptyUpstream>,
    lane: Lane,
    topics: Vec<Topic>,
    sessions: Vec<SessionKey>,
    delivered: Rc<RefCell<usize>>,
}

impl FanoutBench {
    fn new(topics: usize) -> (FanoutBench, LaneDriver) {
        let upstream = Arc::new(EmptyUpstream::default());
        let hub = Hub::new(hub::Config::default(), upstream.clone(), Arc::new(PlainEncoder));
        let (lane, driver) = hub.new_lane();
        let delivered = Rc::default();
        let topics = (0..topics).map(|n| Topic::new(&format!("game/{n}/score")).unwrap()).collect();
        let sessions = Vec::new();
        (FanoutBench { hub, upstream, lane, topics, sessions, delivered }, driver)
    }

    /// The topics of each session. Its topics are consecutive, so that the subscribers of a topic belong to
    /// different sessions.
    fn session_topics(&self) -> Vec<(SessionKey, &[Topic])> {
        let shares = self.topics.chunks(TOPICS_EACH).cycle();
        self.sessions.iter().copied().zip(shares).collect()
    }

    fn open_sessions(&mut self) {
        let sessions = SUBSCRIBERS * self.topics.len().div_ceil(TOPICS_EACH);
        let new_sink = || Rc::new(RefCell::new(CountingFrameSink(Rc::clone(&self.delivered))));
        self.sessions =
            (0..sessions).map(|_| self.lane.open_session(WireFormat(0), new_sink())).collect();
    }

    /// Subscribes every session to its topics; returns the time per subscription.
    async fn subscribe_all(&self) -> Duration {
        let start = Instant::now();
        for (session, topics) in self.session_topics() {
            let subscribe = |topic: &Topic| {
                self.lane.subscribe(
                    session,
                    0,
                    topic.clone(),
                    StartFrom::Now,
                    SubscribeOptions::default(),
                )
            };
            let subscribing = join_all(topics.iter().map(subscribe));
            let live = async {
                tokio::task::yield_now().await;
                for topic in std::mem::take(&mut *self.upstream.0.lock().unwrap()) {
                    self.hub.mark_live_at(&topic, Position::ZERO);
                }
            };
            let (results, ()) = tokio::join!(subscribing, live);
            assert!(results.iter().all(Result::is_ok), "every subscription is accepted");
            topics.iter().for_each(|topic| self.lane.start_delivery(session, topic));
        }
        start.elapsed() / self.subscriptions()
    }

    /// Publishes one message on each topic and waits until all are delivered.
    async fn publish(&self, offset: u64) {
        let expected = *self.delivered.borrow() + self.subscriptions() as usize;
        for topic in &self.topics {
            let message = Message {
                position: Position::new(1, offset),
                time: Timestamp(0),
                content_type: ContentType::Text,
                key: None,
                payload: vec![b'x'; PAYLOAD_BYTES].into(),
            };
            self.hub.deliver(topic, &[Arc::new(message)], Some(AGE));
        }
        while *self.delivered.borrow() < expected {
            tokio::task::yield_now().await;
        }
    }

    /// Unsubscribes every session from its topics; returns the time per subscription.
    fn unsubscribe_all(&self) -> Duration {
        let start = Instant::now();
        for (session, topics) in self.session_topics() {
            topics
                .iter()
                .for_each(|topic| assert!(self.lane.unsubscribe(session, topic).is_some()));
        }
        start.elapsed() / self.subscriptions()
    }

    fn subscriptions(&self) -> u32 {
        u32::try_from(self.topics.len() * SUBSCRIBERS).unwrap()
    }
}

/// The resident memory of the process, in KiB.
fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

async fn measure(topics: usize) {
    let (mut bench, driver) = FanoutBench::new(topics);
    let end = CancellationToken::new();
    let driving = tokio::task::spawn_local(driver.run(end.clone()));
    bench.open_sessions();
    let empty = resident_kib();
    let subscribe_time = bench.subscribe_all().await;
    let subscribed = resident_kib();
    bench.publish(1).await;
    let with_one_message = resident_kib();
    for offset in 2..=10 {
        bench.publish(offset).await;
    }
    let with_ten_messages = resident_kib();
    let unsubscribe_time = bench.unsubscribe_all();
    let bytes_per_topic = |kib: f64| kib * 1024.0 / topics as f64;
    println!(
        "{topics:>7} topics x {SUBSCRIBERS}: {:>6.0} B per topic with its subscriptions, {:>5.0} B more with one \
         message of {PAYLOAD_BYTES} B, {:>5.0} B per further message; subscribe {subscribe_time:?}, unsubscribe {unsubscribe_time:?}",
        bytes_per_topic(subscribed - empty),
        bytes_per_topic(with_one_message - subscribed),
        bytes_per_topic(with_ten_messages - with_one_message) / 9.0,
    );
    end.cancel();
    driving.await.unwrap();
}

fn main() {
    // Small sizes first: the memory that they leave behind would hide the growth of the large ones.
    for topics in [1_000, 10_000, 100_000] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, measure(topics));
    }
}

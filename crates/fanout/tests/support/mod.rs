//! Test doubles of a hub's environment: an owner that keeps logs, a link that delivers events in order and
//! on request, and sinks with a limited capacity.

#![allow(dead_code, reason = "each test binary uses its own part")]

mod owner;
mod session;

use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{Gap, Message, Position, Topic};
use pushonce_fanout::{FrameEncoder, Hub, Lane, TopicHealth, WireFormat, hub};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use owner::TestOwner;
pub(crate) use session::TestSession;

pub(crate) const JSON: WireFormat = WireFormat(0);
pub(crate) const PROTO: WireFormat = WireFormat(1);

/// A hub with one running lane.
pub(crate) struct TestHub {
    pub(crate) owner: Arc<TestOwner>,
    pub(crate) hub: Hub,
    pub(crate) lane: Lane,
    _end: DropGuard,
}

/// Encodes human-readable frames: `a 1:7`, `a 1:8 on 1:7`, `a gap 1:3 1:6 slow`.
struct TextEncoder;

impl TestHub {
    pub(crate) fn new(config: hub::Config) -> TestHub {
        let owner = TestOwner::new();
        let hub = new_hub(&owner, config);
        let end = CancellationToken::new();
        let (lane, driver) = hub.new_lane();
        tokio::task::spawn_local(driver.run(end.clone()));
        TestHub { owner, hub, lane, _end: end.drop_guard() }
    }

    pub(crate) fn new_session(&self, wire: WireFormat) -> TestSession {
        TestSession::new(&self.lane, wire)
    }

    /// Publishes `n` messages and delivers everything in flight.
    pub(crate) async fn publish(&self, topic: &Topic, n: usize) {
        for _ in 0..n {
            self.owner.publish(topic);
        }
        self.run_until_idle().await;
    }

    /// Delivers events and yields 20 times, enough for all tasks to become idle.
    pub(crate) async fn run_until_idle(&self) {
        for _ in 0..20 {
            self.owner.deliver_events(&self.hub, usize::MAX);
            yield_times(5).await;
        }
    }
}

/// A configuration whose rings hold 4 messages.
pub(crate) fn small_ring_config() -> hub::Config {
    hub::Config { ring_messages_max: 4, ..hub::Config::default() }
}

pub(crate) fn new_hub(owner: &Arc<TestOwner>, config: hub::Config) -> Hub {
    Hub::new(config, owner::TestUpstream::for_owner(owner), Arc::new(TextEncoder))
}

impl FrameEncoder for TextEncoder {
    fn wire_formats(&self) -> &'static [(WireFormat, &'static str)] {
        &[(JSON, "websocket"), (PROTO, "quic")]
    }

    fn encode_message(&self, _: WireFormat, topic: &Topic, message: &Message) -> Bytes {
        format!("{topic} {}", message.position).into()
    }

    /// The position of the base. `None` for every fifth message.
    fn compute_delta(&self, predecessor: &Message, message: &Message) -> Option<Bytes> {
        (!message.position.offset.0.is_multiple_of(5))
            .then(|| predecessor.position.to_string().into())
    }

    fn encode_delta(&self, _: WireFormat, topic: &Topic, message: &Message, delta: Bytes) -> Bytes {
        let before = String::from_utf8_lossy(&delta);
        format!("{topic} {} on {before}", message.position).into()
    }

    fn encode_gap(&self, _: WireFormat, topic: &Topic, gap: &Gap) -> Bytes {
        format!("{topic} gap {} {} {}", gap.from, gap.to, gap.reason.as_str()).into()
    }

    fn encode_health(
        &self,
        _: WireFormat,
        topic: &Topic,
        health: TopicHealth,
        reached: Position,
    ) -> Bytes {
        match health {
            TopicHealth::Stale => format!("{topic} stale {reached}").into(),
            TopicHealth::Live => format!("{topic} live {reached}").into(),
        }
    }

    fn encode_audience(&self, _: WireFormat, topic: &Topic, sessions: u64) -> Bytes {
        format!("{topic} audience {sessions}").into()
    }
}

/// Yields `turns` times to the other tasks of this thread.
pub(crate) async fn yield_times(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn at(epoch: u64, offset: u64) -> Position {
    Position::new(epoch, offset)
}

/// The frames of messages with these offsets in epoch 1.
pub(crate) fn frames(topic: &Topic, offsets: std::ops::RangeInclusive<u64>) -> Vec<String> {
    offsets.map(|offset| format!("{topic} 1:{offset}")).collect()
}

/// Runs a test in a `LocalSet` on one thread.
pub(crate) fn run_local<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime.expect("a runtime"), async { test().await })
}

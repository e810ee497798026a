//! A node's surroundings, as far as the fan-out meets them: an owner that remembers, a link that
//! brings things in order when it is told to, and sockets that take as much as they have room for.

#![allow(dead_code, reason = "each test binary uses its own part")]

mod owner;
mod viewer;

use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{Gap, Message, Position, Topic};
use pushonce_fanout::{FrameEncoder, Hub, Lane, TopicHealth, WireFormat, hub};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use owner::Owner;
pub(crate) use viewer::Viewer;

pub(crate) const JSON: WireFormat = WireFormat(0);
pub(crate) const PROTO: WireFormat = WireFormat(1);

/// A hub with one lane that runs.
pub(crate) struct Stage {
    pub(crate) owner: Arc<Owner>,
    pub(crate) hub: Hub,
    pub(crate) lane: Lane,
    _end: DropGuard,
}

/// Frames that people can read: `a 1:7`, `a 1:8 on 1:7`, `a gap 1:3 1:6 slow`.
struct TextEncoder;

impl Stage {
    pub(crate) fn new(config: hub::Config) -> Stage {
        let owner = Owner::new();
        let hub = hub_of(&owner, config);
        let end = CancellationToken::new();
        let (lane, driver) = hub.new_lane();
        tokio::task::spawn_local(driver.run(end.clone()));
        Stage { owner, hub, lane, _end: end.drop_guard() }
    }

    pub(crate) fn viewer(&self, wire: WireFormat) -> Viewer {
        Viewer::new(&self.lane, wire)
    }

    /// Publishes `n` and brings everything that is under way.
    pub(crate) async fn publish(&self, topic: &Topic, n: usize) {
        for _ in 0..n {
            self.owner.publish(topic);
        }
        self.settle().await;
    }

    /// Brings everything that is under way, until nothing moves any more.
    pub(crate) async fn settle(&self) {
        for _ in 0..20 {
            self.owner.bring(&self.hub, usize::MAX);
            yields(5).await;
        }
    }
}

/// A hub that soon forgets.
pub(crate) fn small_rings() -> hub::Config {
    hub::Config { ring_messages_max: 4, ..hub::Config::default() }
}

pub(crate) fn hub_of(owner: &Arc<Owner>, config: hub::Config) -> Hub {
    Hub::new(config, owner::Up::to(owner), Arc::new(TextEncoder))
}

impl FrameEncoder for TextEncoder {
    fn encode_message(&self, _: WireFormat, topic: &Topic, message: &Message) -> Bytes {
        format!("{topic} {}", message.position).into()
    }

    /// Says what it is of. None of every fifth message.
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
        standing: TopicHealth,
        reached: Position,
    ) -> Bytes {
        match standing {
            TopicHealth::Stale => format!("{topic} stale {reached}").into(),
            TopicHealth::Live => format!("{topic} live {reached}").into(),
        }
    }

    fn encode_audience(&self, _: WireFormat, topic: &Topic, sessions: u64) -> Bytes {
        format!("{topic} audience {sessions}").into()
    }
}

/// Lets everything else on this thread have some turns.
pub(crate) async fn yields(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn at(epoch: u64, offset: u64) -> Position {
    Position::new(epoch, offset)
}

/// The frames of these offsets of epoch 1.
pub(crate) fn frames(topic: &Topic, offsets: std::ops::RangeInclusive<u64>) -> Vec<String> {
    offsets.map(|offset| format!("{topic} 1:{offset}")).collect()
}

/// Runs a story on one thread.
pub(crate) fn play<F: Future>(story: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime.expect("a runtime"), async { story().await })
}

//! The topics of this node: how messages come in, and who may ask for them.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    FetchError, Gap, HistoryPage, HistoryRange, Message, Position, StartFrom, SubscribeOptions,
    SubscriberCount, Topic,
};

use crate::registry::TopicRegistry;
use crate::ring::{RingBounds, RingPlace};
use crate::start_position::{PreparedSubscription, prepare};
use crate::topic_buffer::{TopicBuffer, TopicBufferState};
use crate::{FrameEncoder, Lane, LaneDriver, Retention, TopicHealth, TopicReader, Upstream};

/// The bounds of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many messages a topic's ring keeps; whichever of the two bounds is met first forgets the
    /// oldest. 1,000, as history does. While somebody catches up it may be four times as many, or a
    /// page of history besides.
    pub ring_messages_max: usize,
    /// How many payload bytes a topic's ring keeps. 1 MiB, as history does; more in the same way.
    pub ring_bytes_max: usize,
    /// How many topics one session may subscribe to. 1,000.
    pub subscriptions_max: usize,
    /// How long a subscriber or a snapshot waits for upstream before it is refused. 5 s: longer
    /// than a failover takes, shorter than a person's patience.
    pub upstream_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            ring_messages_max: 1_000,
            ring_bytes_max: 1 << 20,
            subscriptions_max: 1_000,
            upstream_timeout: Duration::from_secs(5),
        }
    }
}

/// The fan-out of one node. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    pub(crate) shared: Arc<HubShared>,
}

pub(crate) struct HubShared {
    pub(crate) config: Config,
    pub(crate) registry: Arc<TopicRegistry>,
    pub(crate) encoder: Arc<dyn FrameEncoder>,
}

impl Hub {
    /// A hub without topics.
    pub fn new(config: Config, upstream: Arc<dyn Upstream>, encoder: Arc<dyn FrameEncoder>) -> Hub {
        let bounds =
            RingBounds { messages: config.ring_messages_max, bytes: config.ring_bytes_max };
        let registry = Arc::new(TopicRegistry::new(bounds, upstream));
        Hub { shared: Arc::new(HubShared { config, registry, encoder }) }
    }

    /// The upstream's word after [`Upstream::watch`]: the topic stands at `head`, and everything
    /// after it will be delivered. Said again with a head that was not reached here, it is a loss of
    /// what lies between; with one that was, it changes nothing.
    pub fn mark_live_at(&self, topic: &Topic, head: Position) {
        self.update_topic(topic, |buffer| buffer.mark_live_at(head));
    }

    /// The next messages of a topic, in order. What lies at or before the head is dropped; a hole
    /// is the caller's mistake, and is told to subscribers as a gap. Never waits for a subscriber.
    pub fn deliver(&self, topic: &Topic, messages: &[Arc<Message>]) {
        self.update_topic(topic, |buffer| buffer.deliver(messages));
    }

    /// What lies between the head and `gap.to` will not come: every subscriber that is not beyond
    /// is told so once, and goes on after it.
    pub fn record_gap(&self, topic: &Topic, gap: Gap) {
        self.update_topic(topic, |buffer| buffer.record_gap(gap));
    }

    /// The upstream lost touch with a topic's owner: every subscriber is told, once it is level.
    pub fn mark_stale(&self, topic: &Topic) {
        self.update_topic(topic, |buffer| buffer.set_health(TopicHealth::Stale));
    }

    /// It hears of the topic again. [`Hub::mark_live_at`] says so as well.
    pub fn mark_live(&self, topic: &Topic) {
        self.update_topic(topic, |buffer| buffer.set_health(TopicHealth::Live));
    }

    /// So many sessions of the whole cluster watch the topic: every subscriber that asked is told, once it
    /// is level.
    pub fn set_audience(&self, topic: &Topic, sessions: u64) {
        self.update_topic(topic, |buffer| buffer.set_audience(sessions));
    }

    /// How many sessions watch here, and whether one of them asks how many do in the whole cluster: of
    /// at most `topics_max` of the topics where that changed since this was asked last. Costs nothing for
    /// the others.
    pub fn take_changed_counts(&self, topics_max: usize) -> Vec<(Topic, SubscriberCount)> {
        self.shared.registry.take_changed_counts(topics_max)
    }

    /// What nobody here is interested in is dropped: it is on its way since before the last one went.
    fn update_topic(&self, topic: &Topic, update: impl FnOnce(&TopicBuffer) -> usize) {
        if let Some(buffer) = self.shared.registry.get(topic) {
            self.shared.registry.metrics.wakes.increment(update(&buffer) as u64);
        }
    }

    /// The newest `n` messages of a topic, as far as its namespace keeps them: from its ring if that has them and is not stale, else from
    /// upstream, which is asked once however many ask at the same time.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when upstream cannot be asked, or does not answer in time.
    pub async fn latest(&self, topic: &Topic, n: u32) -> Result<HistoryPage, FetchError> {
        let registry = &self.shared.registry;
        let retention = registry.retention(topic);
        if let Some(page) =
            registry.get(topic).and_then(|buffer| newest_in_ring(&buffer.state(), n, &retention))
        {
            return Ok(page);
        }
        let timeout = self.shared.config.upstream_timeout;
        match tokio::time::timeout(timeout, registry.fetch(topic, HistoryRange::Last(n))).await {
            Ok(page) => page.map(Arc::unwrap_or_clone),
            Err(_) => Err(upstream_timeout_error(timeout)),
        }
    }

    /// A subscription for a back end. Of the options only the delivery counts, and whether to be told
    /// what it passes over; none is every message, whatever the namespace has for viewers.
    ///
    /// # Errors
    /// [`FetchError::FuturePosition`] when `from` is a position that was never given out;
    /// [`FetchError::Unavailable`] when upstream cannot be asked, or does not answer in time.
    pub async fn open_reader(
        &self,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> Result<TopicReader, FetchError> {
        self.shared.prepare(&topic, from).await.map(|prepared| TopicReader::new(prepared, &options))
    }

    /// A new lane: its handle, and what runs it. Both stay on the thread that runs the driver.
    pub fn new_lane(&self) -> (Lane, LaneDriver) {
        Lane::new(self.clone())
    }
}

impl HubShared {
    /// Takes an interest in `topic` and finds where `from` is, within the time a subscriber waits.
    pub(crate) async fn prepare(
        &self,
        topic: &Topic,
        from: StartFrom,
    ) -> Result<PreparedSubscription, FetchError> {
        let timeout = self.config.upstream_timeout;
        match tokio::time::timeout(timeout, prepare(&self.registry, topic, from)).await {
            Ok(prepared) => prepared,
            Err(_) => Err(upstream_timeout_error(timeout)),
        }
    }
}

fn upstream_timeout_error(timeout: Duration) -> FetchError {
    FetchError::Unavailable(format!("no answer within {} ms", timeout.as_millis()))
}

/// The newest `n`, as far as they may be shown, if they are all in the ring.
fn newest_in_ring(state: &TopicBufferState, n: u32, retention: &Retention) -> Option<HistoryPage> {
    if !state.is_open() || state.health() == TopicHealth::Stale {
        return None;
    }
    let ring = &state.ring;
    let RingPlace::At(index) = ring.locate(ring.cursor_before_last(n as usize, retention)?) else {
        return None;
    };
    let messages = ring.entries_from(index).map(|entry| Arc::clone(&entry.message)).collect();
    Some(HistoryPage { messages, head: ring.head(), gap: None })
}

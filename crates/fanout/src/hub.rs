//! The topics of this node: delivery of messages, history and subscriptions.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    CommitAge, FetchError, Gap, GapReason, HistoryPage, HistoryRange, Message, Position, StartFrom,
    SubscribeOptions, SubscriberCount, Topic, UnavailableReason,
};

use tokio::time::Instant;

use crate::registry::TopicRegistry;
use crate::ring::{RingBounds, RingPlace};
use crate::start_position::{PreparedSubscription, prepare};
use crate::topic_buffer::{TopicBuffer, TopicBufferState};
use crate::{
    FrameEncoder, Lane, LaneDriver, Retention, TopicHealth, TopicReader, Upstream, warm_topics,
};

/// Limits of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Maximum number of messages in a topic's ring; the oldest are dropped when either limit is reached.
    /// 1,000, the same as for history. While a subscriber catches up, the ring may hold four times as many,
    /// or a page of history in addition.
    pub ring_messages_max: usize,
    /// Maximum payload bytes in a topic's ring. 1 MiB, the same as for history; may be exceeded likewise.
    pub ring_bytes_max: usize,
    /// Maximum number of topics that one session can subscribe to. 1,000.
    pub subscriptions_max: usize,
    /// How long a subscribe or snapshot request waits for upstream before it fails. 5 s: longer than a
    /// failover takes, and short enough for an interactive client.
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
    /// Creates a hub without topics.
    pub fn new(config: Config, upstream: Arc<dyn Upstream>, encoder: Arc<dyn FrameEncoder>) -> Hub {
        let bounds =
            RingBounds { messages: config.ring_messages_max, bytes: config.ring_bytes_max };
        let registry = Arc::new(TopicRegistry::new(bounds, upstream));
        Hub { shared: Arc::new(HubShared { config, registry, encoder }) }
    }

    /// Reply of the upstream to [`Upstream::watch`]: the topic is at `head`, and every later message will
    /// be delivered. A later call with a `head` that was not reached here means that the messages before it
    /// are lost; with a head that was reached it changes nothing.
    pub fn mark_live_at(&self, topic: &Topic, head: Position) {
        self.update_topic(topic, |buffer| buffer.mark_live_at(head));
    }

    /// Delivers the next messages of a topic, in order. Messages at or before the head are dropped. A hole
    /// is an error of the caller and is reported to subscribers as a gap. Never waits for a subscriber. The
    /// delivery lag is measured from `age`, and not at all without one.
    pub fn deliver(&self, topic: &Topic, messages: &[Arc<Message>], age: Option<CommitAge>) {
        self.update_topic(topic, |buffer| buffer.deliver(messages, age));
    }

    /// Records that the messages between the head and `gap.to` will not come. Every subscriber before
    /// `gap.to` is notified once and continues after it.
    pub fn record_gap(&self, topic: &Topic, gap: Gap) {
        self.update_topic(topic, |buffer| buffer.record_gap(gap));
    }

    /// Records that upstream lost contact with the topic's owner. Every subscriber is notified once it is
    /// up to date.
    pub fn mark_stale(&self, topic: &Topic) {
        self.update_topic(topic, |buffer| buffer.set_health(TopicHealth::Stale));
    }

    /// Records that contact with the topic's owner is restored. [`Hub::mark_live_at`] implies it.
    pub fn mark_live(&self, topic: &Topic) {
        self.update_topic(topic, |buffer| buffer.set_health(TopicHealth::Live));
    }

    /// Sets the cluster-wide number of subscribed sessions. Every subscriber that requested it is notified
    /// once it is up to date.
    pub fn set_audience(&self, topic: &Topic, sessions: u64) {
        self.update_topic(topic, |buffer| buffer.set_audience(sessions));
    }

    /// The subscriber counts of at most `topics_max` topics whose count changed since the last call.
    /// Unchanged topics cost nothing.
    pub fn take_changed_counts(&self, topics_max: usize) -> Vec<(Topic, SubscriberCount)> {
        self.shared.registry.take_changed_counts(topics_max)
    }

    /// Updates of topics without interest are dropped: they were sent before upstream processed the last
    /// [`Upstream::unwatch`].
    fn update_topic(&self, topic: &Topic, update: impl FnOnce(&TopicBuffer) -> usize) {
        if let Some(buffer) = self.shared.registry.get(topic) {
            self.shared.registry.metrics.wakes.increment(update(&buffer) as u64);
        }
    }

    /// The newest `n` messages of a topic, as far as its namespace retains them. Served from the ring if it
    /// has them and is not stale, else fetched from upstream, once for all concurrent calls. A topic that is
    /// read often is watched, so that further reads are in the ring. No read of such a topic returns less than one
    /// before it.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when upstream is unavailable or does not reply in time.
    pub async fn latest(&self, topic: &Topic, n: u32) -> Result<HistoryPage, FetchError> {
        self.read(topic, HistoryRange::Last(n), StartFrom::Last(n), usize::MAX).await
    }

    /// The oldest messages of a topic after `position`, at most `messages_max`; the page need not end at the
    /// head. Messages that history no longer has are reported as a gap. Served as [`Hub::latest`].
    ///
    /// # Errors
    /// [`FetchError::FuturePosition`] when the position was never assigned; [`FetchError::Unavailable`] when
    /// upstream is unavailable or does not reply in time.
    pub async fn after(
        &self,
        topic: &Topic,
        position: Position,
        messages_max: usize,
    ) -> Result<HistoryPage, FetchError> {
        let range = HistoryRange::After(position);
        self.read(topic, range, StartFrom::Position(position), messages_max).await
    }

    async fn read(
        &self,
        topic: &Topic,
        range: HistoryRange,
        from: StartFrom,
        messages_max: usize,
    ) -> Result<HistoryPage, FetchError> {
        let registry = &self.shared.registry;
        let read_buffer = || {
            let page = self.read_buffer(topic, range, messages_max)?;
            registry.warm_topics.on_hit(topic, page.head, Instant::now()).then_some(page)
        };
        if let Some(page) = read_buffer() {
            return Ok(page);
        }
        let timeout = self.shared.config.upstream_timeout;
        warm_topics::on_miss(registry, topic);
        let fetched = tokio::time::timeout(timeout, async {
            let is_watched = registry.get(topic).is_some_and(|buffer| is_current(&buffer.state()));
            // Position zero is answered by upstream only, so that its page stays out of the ring.
            if is_watched && from != StartFrom::Position(Position::ZERO) {
                // The ring keeps the page for the next read.
                let _prepared = prepare(registry, topic, from).await?;
                if let Some(page) = read_buffer() {
                    return Ok(page);
                }
            }
            let mut page = registry.fetch(topic, range).await.map(Arc::unwrap_or_clone)?;
            registry.warm_topics.on_fetched(topic, page.head);
            page.messages.truncate(messages_max);
            Ok(page)
        });
        fetched.await.unwrap_or_else(|_| Err(upstream_timeout_error(timeout)))
    }

    /// The messages of a range, if all of them are in the ring.
    fn read_buffer(
        &self,
        topic: &Topic,
        range: HistoryRange,
        messages_max: usize,
    ) -> Option<HistoryPage> {
        let registry = &self.shared.registry;
        let buffer = registry.get(topic)?;
        let retention = registry.retention(topic);
        let state = buffer.state();
        match range {
            HistoryRange::Last(n) => newest_in_ring(&state, n, &retention),
            HistoryRange::After(position) => {
                after_in_ring(&state, position, messages_max, &retention)
            }
            HistoryRange::All => None,
        }
    }

    /// Opens a subscription for a back end. Only `delivery` and `report_conflated` of the options are used.
    /// Without `delivery` every message is delivered, whatever the default of the namespace for
    /// subscribers.
    ///
    /// # Errors
    /// [`FetchError::FuturePosition`] when `from` is a position that was never assigned;
    /// [`FetchError::Unavailable`] when upstream is unavailable or does not reply in time.
    pub async fn open_reader(
        &self,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> Result<TopicReader, FetchError> {
        self.shared.prepare(&topic, from).await.map(|prepared| TopicReader::new(prepared, &options))
    }

    /// Creates a lane: its handle and its driver. Both stay on the thread that runs the driver.
    pub fn new_lane(&self) -> (Lane, LaneDriver) {
        Lane::new(self.clone())
    }
}

impl HubShared {
    /// Acquires interest in `topic` and resolves `from`, within the upstream timeout.
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
    UnavailableReason::NoReply { node: None, within: timeout }.into()
}

/// The newest `n` messages that retention allows, if all of them are in the ring.
fn newest_in_ring(state: &TopicBufferState, n: u32, retention: &Retention) -> Option<HistoryPage> {
    if !is_current(state) {
        return None;
    }
    let ring = &state.ring;
    let RingPlace::At(index) = ring.locate(ring.cursor_before_last(n as usize, retention)?) else {
        return None;
    };
    let messages = ring.entries_from(index).map(|entry| Arc::clone(&entry.message)).collect();
    Some(HistoryPage { messages, head: ring.head(), gap: None })
}

/// The oldest messages after `position`, if all of them are in the ring. Only upstream knows whether a position
/// ahead of the head was assigned, and whether there was an earlier epoch for a reader at zero.
fn after_in_ring(
    state: &TopicBufferState,
    position: Position,
    messages_max: usize,
    retention: &Retention,
) -> Option<HistoryPage> {
    let ring = &state.ring;
    if !is_current(state) || position > ring.head() || position == Position::ZERO {
        return None;
    }
    let RingPlace::At(index) = ring.locate(position) else { return None };
    let oldest = ring.first_visible_index(index, retention);
    let gap = (oldest > index).then(|| Gap {
        from: position.next(),
        to: ring.cursor_at(oldest),
        reason: GapReason::Expired,
    });
    let entries = ring.entries_from(oldest).take(messages_max);
    let messages = entries.map(|entry| Arc::clone(&entry.message)).collect();
    Some(HistoryPage { messages, head: ring.head(), gap })
}

/// Whether the ring has every message up to now.
fn is_current(state: &TopicBufferState) -> bool {
    state.is_open() && state.health() == TopicHealth::Live
}

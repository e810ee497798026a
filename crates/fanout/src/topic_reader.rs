//! A subscription for back ends, with messages instead of frames.

use std::collections::VecDeque;
use std::sync::Arc;

use pushonce_core::{Position, SubscribeAck, SubscribeOptions, SubscriberCount, TopicEvent};
use tokio::time::{Instant, sleep_until};

use crate::TopicHealth;
use crate::delivery_mode::{DeliveryMode, MinInterval};
use crate::dirty_topics::DirtyTopics;
use crate::registry::TopicInterest;
use crate::start_position::PreparedSubscription;
use crate::topic_buffer::{PendingMessages, Registration, RetentionGuard};

/// Maximum number of messages read from the ring at once. With more, a stalled reader would keep more
/// messages alive; with fewer, the lock of the topic would be taken more often.
const READER_BATCH_MAX: usize = 64;

/// A cursor in one topic, read with [`TopicReader::next`]. A reader that is not read stores at most 64
/// messages, or 1 with `latest` or a rate; messages that the ring drops meanwhile are reported as a gap.
/// Dropping the reader ends the subscription.
pub struct TopicReader {
    ack: SubscribeAck,
    cursor: Position,
    mode: DeliveryMode,
    min_interval: MinInterval,
    /// The end of the pause after a message, if the reader pauses.
    paused_until: Option<Instant>,
    health: TopicHealth,
    buffered: VecDeque<TopicEvent>,
    /// Held until the reader is up to date for the first time.
    retention_guard: Option<RetentionGuard>,
    registration: Registration,
    dirty_topics: Arc<DirtyTopics>,
    drained: VecDeque<usize>,
    interest: TopicInterest,
}

/// How a reader counts as a subscriber.
const ONE_READER: SubscriberCount = SubscriberCount { sessions: 1, wants_audience: false };

impl Drop for TopicReader {
    fn drop(&mut self) {
        self.interest.remove_subscriber(ONE_READER);
        self.interest.registry().metrics.readers.decrement(1.0);
    }
}

impl TopicReader {
    pub(crate) fn new(prepared: PreparedSubscription, options: &SubscribeOptions) -> TopicReader {
        let dirty_topics = Arc::new(DirtyTopics::default());
        prepared.interest.add_subscriber(ONE_READER);
        prepared.interest.registry().metrics.readers.increment(1.0);
        TopicReader {
            ack: prepared.start.to_ack(),
            cursor: prepared.start.cursor,
            mode: DeliveryMode::from_options(options),
            min_interval: MinInterval::from_options(options),
            paused_until: None,
            health: TopicHealth::Live,
            buffered: prepared.start.gap.map(TopicEvent::Gap).into_iter().collect(),
            retention_guard: Some(prepared.retention_guard),
            registration: prepared.interest.buffer().register(Arc::clone(&dirty_topics), 0),
            dirty_topics,
            drained: VecDeque::new(),
            interest: prepared.interest,
        }
    }

    /// The newest position when the reader was opened, and whether everything that was requested follows.
    pub fn ack(&self) -> SubscribeAck {
        self.ack
    }

    /// Waits for the next event. Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> TopicEvent {
        loop {
            if let Some(item) = self.buffered.pop_front() {
                self.record_metrics(&item);
                return item;
            }
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            let (pending, health, version) = {
                let state = self.interest.buffer().state();
                let pending = self.mode.next_after(&state, self.cursor, READER_BATCH_MAX);
                (pending, state.health(), state.version())
            };
            match pending {
                Some(pending) => self.buffer_pending(pending),
                None if health != self.health => {
                    self.health = health;
                    return match health {
                        TopicHealth::Stale => TopicEvent::Stale(self.cursor),
                        TopicHealth::Live => TopicEvent::Live(self.cursor),
                    };
                }
                None => self.wait_for_change(version).await,
            }
        }
    }

    fn buffer_pending(&mut self, pending: PendingMessages) {
        if let Some(gap) = pending.gap {
            self.cursor = gap.to;
            self.buffered.push_back(TopicEvent::Gap(gap));
        }
        for entry in pending.entries {
            self.cursor = entry.message.position;
            self.paused_until = (self.min_interval != MinInterval::default())
                .then(|| Instant::now() + self.min_interval.to_duration());
            self.buffered.push_back(TopicEvent::Message(Arc::clone(&entry.message)));
        }
    }

    async fn wait_for_change(&mut self, version: u64) {
        self.retention_guard = None;
        if self.registration.try_rearm(version) {
            self.dirty_topics.wait().await;
            self.dirty_topics.drain_into(&mut self.drained);
            self.drained.clear();
        }
    }

    fn record_metrics(&self, item: &TopicEvent) {
        let metrics = &self.interest.registry().metrics;
        match item {
            TopicEvent::Message(_) => metrics.deliveries.increment(1),
            TopicEvent::Gap(gap) => metrics.record_gap(gap.reason),
            TopicEvent::Stale(_) | TopicEvent::Live(_) => {}
        }
    }
}

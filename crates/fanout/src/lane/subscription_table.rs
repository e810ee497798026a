//! The sessions and subscriptions of a lane, indexed by session and by topic.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;
use pushonce_core::{Gap, Position, SubscribeOptions, SubscriberCount, Topic};
use pushonce_telemetry::Gauge;
use slab::Slab;
use tokio::time::Instant;

use super::SubscribeError;
use super::reservations::{Reservation, Reservations};
use crate::delivery_mode::{DeliveryMode, MinInterval};
use crate::dirty_topics::DirtyTopics;
use crate::metrics;
use crate::registry::TopicInterest;
use crate::start_position::PreparedSubscription;
use crate::topic_buffer::{Registration, RetentionGuard, TopicBuffer};
use crate::{ChunkedSlab, FrameSink, Hub, TopicHealth, WireFormat};

/// Identifies a session of a lane. Never reused by the same lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    index: usize,
    /// Distinguishes a session from an earlier one with the same index.
    serial: u64,
}

impl SessionKey {
    /// A number that no other session of the lane has or had.
    pub fn serial(self) -> u64 {
        self.serial
    }
}

pub(super) struct SubscriptionTable {
    hub: Hub,
    sessions: ChunkedSlab<LaneSession>,
    reservations: Reservations,
    pub(super) topics: Slab<LaneTopic>,
    topic_indexes: HashMap<Topic, usize>,
    /// Subscriptions to be served outside of walks, each at most once: new ones, unblocked ones, and those
    /// with more pending messages than one offer holds.
    pub(super) ready: VecDeque<(SessionKey, usize)>,
    /// Paused subscriptions with the end of their pause. The entry of a removed subscription stays for at
    /// most a second.
    paused: BinaryHeap<Reverse<(Instant, SessionKey, usize)>>,
    last_serial: u64,
    /// The numbers of subscriptions of all lanes, by wire format. There are a handful.
    subscription_gauges: Vec<(WireFormat, Gauge)>,
}

pub(super) struct LaneSession {
    serial: u64,
    pub(super) wire: WireFormat,
    /// What the caller of the lane knows the session by. It fits beside `wire` without further memory.
    pub(super) label: u32,
    pub(super) sink: Rc<RefCell<dyn FrameSink>>,
    /// Index of the subscription in its topic, by topic index. Mostly one, at most a thousand: a hash table
    /// would be the largest part of an idle session.
    subscriptions: LiteMap<usize, usize>,
}

/// A topic with subscribers in this lane.
pub(super) struct LaneTopic {
    pub(super) registration: Registration,
    /// The topic waits for a walk, or is being walked.
    pub(super) is_dirty: bool,
    pub(super) subscriptions: ChunkedSlab<LaneSubscription>,
    interest: TopicInterest,
}

/// A subscription: a cursor into the topic's ring, which holds the pending messages.
pub(super) struct LaneSubscription {
    session_index: usize,
    pub(super) token: u32,
    pub(super) is_started: bool,
    pub(super) is_blocked: bool,
    /// Whether it pauses after a message.
    is_paused: bool,
    pub(super) mode: DeliveryMode,
    pub(super) min_interval: MinInterval,
    /// Whether it is in `SubscriptionTable::ready`.
    is_queued: bool,
    /// Whether its pending frames are deferred to the end of this turn.
    pub(super) is_pending: bool,
    /// Whether it was dispatched again while it was pending.
    pub(super) needs_recheck: bool,
    pub(super) cursor: Position,
    /// Whether a message may be sent as the difference from the previous one.
    wants_delta: bool,
    /// Whether the last frame it was sent was the message at its cursor.
    pub(super) has_delta_base: bool,
    /// The health that it was last notified of.
    pub(super) reported_health: TopicHealth,
    /// The number of subscribers that it was last notified of, if it requested it. Initially 0, which is
    /// never the real number. Boxed because few subscriptions request it.
    pub(super) reported_audience: Option<Box<u64>>,
    /// Sent first; boxed because few subscriptions have one.
    pub(super) initial_gap: Option<Box<Gap>>,
    /// Held until the subscription is up to date or blocked for the first time.
    pub(super) retention_guard: Option<RetentionGuard>,
}

/// Whether a delta from the message at the cursor can be sent to a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeltaBase {
    /// The subscriber does not accept deltas.
    NotRequested,
    /// The subscriber does not have the message at the cursor.
    Missing,
    /// The subscriber has the message at the cursor and can apply a delta.
    Available,
}

/// What determines the frames at a cursor: subscriptions of the same shape at the same cursor share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchShape {
    pub(super) wire: WireFormat,
    pub(super) delta_base: DeltaBase,
    pub(super) mode: DeliveryMode,
}

impl LaneSubscription {
    pub(super) fn shape(&self, wire: WireFormat) -> BatchShape {
        BatchShape { wire, delta_base: self.delta_base(), mode: self.mode }
    }

    fn delta_base(&self) -> DeltaBase {
        match self.wants_delta {
            false => DeltaBase::NotRequested,
            true if self.has_delta_base => DeltaBase::Available,
            true => DeltaBase::Missing,
        }
    }

    /// Whether frames may be offered.
    pub(super) fn is_deliverable(&self) -> bool {
        self.is_started && !self.is_blocked && !self.is_paused
    }

    /// The pause after a message, if any. At least `latest_min_interval` for `latest` subscriptions.
    pub(super) fn pause_after_message(&self, latest_min_interval: Duration) -> Option<Duration> {
        let latest_min_interval =
            if self.mode == DeliveryMode::All { Duration::ZERO } else { latest_min_interval };
        Some(self.min_interval.to_duration().max(latest_min_interval))
            .filter(|pause| !pause.is_zero())
    }

    /// How it counts as a subscriber.
    fn subscriber_count(&self) -> SubscriberCount {
        SubscriberCount { sessions: 1, wants_audience: self.reported_audience.is_some() }
    }
}

impl LaneSession {
    /// Whether more than one topic may have news for the session.
    pub(super) fn has_several_subscriptions(&self) -> bool {
        self.subscriptions.len() > 1
    }
}

impl SubscriptionTable {
    pub(super) fn new(hub: Hub) -> SubscriptionTable {
        let wire_formats = hub.shared.encoder.wire_formats().iter();
        let subscription_gauges = wire_formats
            .map(|&(wire, transport)| (wire, metrics::subscription_gauge(transport)))
            .collect();
        SubscriptionTable {
            hub,
            sessions: ChunkedSlab::default(),
            reservations: Reservations::default(),
            topics: Slab::new(),
            topic_indexes: HashMap::new(),
            ready: VecDeque::new(),
            paused: BinaryHeap::new(),
            last_serial: 0,
            subscription_gauges,
        }
    }

    fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    pub(super) fn session(&mut self, key: SessionKey) -> Option<&mut LaneSession> {
        self.sessions.get_mut(key.index).filter(|session| session.serial == key.serial)
    }

    /// The key and the label of the session of a subscription.
    pub(super) fn session_of(&self, subscription: &LaneSubscription) -> Option<(SessionKey, u32)> {
        let index = subscription.session_index;
        let session = self.sessions.get(index)?;
        Some((SessionKey { index, serial: session.serial }, session.label))
    }

    pub(super) fn open_session(
        &mut self,
        wire: WireFormat,
        sink: Rc<RefCell<dyn FrameSink>>,
    ) -> SessionKey {
        let serial = self.next_serial();
        let session = LaneSession {
            serial,
            wire,
            label: 0,
            sink,
            // Mostly one: a vector without a capacity takes room for four.
            subscriptions: LiteMap::with_capacity(1),
        };
        self.hub.shared.registry.metrics.sessions.increment(1.0);
        SessionKey { index: self.sessions.insert(session), serial }
    }

    /// Reserves a subscription that is not established yet.
    pub(super) fn reserve(
        &mut self,
        key: SessionKey,
        token: u32,
        topic: &Topic,
        subscriptions_max: usize,
    ) -> Result<Reservation, SubscribeError> {
        let topic_index = self.topic_indexes.get(topic).copied();
        let session = self.session(key).ok_or(SubscribeError::Cancelled)?;
        let subscribed = session.subscriptions.len();
        let is_subscribed =
            topic_index.is_some_and(|topic_index| session.subscriptions.contains_key(&topic_index));
        if is_subscribed || self.reservations.topics(key).any(|reserved| reserved == topic) {
            return Err(SubscribeError::AlreadySubscribed);
        }
        if subscribed + self.reservations.topics(key).count() >= subscriptions_max {
            return Err(SubscribeError::TooManySubscriptions { max: subscriptions_max });
        }
        Ok(self.reservations.add(key, topic, token))
    }

    /// Releases a reservation. Returns whether it still existed.
    pub(super) fn release_reservation(&mut self, reservation: Reservation) -> bool {
        self.reservations.remove(reservation)
    }

    /// Adds an established subscription. Returns false when its reservation was cancelled meanwhile.
    pub(super) fn insert_subscription(
        &mut self,
        key: SessionKey,
        reservation: Reservation,
        token: u32,
        options: &SubscribeOptions,
        prepared: PreparedSubscription,
        dirty_topics: &Arc<DirtyTopics>,
    ) -> bool {
        if !self.release_reservation(reservation) {
            return false;
        }
        let PreparedSubscription { interest, retention_guard, start } = prepared;
        let topic_index = self.ensure_topic(interest, dirty_topics);
        let subscription = LaneSubscription {
            session_index: key.index,
            token,
            is_started: false,
            is_blocked: false,
            is_paused: false,
            mode: DeliveryMode::from_options(options),
            min_interval: MinInterval::from_options(options),
            is_queued: false,
            is_pending: false,
            needs_recheck: false,
            cursor: start.cursor,
            wants_delta: options.accept_deltas,
            has_delta_base: false,
            reported_health: TopicHealth::Live,
            reported_audience: options.report_audience.then(Box::default),
            initial_gap: start.gap.map(Box::new),
            retention_guard: Some(retention_guard),
        };
        self.topics[topic_index].interest.add_subscriber(subscription.subscriber_count());
        let subscription_index = self.topics[topic_index].subscriptions.insert(subscription);
        if let Some(session) = self.session(key) {
            session.subscriptions.insert(topic_index, subscription_index);
            let wire = session.wire;
            self.count_subscription(wire, 1.0);
        }
        true
    }

    /// Adds `change` to the number of subscriptions with this wire format.
    fn count_subscription(&self, wire: WireFormat, change: f64) {
        if let Some((_, gauge)) = self.subscription_gauges.iter().find(|(known, _)| *known == wire)
        {
            gauge.increment(change);
        }
    }

    /// The index of the topic in this lane; added with its first subscriber. Later subscribers drop their
    /// own interest.
    fn ensure_topic(&mut self, interest: TopicInterest, dirty_topics: &Arc<DirtyTopics>) -> usize {
        let topic = interest.buffer().topic.clone();
        if let Some(topic_index) = self.topic_indexes.get(&topic) {
            return *topic_index;
        }
        let vacant = self.topics.vacant_entry();
        let topic_index = vacant.key();
        let registration = interest.buffer().register(Arc::clone(dirty_topics), topic_index);
        vacant.insert(LaneTopic {
            registration,
            is_dirty: false,
            subscriptions: ChunkedSlab::default(),
            interest,
        });
        self.topic_indexes.insert(topic, topic_index);
        topic_index
    }

    /// The index of a session's subscription in the topic at `topic_index`.
    fn subscription_index(&mut self, key: SessionKey, topic_index: usize) -> Option<usize> {
        self.session(key)?.subscriptions.get(&topic_index).copied()
    }

    fn subscription(
        &mut self,
        key: SessionKey,
        topic_index: usize,
    ) -> Option<&mut LaneSubscription> {
        let subscription_index = self.subscription_index(key, topic_index)?;
        self.topics.get_mut(topic_index)?.subscriptions.get_mut(subscription_index)
    }

    /// Calls `act` with a subscription of the topic at `topic_index`. Returns the key of its session and
    /// the result.
    pub(super) fn with_subscription<T>(
        &mut self,
        topic_index: usize,
        subscription_index: usize,
        act: impl FnOnce(&mut LaneSubscription, &LaneSession, &TopicBuffer) -> T,
    ) -> Option<(SessionKey, T)> {
        let lane_topic = self.topics.get_mut(topic_index)?;
        let subscription = lane_topic.subscriptions.get_mut(subscription_index)?;
        let session = self.sessions.get(subscription.session_index)?;
        let key = SessionKey { index: subscription.session_index, serial: session.serial };
        Some((key, act(subscription, session, lane_topic.registration.buffer())))
    }

    pub(super) fn start_delivery(&mut self, key: SessionKey, topic: &Topic) {
        let Some(topic_index) = self.topic_indexes.get(topic).copied() else { return };
        if let Some(subscription) = self.subscription(key, topic_index) {
            subscription.is_started = true;
            self.enqueue_ready(key, topic_index);
        }
    }

    /// Queues a subscription to be served outside of walks.
    pub(super) fn enqueue_ready(&mut self, key: SessionKey, topic_index: usize) {
        let Some(subscription) = self.subscription(key, topic_index) else { return };
        if !subscription.is_queued {
            subscription.is_queued = true;
            self.ready.push_back((key, topic_index));
        }
    }

    /// The next queued subscription: the indexes of its topic and of the subscription. `None` when the
    /// queue is empty or the subscription was removed.
    pub(super) fn next_ready(&mut self) -> Option<(usize, usize)> {
        let (key, topic_index) = self.ready.pop_front()?;
        let subscription_index = self.subscription_index(key, topic_index)?;
        self.topics.get_mut(topic_index)?.subscriptions.get_mut(subscription_index)?.is_queued =
            false;
        Some((topic_index, subscription_index))
    }

    /// Sets whether a topic has changes to walk.
    pub(super) fn set_dirty(&mut self, topic_index: usize, is_dirty: bool) {
        if let Some(lane_topic) = self.topics.get_mut(topic_index) {
            lane_topic.is_dirty = is_dirty;
        }
    }

    /// Appends the subscriptions of a session to topics with changes: the indexes of the topic and of the
    /// subscription.
    pub(super) fn collect_dirty(&self, key: SessionKey, out: &mut Vec<(usize, usize)>) {
        let Some(session) = self.sessions.get(key.index) else { return };
        let is_dirty = |topic_index: usize| {
            self.topics.get(topic_index).is_some_and(|lane_topic| lane_topic.is_dirty)
        };
        let all = session
            .subscriptions
            .iter()
            .map(|(topic_index, subscription_index)| (*topic_index, *subscription_index));
        out.extend(all.filter(|(topic_index, _)| is_dirty(*topic_index)));
    }

    /// Pauses a subscription until `until`.
    pub(super) fn pause(&mut self, key: SessionKey, topic_index: usize, until: Instant) {
        if let Some(subscription) = self.subscription(key, topic_index) {
            subscription.is_paused = true;
            self.paused.push(Reverse((until, key, topic_index)));
        }
    }

    /// Queues the subscriptions whose pause ended by `now`.
    pub(super) fn resume_due(&mut self, now: Instant) {
        while self.next_resume_at().is_some_and(|at| at <= now)
            && let Some(Reverse((_, key, topic_index))) = self.paused.pop()
        {
            if let Some(subscription) = self.subscription(key, topic_index) {
                subscription.is_paused = false;
                self.enqueue_ready(key, topic_index);
            }
        }
    }

    /// The earliest end of a pause.
    pub(super) fn next_resume_at(&self) -> Option<Instant> {
        self.paused.peek().map(|Reverse((until, ..))| *until)
    }

    /// Unblocks all subscriptions of a session. Returns whether any was blocked.
    pub(super) fn unblock_session(&mut self, key: SessionKey) -> bool {
        let Some(session) = self.session(key) else { return false };
        let topic_indexes: Vec<usize> = session.subscriptions.keys().copied().collect();
        let mut any_blocked = false;
        for topic_index in topic_indexes {
            let Some(subscription) = self.subscription(key, topic_index) else { continue };
            if std::mem::take(&mut subscription.is_blocked) {
                any_blocked = true;
                self.enqueue_ready(key, topic_index);
            }
        }
        any_blocked
    }

    /// The topics of all subscriptions and reservations of a session.
    pub(super) fn topics(&mut self, key: SessionKey) -> Vec<Topic> {
        let Some(session) = self.session(key) else { return Vec::new() };
        let indexes: Vec<_> = session.subscriptions.iter().map(|(topic, _)| *topic).collect();
        let mut topics: Vec<_> = self.reservations.topics(key).cloned().collect();
        let subscribed = indexes.into_iter().filter_map(|index| self.topics.get(index));
        topics.extend(subscribed.map(|topic| topic.registration.buffer().topic.clone()));
        topics
    }

    pub(super) fn positions(&mut self, key: SessionKey) -> Vec<(u32, Topic, Position)> {
        let Some(session) = self.session(key) else { return Vec::new() };
        let indexes: Vec<_> = session.subscriptions.iter().map(|(l, e)| (*l, *e)).collect();
        let position = |(topic_index, subscription_index): (usize, usize)| {
            let lane_topic = self.topics.get(topic_index)?;
            let subscription = lane_topic.subscriptions.get(subscription_index)?;
            let buffer = lane_topic.registration.buffer();
            // With an initial gap pending, nothing was delivered yet. While the topic is stale, its
            // position is unknown.
            let is_reportable = subscription.is_started
                && subscription.initial_gap.is_none()
                && subscription.reported_health == TopicHealth::Live
                && buffer.state().health() == TopicHealth::Live;
            is_reportable.then(|| (subscription.token, buffer.topic.clone(), subscription.cursor))
        };
        indexes.into_iter().filter_map(position).collect()
    }

    /// Ends a subscription or a reservation, of which a topic has at most one. Returns its token.
    pub(super) fn unsubscribe(&mut self, key: SessionKey, topic: &Topic) -> Option<u32> {
        let topic_index = self.topic_indexes.get(topic).copied();
        if let Some(token) = self.reservations.cancel(key, topic) {
            return Some(token);
        }
        let session = self.session(key)?;
        let topic_index = topic_index?;
        let subscription_index = session.subscriptions.remove(&topic_index)?;
        let wire = session.wire;
        self.remove_subscription(wire, topic_index, subscription_index)
    }

    pub(super) fn close_session(&mut self, key: SessionKey) {
        if self.session(key).is_none() {
            return;
        }
        let Some(session) = self.sessions.remove(key.index) else { return };
        self.reservations.close_session(key);
        for (topic_index, subscription_index) in session.subscriptions {
            self.remove_subscription(session.wire, topic_index, subscription_index);
        }
        self.hub.shared.registry.metrics.sessions.decrement(1.0);
    }

    /// Removes a subscription from its topic; the last one removes the topic from the lane. Returns the token of the subscription, if there is one.
    fn remove_subscription(
        &mut self,
        wire: WireFormat,
        topic_index: usize,
        subscription_index: usize,
    ) -> Option<u32> {
        let lane_topic = self.topics.get_mut(topic_index)?;
        let token = lane_topic.subscriptions.remove(subscription_index).map(|removed| {
            lane_topic.interest.remove_subscriber(removed.subscriber_count());
            removed.token
        });
        if lane_topic.subscriptions.is_empty() {
            let removed = self.topics.remove(topic_index);
            self.topic_indexes.remove(&removed.registration.buffer().topic);
        }
        if token.is_some() {
            self.count_subscription(wire, -1.0);
        }
        token
    }
}

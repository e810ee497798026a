//! The buffer of one topic: its ring, the last loss, and the lanes to wake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{CommitAge, Gap, GapReason, Message, Position, Topic};
use pushonce_telemetry::LogLimiter;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::TopicHealth;
use crate::audience::{ClusterAudience, SubscriberCounter};
use crate::dirty_topics::DirtyTopics;
use crate::ring::{Ring, RingBounds, RingEntry, RingPlace, position_before};

/// How much more a ring may hold while lanes have not processed a change, or new readers catch up. A burst
/// while a lane is busy with other topics must not make its subscribers count as slow; with a lower factor,
/// 16 large messages in flight would. A higher one costs memory only while a reader is behind.
const CATCH_UP_FACTOR: usize = 4;

/// The buffer of one topic. Written by the task of the relay, read by lanes and readers.
pub(crate) struct TopicBuffer {
    pub(crate) topic: Topic,
    bounds: RingBounds,
    state: Mutex<TopicBufferState>,
    /// Wakes the tasks that wait for the first report of upstream.
    opened: Notify,
    pub(crate) subscribers: SubscriberCounter,
}

pub(crate) struct TopicBufferState {
    /// Whether upstream has reported the head of the topic. Until then the ring has no meaning.
    is_open: bool,
    pub(crate) ring: Ring,
    health: TopicHealth,
    /// The cluster-wide number of subscribers, if it was requested here and reported by upstream.
    audience: Option<Arc<ClusterAudience>>,
    /// The end and the reason of the last loss.
    last_loss: Option<(Position, GapReason)>,
    /// Incremented with every change that readers may have to be notified of.
    version: u64,
    registrations: Slab<RegistrationState>,
    /// Number of readers that rely on the ring to keep the messages before them; see [`RetentionGuard`].
    retention_guards: usize,
    /// The bounds while a reader catches up.
    catch_up_bounds: RingBounds,
}

/// A lane with subscribers, or a reader.
struct RegistrationState {
    dirty_topics: Arc<DirtyTopics>,
    /// The index of the topic in the lane.
    topic_index: usize,
    /// Whether the lane was notified of a change that it has not finished processing.
    is_notified: bool,
    /// The oldest messages that no walk of the lane has begun to deliver. Readers have no walks.
    undelivered: Option<MessageArrival>,
}

/// When a batch of messages was delivered to the hub. Every topic keeps one for each lane with subscribers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageArrival {
    pub(crate) at: Instant,
    pub(crate) age: ArrivalAge,
}

/// A [`CommitAge`] on arrival in a third of its memory, in microseconds up to an hour.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ArrivalAge {
    /// The messages were read from history, or the way to the owner was not measured.
    Unknown,
    /// This node committed the messages.
    Local(u32),
    /// Another node committed the messages.
    Remote(u32),
}

/// A topic with three subscriptions takes 620 bytes, so that each field of every registration counts.
const _: () = assert!(size_of::<RegistrationState>() <= 48);

impl From<Option<CommitAge>> for ArrivalAge {
    fn from(age: Option<CommitAge>) -> ArrivalAge {
        let Some(CommitAge { elapsed, is_local }) = age else { return ArrivalAge::Unknown };
        let micros = u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX);
        if is_local { ArrivalAge::Local(micros) } else { ArrivalAge::Remote(micros) }
    }
}

/// The registration of a lane or a reader in a buffer; removed on drop.
pub(crate) struct Registration {
    buffer: Arc<TopicBuffer>,
    key: usize,
}

/// Keeps the ring above its usual bounds while a new reader catches up, so that a resume that was answered
/// in full is not cut short by the next message. Dropped when the reader is up to date, blocked or closed.
/// The ring stays bounded: by [`CATCH_UP_FACTOR`] times its bounds, or by its size with a fetched page plus
/// its bounds.
pub(crate) struct RetentionGuard(Arc<TopicBuffer>);

/// The next items for a reader.
#[derive(Default)]
pub(crate) struct PendingMessages {
    /// Comes first, if there is one.
    pub(crate) gap: Option<Gap>,
    /// The message directly before the first entry, if it is still in the ring.
    pub(crate) predecessor: Option<Arc<Message>>,
    pub(crate) entries: Vec<Arc<RingEntry>>,
}

/// Ignores poisoning: the data behind these locks is consistent between any two statements that may panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TopicBuffer {
    pub(crate) fn new(topic: Topic, bounds: RingBounds) -> TopicBuffer {
        let state = TopicBufferState {
            is_open: false,
            health: TopicHealth::Live,
            audience: None,
            ring: Ring::new(Position::ZERO),
            last_loss: None,
            version: 0,
            // Most topics have subscribers on one lane; an empty slab would grow to four at once.
            registrations: Slab::with_capacity(1),
            retention_guards: 0,
            catch_up_bounds: bounds.times(CATCH_UP_FACTOR),
        };
        let (state, opened) = (Mutex::new(state), Notify::new());
        TopicBuffer { topic, bounds, state, opened, subscribers: SubscriberCounter::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, TopicBufferState> {
        lock(&self.state)
    }

    /// Handles the report of upstream that the topic is at `head` and everything later will be delivered.
    /// In an open buffer that has not reached `head`, the messages before it are lost. Returns the number
    /// of lanes that were woken.
    pub(crate) fn mark_live_at(&self, head: Position) -> usize {
        let mut state = self.state();
        let version_before = state.version;
        state.set_health(TopicHealth::Live);
        if state.is_open {
            state.skip_to(head);
        } else {
            state.is_open = true;
            state.ring = Ring::new(head);
            self.opened.notify_waiters();
        }
        state.notify_since(version_before)
    }

    /// Appends the next messages. Returns the number of lanes that were woken.
    pub(crate) fn deliver(&self, messages: &[Arc<Message>], age: Option<CommitAge>) -> usize {
        let arrival = MessageArrival { at: Instant::now(), age: age.into() };
        let mut state = self.state();
        if !state.is_open {
            return 0;
        }
        // Trimmed before the messages are appended and not after: no reader has seen these yet.
        state.trim(self.bounds);
        let version_before = state.version;
        for message in messages {
            state.append(message, &self.topic);
        }
        let catch_up_bounds = state.catch_up_bounds;
        state.ring.trim(catch_up_bounds);
        if state.version != version_before {
            for (_, registration) in &mut state.registrations {
                registration.undelivered.get_or_insert(arrival);
            }
        }
        state.notify_since(version_before)
    }

    /// Records that everything up to `gap.to` that is not in the ring is lost. Returns the number of lanes
    /// that were woken.
    pub(crate) fn record_gap(&self, gap: Gap) -> usize {
        let mut state = self.state();
        let version_before = state.version;
        if state.is_open {
            state.reset_after_gap(gap);
        }
        state.notify_since(version_before)
    }

    /// Sets the health of the topic. Returns the number of lanes that were woken.
    pub(crate) fn set_health(&self, health: TopicHealth) -> usize {
        let mut state = self.state();
        let version_before = state.version;
        state.set_health(health);
        state.notify_since(version_before)
    }

    /// Sets the cluster-wide number of subscribers. Returns the number of lanes that were woken.
    pub(crate) fn set_audience(&self, sessions: u64) -> usize {
        let mut state = self.state();
        let version_before = state.version;
        state.audience = Some(Arc::new(ClusterAudience::new(sessions)));
        state.version += 1;
        state.notify_since(version_before)
    }

    /// Clears the cluster-wide number of subscribers: without a request on this node it is not updated.
    pub(crate) fn clear_audience(&self) {
        self.state().audience = None;
    }

    /// Waits until upstream has reported the head of the topic.
    pub(crate) async fn wait_until_open(&self) {
        // Created before the check, so that a report between the check and the await is not missed.
        let opened = self.opened.notified();
        if !self.state().is_open {
            opened.await;
        }
    }

    /// Registers a lane or a reader: changes push `topic_index` to `dirty_topics` from now on.
    pub(crate) fn register(
        self: &Arc<TopicBuffer>,
        dirty_topics: Arc<DirtyTopics>,
        topic_index: usize,
    ) -> Registration {
        let key = self.state().registrations.insert(RegistrationState {
            dirty_topics,
            topic_index,
            is_notified: false,
            undelivered: None,
        });
        Registration { buffer: Arc::clone(self), key }
    }

    pub(crate) fn guard_retention(self: &Arc<TopicBuffer>) -> RetentionGuard {
        self.state().retention_guards += 1;
        RetentionGuard(Arc::clone(self))
    }
}

impl TopicBufferState {
    /// Number of changes, for [`Registration::try_rearm`].
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn health(&self) -> TopicHealth {
        self.health
    }

    pub(crate) fn audience(&self) -> Option<&Arc<ClusterAudience>> {
        self.audience.as_ref()
    }

    fn set_health(&mut self, health: TopicHealth) {
        self.version += u64::from(self.health != health);
        self.health = health;
    }

    fn append(&mut self, message: &Arc<Message>, topic: &Topic) {
        let head = self.ring.head();
        if message.position <= head {
            return;
        }
        if !message.position.follows(head) {
            static LIMITER: LogLimiter = LogLimiter::new();
            if let Some(suppressed) = LIMITER.allow(Instant::now().into_std()) {
                tracing::error!(%topic, %head, next = %message.position, suppressed, "delivered with a hole");
            }
            self.skip_to(position_before(message.position));
        }
        self.ring.push(Arc::clone(message));
        self.version += 1;
    }

    /// Handles a loss of the messages between the head and `to` for which no reason is known.
    fn skip_to(&mut self, to: Position) {
        let from = self.ring.head();
        let same_epoch = to.epoch == from.epoch;
        let reason = if same_epoch { GapReason::Expired } else { GapReason::Epoch };
        self.reset_after_gap(Gap { from: from.next(), to, reason });
    }

    fn reset_after_gap(&mut self, gap: Gap) {
        if gap.to <= self.ring.head() {
            return;
        }
        self.ring = Ring::new(gap.to);
        self.last_loss = Some((gap.to, gap.reason));
        self.version += 1;
    }

    fn trim(&mut self, bounds: RingBounds) {
        if self.retention_guards > 0
            || self.registrations.iter().any(|(_, registration)| registration.is_notified)
        {
            self.ring.trim(self.catch_up_bounds);
        } else {
            self.ring.trim(bounds);
            self.catch_up_bounds = bounds.times(CATCH_UP_FACTOR);
        }
    }

    /// Notifies the registrations that were not notified yet, if the buffer changed since `version`.
    /// Returns their number.
    fn notify_since(&mut self, version: u64) -> usize {
        if self.version == version {
            return 0;
        }
        let unnotified =
            self.registrations.iter_mut().filter(|(_, registration)| !registration.is_notified);
        unnotified
            .map(|(_, registration)| {
                registration.is_notified = true;
                registration.dirty_topics.push(registration.topic_index);
            })
            .count()
    }

    /// Prepends a fetched page to the ring, and raises the catch-up bounds until the readers that requested
    /// it have received it.
    pub(crate) fn prepend_page(&mut self, page: &[Arc<Message>], bounds: RingBounds) {
        let len_before = self.ring.len();
        self.ring.prepend(page);
        if self.ring.len() > len_before {
            let room = self.ring.size().plus(bounds);
            self.catch_up_bounds.messages = self.catch_up_bounds.messages.max(room.messages);
            self.catch_up_bounds.bytes = self.catch_up_bounds.bytes.max(room.bytes);
        }
    }

    /// The next items for a reader that has reached `cursor`: at most `messages_max` messages, preceded by
    /// the gap, if any. `None` when the reader is up to date.
    pub(crate) fn pending_after(
        &self,
        cursor: Position,
        messages_max: usize,
    ) -> Option<PendingMessages> {
        let (gap, next_index) = self.locate(cursor);
        let entries: Vec<_> =
            self.ring.entries_from(next_index).take(messages_max).cloned().collect();
        let predecessor =
            next_index.checked_sub(1).and_then(|before| self.ring.entries_from(before).next());
        let predecessor = predecessor.map(|entry| Arc::clone(&entry.message));
        (gap.is_some() || !entries.is_empty()).then_some(PendingMessages {
            gap,
            predecessor,
            entries,
        })
    }

    /// Like [`TopicBufferState::pending_after`], with only the newest message. The gap covers all skipped
    /// messages.
    pub(crate) fn newest_after(&self, cursor: Position) -> Option<PendingMessages> {
        let (gap, next_index) = self.locate(cursor);
        let last_index = self.ring.len().saturating_sub(1);
        let (first, newest) =
            (self.ring.entries_from(next_index).next(), self.ring.entries_from(last_index).next());
        let (Some(first), Some(newest)) = (first, newest) else {
            return self.pending_after(cursor, 0);
        };
        if gap.is_none() && next_index == last_index {
            return self.pending_after(cursor, 1);
        }
        let from = if gap.is_some() { cursor.next() } else { first.message.position };
        let reason = match gap {
            Some(Gap { reason: GapReason::Epoch, .. }) => GapReason::Epoch,
            _ => GapReason::Conflated,
        };
        let gap = Gap { from, to: position_before(newest.message.position), reason };
        Some(PendingMessages {
            gap: Some(gap),
            predecessor: None,
            entries: vec![Arc::clone(newest)],
        })
    }

    /// The index at which a reader that has reached `cursor` continues, and the gap before it.
    fn locate(&self, cursor: Position) -> (Option<Gap>, usize) {
        match self.ring.locate(cursor) {
            RingPlace::At(index) => (None, index),
            RingPlace::Missing => (Some(self.gap_after(cursor)), 0),
        }
    }

    /// The gap for a reader whose next message is no longer in the ring.
    fn gap_after(&self, cursor: Position) -> Gap {
        let to = self.ring.floor();
        let reason = match self.last_loss {
            _ if cursor.epoch != to.epoch && cursor != Position::ZERO => GapReason::Epoch,
            Some((end, reason)) if cursor < end => reason,
            _ => GapReason::Slow,
        };
        Gap { from: cursor.next(), to, reason }
    }
}

impl Registration {
    pub(crate) fn buffer(&self) -> &Arc<TopicBuffer> {
        &self.buffer
    }

    /// Begins a walk of the lane over its subscribers. Returns the version that the walk delivers at least,
    /// and the arrival of the oldest messages that no earlier walk has delivered, if there are any.
    pub(crate) fn begin_walk(&self) -> (u64, Option<MessageArrival>) {
        let mut state = self.buffer.state();
        let registration = state.registrations.get_mut(self.key);
        let undelivered = registration.and_then(|registration| registration.undelivered.take());
        (state.version, undelivered)
    }

    /// Requests the next notification after the lane has delivered everything up to `version`. Returns
    /// false when the buffer has changed since: the lane must process it again and is not notified.
    pub(crate) fn try_rearm(&self, version: u64) -> bool {
        let mut state = self.buffer.state();
        let is_current = state.version == version;
        if is_current && let Some(registration) = state.registrations.get_mut(self.key) {
            registration.is_notified = false;
        }
        is_current
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.buffer.state().registrations.try_remove(self.key);
    }
}

impl Drop for RetentionGuard {
    fn drop(&mut self) {
        self.0.state().retention_guards -= 1;
    }
}

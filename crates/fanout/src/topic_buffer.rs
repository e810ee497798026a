//! One topic on this node: its ring, the loss that readers must be told of, and the lanes to wake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{Gap, GapReason, Message, Position, Topic};
use slab::Slab;
use tokio::sync::Notify;

use crate::TopicHealth;
use crate::audience::{ClusterAudience, SubscriberCounter};
use crate::dirty_topics::DirtyTopics;
use crate::ring::{Ring, RingBounds, RingEntry, RingPlace, position_before};

/// How much more a ring may hold while lanes have not looked yet, or new readers catch up. A burst
/// that comes while a lane is at its other topics must not look like slowness of its subscribers;
/// with less, 16 large messages in flight would. More costs memory only while somebody is behind.
const CATCH_UP_FACTOR: usize = 4;

/// Shared by whoever has the relay's turn, which writes, and by lanes and readers, which look.
pub(crate) struct TopicBuffer {
    pub(crate) topic: Topic,
    bounds: RingBounds,
    state: Mutex<TopicBufferState>,
    /// For those who wait for the upstream's word.
    opened: Notify,
    pub(crate) subscribers: SubscriberCounter,
}

pub(crate) struct TopicBufferState {
    /// The upstream has said where the topic stands. Until then the ring means nothing.
    is_open: bool,
    pub(crate) ring: Ring,
    health: TopicHealth,
    /// How many watch in the whole cluster, if somebody here asked and upstream said.
    audience: Option<Arc<ClusterAudience>>,
    /// The end of the last loss, and its reason.
    last_loss: Option<(Position, GapReason)>,
    /// Counts what readers may have to be shown.
    version: u64,
    registrations: Slab<RegistrationState>,
    /// How many readers rely on the ring to keep what lies before them; see [`RetentionGuard`].
    retention_guards: usize,
    /// The bounds while the ring is held.
    catch_up_bounds: RingBounds,
}

/// A lane with subscribers, or a reader.
struct RegistrationState {
    dirty_topics: Arc<DirtyTopics>,
    /// The topic's index in the lane.
    topic_index: usize,
    /// The lane was told of a change and has not finished looking.
    is_notified: bool,
}

/// The place of a lane or a reader in a feed; left when dropped.
pub(crate) struct Registration {
    buffer: Arc<TopicBuffer>,
    key: usize,
}

/// Keeps the ring from forgetting at its usual bounds while a new reader catches up, so that a
/// resume which was answered in full is not cut short by the next message. Ended by the reader's
/// being level, blocked, or gone. The ring is bounded all the same: by [`CATCH_UP_FACTOR`] times its
/// bounds, or by what a fetched page made of it and its bounds once more.
pub(crate) struct RetentionGuard(Arc<TopicBuffer>);

/// What a reader is to be shown next.
#[derive(Default)]
pub(crate) struct PendingMessages {
    /// First, if there is one.
    pub(crate) gap: Option<Gap>,
    /// The message right before the first of the entries, if it is still here.
    pub(crate) predecessor: Option<Arc<Message>>,
    pub(crate) entries: Vec<Arc<RingEntry>>,
}

/// The data behind these locks is whole between any two statements that may panic.
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
            registrations: Slab::new(),
            retention_guards: 0,
            catch_up_bounds: bounds.times(CATCH_UP_FACTOR),
        };
        let (state, opened) = (Mutex::new(state), Notify::new());
        TopicBuffer { topic, bounds, state, opened, subscribers: SubscriberCounter::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, TopicBufferState> {
        lock(&self.state)
    }

    /// The upstream says where the topic stands: everything after `head` will come. Said to an open
    /// feed that has not got that far, it means that what lies between will not. Returns how many
    /// lanes were woken.
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

    /// Takes the next messages. Returns how many lanes were woken.
    pub(crate) fn deliver(&self, messages: &[Arc<Message>]) -> usize {
        let mut state = self.state();
        if !state.is_open {
            return 0;
        }
        // Before the messages are taken and not after: nobody can have seen them yet.
        state.trim(self.bounds);
        let version_before = state.version;
        for message in messages {
            state.append(message, &self.topic);
        }
        let catch_up_bounds = state.catch_up_bounds;
        state.ring.trim(catch_up_bounds);
        state.notify_since(version_before)
    }

    /// Everything up to `gap.to` that is not here will not come. Returns how many lanes were woken.
    pub(crate) fn record_gap(&self, gap: Gap) -> usize {
        let mut state = self.state();
        let version_before = state.version;
        if state.is_open {
            state.reset_after_gap(gap);
        }
        state.notify_since(version_before)
    }

    /// The upstream lost touch with the owner, or hears of it again. Returns how many lanes were woken.
    pub(crate) fn set_health(&self, health: TopicHealth) -> usize {
        let mut state = self.state();
        let version_before = state.version;
        state.set_health(health);
        state.notify_since(version_before)
    }

    /// The upstream says how many watch in the whole cluster. Returns how many lanes were woken.
    pub(crate) fn set_audience(&self, sessions: u64) -> usize {
        let mut state = self.state();
        let version_before = state.version;
        state.audience = Some(Arc::new(ClusterAudience::new(sessions)));
        state.version += 1;
        state.notify_since(version_before)
    }

    /// Nobody here asks how many watch: what the upstream said of that grows old.
    pub(crate) fn clear_audience(&self) {
        self.state().audience = None;
    }

    /// Waits until the upstream has said where the topic stands.
    pub(crate) async fn wait_until_open(&self) {
        // Made before the look: what is said between the look and the await is not missed.
        let opened = self.opened.notified();
        if !self.state().is_open {
            opened.await;
        }
    }

    /// Gives a lane or a reader its place: it is woken with `index` from now on.
    pub(crate) fn register(
        self: &Arc<TopicBuffer>,
        dirty_topics: Arc<DirtyTopics>,
        topic_index: usize,
    ) -> Registration {
        let key = self.state().registrations.insert(RegistrationState {
            dirty_topics,
            topic_index,
            is_notified: false,
        });
        Registration { buffer: Arc::clone(self), key }
    }

    pub(crate) fn guard_retention(self: &Arc<TopicBuffer>) -> RetentionGuard {
        self.state().retention_guards += 1;
        RetentionGuard(Arc::clone(self))
    }
}

impl TopicBufferState {
    /// How often something changed, to be handed to [`Registration::try_rearm`].
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
            tracing::error!(%topic, %head, next = %message.position, "delivered with a hole");
            self.skip_to(position_before(message.position));
        }
        self.ring.push(Arc::clone(message));
        self.version += 1;
    }

    /// What lies between the head and `to` will not come, and nobody said why.
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

    /// Wakes each lane that does not know yet that something came after `changes`.
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

    /// Joins a fetched page to the old end of the ring, and makes room for it until the readers who
    /// asked for it have had it.
    pub(crate) fn prepend_page(&mut self, page: &[Arc<Message>], bounds: RingBounds) {
        let len_before = self.ring.len();
        self.ring.prepend(page);
        if self.ring.len() > len_before {
            let room = self.ring.size().plus(bounds);
            self.catch_up_bounds.messages = self.catch_up_bounds.messages.max(room.messages);
            self.catch_up_bounds.bytes = self.catch_up_bounds.bytes.max(room.bytes);
        }
    }

    /// What a reader that has reached `cursor` is to be shown: at most `messages_max` messages, and
    /// before them the gap that lies between, if any. None: it is level.
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

    /// The same for a reader that wants the newest message alone. The gap is all that it passes over.
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

    /// Where a reader that has reached `cursor` goes on, and what lies between.
    fn locate(&self, cursor: Position) -> (Option<Gap>, usize) {
        match self.ring.locate(cursor) {
            RingPlace::At(index) => (None, index),
            RingPlace::Missing => (Some(self.gap_after(cursor)), 0),
        }
    }

    /// What a reader whose cursor the ring has passed does not get.
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

    /// The lane has shown every subscriber that is not blocked what there was at `changes`. Says no
    /// when more has come since: then the lane must look again, and will not be told.
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

//! The queue of events between the task that keeps the session and the caller.
//!
//! Most events are kept in order, and a full queue blocks the task, and with it the server. Messages of a
//! topic with newest-only delivery never block: one message of each such topic is queued, and a newer one
//! replaces it. So the session is read at full speed even for a slow caller, and no buffer on the path
//! fills with old messages.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pushonce_core::{FailPoint, Gap, GapReason, Message, Position, Topic};
use tokio::sync::Notify;

use crate::subscriber::SubscriberEvent;

/// Maximum number of ordered events if the caller sets none; the sender of another one waits.
pub(crate) const EVENTS_MAX_DEFAULT: usize = 256;

/// The sending half, owned by the task of the session.
pub(crate) struct EventSender(Arc<EventQueueShared>);

/// The receiving half, owned by the caller.
#[derive(Debug)]
pub(crate) struct EventReceiver(Arc<EventQueueShared>);

/// The receiver was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReceiverDropped;

#[derive(Debug)]
struct EventQueueShared {
    state: Mutex<EventQueueState>,
    /// Wakes the sender.
    popped: Notify,
}

#[derive(Debug, Default)]
struct EventQueueState {
    queue: VecDeque<QueuedEvent>,
    events_max: usize,
    /// Wakes the receiver.
    receiver: Option<Waker>,
    /// Number of ordered events in the queue.
    ordered: usize,
    latest: HashMap<Topic, LatestMessage>,
    audience: HashMap<Topic, u64>,
    sender_closed: bool,
    receiver_closed: bool,
}

#[derive(Debug)]
enum QueuedEvent {
    Ordered(SubscriberEvent),
    /// The message in `latest` of the topic.
    Latest(Topic),
    /// The number in `audience` of the topic.
    Audience(Topic),
}

/// The newest message of a topic that the caller has not received yet.
#[derive(Debug)]
struct LatestMessage {
    /// The skipped messages, if the caller wants them reported.
    gap: Option<Gap>,
    message: Option<Arc<Message>>,
    /// Whether an event of the topic is queued behind it.
    has_later_event: bool,
}

/// Creates an empty queue.
pub(crate) fn channel(events_max: usize) -> (EventSender, EventReceiver) {
    let state = Mutex::new(EventQueueState { events_max, ..EventQueueState::default() });
    let shared = Arc::new(EventQueueShared { state, popped: Notify::new() });
    (EventSender(shared.clone()), EventReceiver(shared))
}

impl EventQueueShared {
    fn state(&self) -> MutexGuard<'_, EventQueueState> {
        // No code of callers runs under the lock, so a poisoned state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the receiver after the lock is released.
fn wake_receiver(mut state: MutexGuard<'_, EventQueueState>) {
    let receiver = state.receiver.take();
    drop(state);
    if let Some(waker) = receiver {
        waker.wake();
    }
}

// === impl EventSender ===

impl EventSender {
    /// Appends an event; waits while the queue is full.
    ///
    /// # Errors
    /// [`ReceiverDropped`] when the receiver was dropped.
    pub(crate) async fn send(&self, event: SubscriberEvent) -> Result<(), ReceiverDropped> {
        loop {
            let popped = self.0.popped.notified();
            {
                let mut state = self.0.state();
                if state.receiver_closed {
                    return Err(ReceiverDropped);
                }
                if state.has_room(&event) {
                    state.push(event);
                    wake_receiver(state);
                    return Ok(());
                }
            }
            popped.await;
        }
    }

    /// Replaces the queued message of a topic by a newer message or by a gap of skipped messages. Never
    /// waits.
    ///
    /// # Errors
    /// [`ReceiverDropped`] when the receiver was dropped.
    pub(crate) fn replace_latest(
        &self,
        topic: Topic,
        update: LatestUpdate,
        reports_gaps: bool,
    ) -> Result<(), ReceiverDropped> {
        let mut state = self.0.state();
        if state.receiver_closed {
            return Err(ReceiverDropped);
        }
        state.replace_latest(topic, update, reports_gaps);
        wake_receiver(state);
        Ok(())
    }
}

/// An update for [`EventSender::replace_latest`].
pub(crate) enum LatestUpdate {
    Message(Arc<Message>),
    /// Skipped messages, which precede the next message.
    Skipped(Gap),
}

impl Drop for EventSender {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.sender_closed = true;
        wake_receiver(state);
    }
}

// === impl EventReceiver ===

impl EventReceiver {
    /// The next event; `None` when the task has ended and the queue is empty. Cancel safe: no event is lost
    /// when the future is dropped.
    pub(crate) async fn recv(&mut self) -> Option<SubscriberEvent> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// [`EventReceiver::recv`] for a [`Stream`](futures::Stream).
    pub(crate) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<SubscriberEvent>> {
        let mut state = self.0.state();
        if let Some(event) = state.pop() {
            self.0.popped.notify_one();
            return Poll::Ready(Some(event));
        }
        if state.sender_closed {
            return Poll::Ready(None);
        }
        state.receiver = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.0.state().receiver_closed = true;
        self.0.popped.notify_one();
    }
}

// === impl EventQueueState ===

impl EventQueueState {
    fn has_room(&self, event: &SubscriberEvent) -> bool {
        matches!(event, SubscriberEvent::Audience { .. }) || self.ordered < self.events_max
    }

    fn push(&mut self, event: SubscriberEvent) {
        if let SubscriberEvent::Audience { topic, count } = event {
            if self.audience.insert(topic.clone(), count).is_none() {
                self.queue.push_back(QueuedEvent::Audience(topic));
            }
            return;
        }
        if let Some(pending) = topic_of(&event).and_then(|topic| self.latest.get_mut(topic)) {
            pending.has_later_event = true;
        }
        self.ordered += 1;
        self.queue.push_back(QueuedEvent::Ordered(event));
    }

    fn replace_latest(&mut self, topic: Topic, update: LatestUpdate, reports_gaps: bool) {
        if self.latest.get(&topic).is_some_and(|pending| pending.has_later_event) {
            self.fix_in_order(&topic);
        }
        if FailPoint::OldMessagesQueued.is_active() {
            self.fix_in_order(&topic);
        }
        let pending = self.latest.entry(topic.clone()).or_insert_with(|| {
            self.queue.push_back(QueuedEvent::Latest(topic));
            LatestMessage { gap: None, message: None, has_later_event: false }
        });
        match update {
            LatestUpdate::Message(message) => {
                if let Some(older) = pending.message.replace(message)
                    && reports_gaps
                {
                    pending.gap = Some(extend_gap(pending.gap, older.position, older.position));
                }
            }
            LatestUpdate::Skipped(gap) => {
                if let Some(older) = pending.message.take() {
                    pending.gap = Some(extend_gap(pending.gap, older.position, older.position));
                }
                pending.gap = Some(extend_gap(pending.gap, gap.from, gap.to));
            }
        }
    }

    /// Turns the queued message of a topic into an ordered event: later events of the topic are queued
    /// behind it, and a newer message must come after them.
    fn fix_in_order(&mut self, topic: &Topic) {
        let Some(pending) = self.latest.remove(topic) else { return };
        let is_of_topic =
            |entry: &QueuedEvent| matches!(entry, QueuedEvent::Latest(other) if other == topic);
        let Some(index) = self.queue.iter().position(is_of_topic) else { return };
        self.queue.remove(index);
        for event in pending.into_events(topic).into_iter().rev() {
            self.ordered += 1;
            self.queue.insert(index, QueuedEvent::Ordered(event));
        }
    }

    fn pop(&mut self) -> Option<SubscriberEvent> {
        match self.queue.pop_front()? {
            QueuedEvent::Ordered(event) => {
                self.ordered -= 1;
                Some(event)
            }
            QueuedEvent::Audience(topic) => {
                let count = self.audience.remove(&topic)?;
                Some(SubscriberEvent::Audience { topic, count })
            }
            QueuedEvent::Latest(topic) => {
                let mut events = self.latest.remove(&topic)?.into_events(&topic).into_iter();
                let first = events.next();
                if let Some(message) = events.next() {
                    self.ordered += 1;
                    self.queue.push_front(QueuedEvent::Ordered(message));
                }
                first
            }
        }
    }
}

impl LatestMessage {
    fn into_events(self, topic: &Topic) -> Vec<SubscriberEvent> {
        let gap = self.gap.map(|gap| SubscriberEvent::Gap { topic: topic.clone(), gap });
        let message =
            self.message.map(|message| SubscriberEvent::Message { topic: topic.clone(), message });
        gap.into_iter().chain(message).collect()
    }
}

/// A gap that covers `gap` and the positions `from` to `to`.
fn extend_gap(gap: Option<Gap>, from: Position, to: Position) -> Gap {
    let from = gap.map_or(from, |gap| gap.from.min(from));
    Gap { from, to, reason: GapReason::Conflated }
}

fn topic_of(event: &SubscriberEvent) -> Option<&Topic> {
    match event {
        SubscriberEvent::Subscribed { topic, .. }
        | SubscriberEvent::Message { topic, .. }
        | SubscriberEvent::Gap { topic, .. }
        | SubscriberEvent::Stale { topic, .. }
        | SubscriberEvent::Live { topic, .. }
        | SubscriberEvent::Audience { topic, .. } => Some(topic),
        SubscriberEvent::Connected { .. }
        | SubscriberEvent::Rejected { .. }
        | SubscriberEvent::Disconnected { .. } => None,
    }
}

#[cfg(test)]
#[path = "event_queue/event_queue_test.rs"]
mod event_queue_test;

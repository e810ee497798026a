//! Events between the task that keeps the session and the caller.
//!
//! Most events are kept in order, and a full queue makes the task wait, and with it the server. Messages
//! of a topic of which the caller wants the newest only never do: one message of each such topic waits,
//! and a newer one takes its place. So the session is read on, however slowly the caller takes events,
//! and no buffer on the way fills with old messages.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{FailPoint, Gap, GapReason, Message, Position, Topic};
use tokio::sync::Notify;

use crate::subscriber::SubscriberEvent;

/// Events that are kept in order; one more waits.
const EVENTS_MAX: usize = 256;

/// The end that the session's task has.
pub(crate) struct EventSender(Arc<EventQueueShared>);

/// The end that the caller has.
pub(crate) struct EventReceiver(Arc<EventQueueShared>);

/// The caller dropped its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReceiverDropped;

#[derive(Default)]
struct EventQueueShared {
    state: Mutex<EventQueueState>,
    /// For the caller.
    pushed: Notify,
    /// For the task.
    popped: Notify,
}

#[derive(Default)]
struct EventQueueState {
    queue: VecDeque<QueuedEvent>,
    /// How many of the queue are kept in order.
    ordered: usize,
    latest: HashMap<Topic, LatestMessage>,
    audience: HashMap<Topic, u64>,
    sender_closed: bool,
    receiver_closed: bool,
}

enum QueuedEvent {
    Ordered(SubscriberEvent),
    /// What `newest` holds of the topic.
    Latest(Topic),
    /// What `audience` holds of the topic.
    Audience(Topic),
}

/// The newest message of a topic that the caller has not taken yet.
struct LatestMessage {
    /// What was passed over, to a caller that wants to know.
    gap: Option<Gap>,
    message: Option<Arc<Message>>,
    /// An event of the topic was queued behind it.
    has_later_event: bool,
}

/// A queue without events.
pub(crate) fn channel() -> (EventSender, EventReceiver) {
    let shared = Arc::new(EventQueueShared::default());
    (EventSender(shared.clone()), EventReceiver(shared))
}

impl EventQueueShared {
    fn state(&self) -> MutexGuard<'_, EventQueueState> {
        // No caller's code runs under the lock: a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sender ===

impl EventSender {
    /// Queues an event behind all others; waits while the queue is full.
    ///
    /// # Errors
    /// [`ReceiverDropped`] when nobody takes events any more.
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
                    self.0.pushed.notify_one();
                    return Ok(());
                }
            }
            popped.await;
        }
    }

    /// Queues the newest message of a topic, or what was passed over before it, in place of what the
    /// caller has not taken of the topic. Never waits.
    ///
    /// # Errors
    /// [`ReceiverDropped`] when nobody takes events any more.
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
        self.0.pushed.notify_one();
        Ok(())
    }
}

/// What [`EventSender::replace_latest`] queues.
pub(crate) enum LatestUpdate {
    Message(Arc<Message>),
    /// Messages that were passed over, in front of the next message.
    Skipped(Gap),
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.0.state().sender_closed = true;
        self.0.pushed.notify_one();
    }
}

// === impl Receiver ===

impl EventReceiver {
    /// The next event; `NoFault` when the task has ended and everything was taken. May be dropped and
    /// called again: no event is lost.
    pub(crate) async fn recv(&mut self) -> Option<SubscriberEvent> {
        loop {
            let pushed = self.0.pushed.notified();
            {
                let mut state = self.0.state();
                if let Some(event) = state.pop() {
                    self.0.popped.notify_one();
                    return Some(event);
                }
                if state.sender_closed {
                    return None;
                }
            }
            pushed.await;
        }
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.0.state().receiver_closed = true;
        self.0.popped.notify_one();
    }
}

// === impl State ===

impl EventQueueState {
    fn has_room(&self, event: &SubscriberEvent) -> bool {
        matches!(event, SubscriberEvent::Audience { .. }) || self.ordered < EVENTS_MAX
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

    /// What is held of a topic stays where it is: the events behind it tell of a time after it, and
    /// what is newer comes behind them.
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

/// A gap of what was passed over that also has these.
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
mod queue_test;

//! Events between the task that keeps the session and the caller.
//!
//! Most events are kept in order, and a full queue makes the task wait, and with it the server. Messages
//! of a topic of which the caller wants the newest only never do: one message of each such topic waits,
//! and a newer one takes its place. So the session is read on, however slowly the caller takes events,
//! and no buffer on the way fills with old messages.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{Gap, GapReason, Message, Position, Topic};
use tokio::sync::Notify;

use crate::subscriber::Event;

/// Events that are kept in order; one more waits.
const EVENTS_MAX: usize = 256;

/// The end that the session's task has.
pub(crate) struct Sender(Arc<Shared>);

/// The end that the caller has.
pub(crate) struct Receiver(Arc<Shared>);

/// The caller dropped its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// For the caller.
    pushed: Notify,
    /// For the task.
    taken: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Entry>,
    /// How many of the queue are kept in order.
    ordered: usize,
    newest: HashMap<Topic, Held>,
    audience: HashMap<Topic, u64>,
    sender_closed: bool,
    receiver_closed: bool,
}

enum Entry {
    Ordered(Event),
    /// What `newest` holds of the topic.
    Newest(Topic),
    /// What `audience` holds of the topic.
    Audience(Topic),
}

/// The newest message of a topic that the caller has not taken yet.
struct Held {
    /// What was passed over, to a caller that wants to know.
    gap: Option<Gap>,
    message: Option<Arc<Message>>,
    /// An event of the topic was queued behind it.
    followed: bool,
}

/// A queue without events.
pub(crate) fn queue() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Receiver(shared))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No caller's code runs under the lock: a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sender ===

impl Sender {
    /// Queues an event behind all others; waits while the queue is full.
    ///
    /// # Errors
    /// [`Closed`] when nobody takes events any more.
    pub(crate) async fn send(&self, event: Event) -> Result<(), Closed> {
        loop {
            let taken = self.0.taken.notified();
            {
                let mut state = self.0.state();
                if state.receiver_closed {
                    return Err(Closed);
                }
                if state.has_room(&event) {
                    state.push(event);
                    self.0.pushed.notify_one();
                    return Ok(());
                }
            }
            taken.await;
        }
    }

    /// Queues the newest message of a topic, or what was passed over before it, in place of what the
    /// caller has not taken of the topic. Never waits.
    ///
    /// # Errors
    /// [`Closed`] when nobody takes events any more.
    pub(crate) fn replace(&self, topic: Topic, news: News, tells_gaps: bool) -> Result<(), Closed> {
        let mut state = self.0.state();
        if state.receiver_closed {
            return Err(Closed);
        }
        state.replace(topic, news, tells_gaps);
        self.0.pushed.notify_one();
        Ok(())
    }
}

/// What [`Sender::replace`] queues.
pub(crate) enum News {
    Message(Arc<Message>),
    /// Messages that were passed over, in front of the next message.
    PassedOver(Gap),
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.state().sender_closed = true;
        self.0.pushed.notify_one();
    }
}

// === impl Receiver ===

impl Receiver {
    /// The next event; `None` when the task has ended and everything was taken. May be dropped and
    /// called again: no event is lost.
    pub(crate) async fn recv(&mut self) -> Option<Event> {
        loop {
            let pushed = self.0.pushed.notified();
            {
                let mut state = self.0.state();
                if let Some(event) = state.pop() {
                    self.0.taken.notify_one();
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

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.state().receiver_closed = true;
        self.0.taken.notify_one();
    }
}

// === impl State ===

impl State {
    fn has_room(&self, event: &Event) -> bool {
        matches!(event, Event::Audience { .. }) || self.ordered < EVENTS_MAX
    }

    fn push(&mut self, event: Event) {
        if let Event::Audience { topic, count } = event {
            if self.audience.insert(topic.clone(), count).is_none() {
                self.queue.push_back(Entry::Audience(topic));
            }
            return;
        }
        if let Some(held) = topic_of(&event).and_then(|topic| self.newest.get_mut(topic)) {
            held.followed = true;
        }
        self.ordered += 1;
        self.queue.push_back(Entry::Ordered(event));
    }

    fn replace(&mut self, topic: Topic, news: News, tells_gaps: bool) {
        if self.newest.get(&topic).is_some_and(|held| held.followed) {
            self.fix(&topic);
        }
        #[cfg(feature = "planted-bugs")]
        if crate::planted::keeps_old_messages() {
            self.fix(&topic);
        }
        let held = self.newest.entry(topic.clone()).or_insert_with(|| {
            self.queue.push_back(Entry::Newest(topic));
            Held { gap: None, message: None, followed: false }
        });
        match news {
            News::Message(message) => {
                if let Some(older) = held.message.replace(message)
                    && tells_gaps
                {
                    held.gap = Some(joined(held.gap, older.position, older.position));
                }
            }
            News::PassedOver(gap) => {
                if let Some(older) = held.message.take() {
                    held.gap = Some(joined(held.gap, older.position, older.position));
                }
                held.gap = Some(joined(held.gap, gap.from, gap.to));
            }
        }
    }

    /// What is held of a topic stays where it is: the events behind it tell of a time after it, and
    /// what is newer comes behind them.
    fn fix(&mut self, topic: &Topic) {
        let Some(held) = self.newest.remove(topic) else { return };
        let is_its = |entry: &Entry| matches!(entry, Entry::Newest(other) if other == topic);
        let Some(index) = self.queue.iter().position(is_its) else { return };
        self.queue.remove(index);
        for event in held.events(topic).into_iter().rev() {
            self.ordered += 1;
            self.queue.insert(index, Entry::Ordered(event));
        }
    }

    fn pop(&mut self) -> Option<Event> {
        match self.queue.pop_front()? {
            Entry::Ordered(event) => {
                self.ordered -= 1;
                Some(event)
            }
            Entry::Audience(topic) => {
                let count = self.audience.remove(&topic)?;
                Some(Event::Audience { topic, count })
            }
            Entry::Newest(topic) => {
                let mut events = self.newest.remove(&topic)?.events(&topic).into_iter();
                let first = events.next();
                if let Some(message) = events.next() {
                    self.ordered += 1;
                    self.queue.push_front(Entry::Ordered(message));
                }
                first
            }
        }
    }
}

impl Held {
    fn events(self, topic: &Topic) -> Vec<Event> {
        let gap = self.gap.map(|gap| Event::Gap { topic: topic.clone(), gap });
        let message = self.message.map(|message| Event::Message { topic: topic.clone(), message });
        gap.into_iter().chain(message).collect()
    }
}

/// A gap of what was passed over that also has these.
fn joined(gap: Option<Gap>, from: Position, to: Position) -> Gap {
    let from = gap.map_or(from, |gap| gap.from.min(from));
    Gap { from, to, reason: GapReason::Conflated }
}

fn topic_of(event: &Event) -> Option<&Topic> {
    match event {
        Event::Subscribed { topic, .. }
        | Event::Message { topic, .. }
        | Event::Gap { topic, .. }
        | Event::Stale { topic, .. }
        | Event::Live { topic, .. }
        | Event::Audience { topic, .. } => Some(topic),
        Event::Connected { .. } | Event::Refused { .. } | Event::Disconnected { .. } => None,
    }
}

#[cfg(test)]
#[path = "queue/queue_test.rs"]
mod queue_test;

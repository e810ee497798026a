//! The owner of all topics, and the link to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use pushonce_core::{
    ContentType, Epoch, FetchError, Gap, GapReason, HistoryPage, HistoryRange, Message, Offset,
    Position, Timestamp, Topic,
};
use pushonce_fanout::{Hub, Retention, TopicHealth, Upstream};
use tokio::sync::Semaphore;

pub(crate) struct TestOwner {
    state: Mutex<OwnerState>,
    /// Each reply to a fetch takes one permit.
    reply_permits: Semaphore,
}

#[derive(Default)]
struct OwnerState {
    logs: HashMap<Topic, TopicLog>,
    link: VecDeque<(Topic, LinkEvent)>,
    watched: Vec<Topic>,
    fetches: usize,
}

#[derive(Default)]
struct TopicLog {
    head: Position,
    history: VecDeque<Arc<Message>>,
}

enum LinkEvent {
    Live(Position),
    Message(Arc<Message>),
    Gap(Gap),
    Health(TopicHealth),
}

impl TopicLog {
    fn page(&self, range: HistoryRange) -> Result<HistoryPage, FetchError> {
        let head = self.head;
        let all: Vec<_> = self.history.iter().cloned().collect();
        let page = |messages, gap| Ok(HistoryPage { messages, head, gap });
        match range {
            HistoryRange::All => page(all, None),
            HistoryRange::Last(n) => {
                page(all[all.len().saturating_sub(n as usize)..].to_vec(), None)
            }
            HistoryRange::After(asked) if asked > head => {
                Err(FetchError::FuturePosition { requested: asked, head })
            }
            HistoryRange::After(asked) => {
                let messages: Vec<_> = all.into_iter().filter(|m| m.position > asked).collect();
                let first = messages.first().map_or(head.next(), |first| first.position);
                let to = Position { offset: Offset(first.offset.0 - 1), ..first };
                let missing = to > asked && !first.follows(asked);
                let same = to.epoch == asked.epoch;
                let reason = if same { GapReason::Expired } else { GapReason::Epoch };
                page(messages, missing.then(|| Gap { from: asked.next(), to, reason }))
            }
        }
    }
}

impl TestOwner {
    pub(crate) fn new() -> Arc<TestOwner> {
        Arc::new(TestOwner { state: Mutex::default(), reply_permits: Semaphore::new(1_000_000) })
    }

    fn state(&self) -> MutexGuard<'_, OwnerState> {
        self.state.lock().expect("not poisoned")
    }

    /// Holds all replies until [`TestOwner::release_replies`].
    pub(crate) fn hold_replies(&self) {
        self.reply_permits.forget_permits(usize::MAX);
    }

    pub(crate) fn release_replies(&self, count: usize) {
        self.reply_permits.add_permits(count);
    }

    pub(crate) fn fetch_count(&self) -> usize {
        self.state().fetches
    }

    pub(crate) fn watched(&self) -> Vec<Topic> {
        self.state().watched.clone()
    }

    pub(crate) fn head(&self, topic: &Topic) -> Position {
        self.state().logs.get(topic).map_or(Position::ZERO, |log| log.head)
    }

    /// Appends a message to the log, and to the link when the topic is watched.
    pub(crate) fn publish(&self, topic: &Topic) -> Position {
        let mut state = self.state();
        let log = state.logs.entry(topic.clone()).or_default();
        let first = log.head == Position::ZERO;
        log.head = if first { Position::new(1, 1) } else { log.head.next() };
        let position = log.head;
        let message = Arc::new(Message {
            position,
            time: Timestamp(0),
            content_type: ContentType::Text,
            key: None,
            payload: "x".into(),
        });
        log.history.push_back(Arc::clone(&message));
        if state.watched.contains(topic) {
            state.link.push_back((topic.clone(), LinkEvent::Message(message)));
        }
        position
    }

    /// Drops all history but the newest `keep` messages.
    pub(crate) fn expire(&self, topic: &Topic, keep: usize) {
        if let Some(log) = self.state().logs.get_mut(topic) {
            let expired = log.history.len().saturating_sub(keep);
            log.history.drain(..expired);
        }
    }

    /// Creates the topic again in a new epoch, after `offset` messages that are lost.
    pub(crate) fn start_new_epoch(&self, topic: &Topic, offset: u64) {
        let mut state = self.state();
        let log = state.logs.entry(topic.clone()).or_default();
        let (from, epoch) = (log.head.next(), Epoch(log.head.epoch.0 + 1));
        let to = Position { epoch, offset: Offset(offset) };
        *log = TopicLog { head: to, history: VecDeque::new() };
        let gap_event = LinkEvent::Gap(Gap { from, to, reason: GapReason::Epoch });
        if state.watched.contains(topic) {
            state.link.push_back((topic.clone(), gap_event));
        }
    }

    /// The link loses contact with the owner, or restores it.
    pub(crate) fn set_health(&self, topic: &Topic, health: TopicHealth) {
        let mut state = self.state();
        if state.watched.contains(topic) {
            state.link.push_back((topic.clone(), LinkEvent::Health(health)));
        }
    }

    /// Delivers the next `n` events of the link; consecutive messages of a topic in one call.
    pub(crate) fn deliver_events(&self, hub: &Hub, n: usize) {
        let events: Vec<_> = {
            let mut state = self.state();
            let n = n.min(state.link.len());
            state.link.drain(..n).collect()
        };
        let mut messages = Vec::new();
        let mut events = events.into_iter().peekable();
        while let Some((topic, event)) = events.next() {
            match event {
                LinkEvent::Live(head) => hub.mark_live_at(&topic, head),
                LinkEvent::Gap(gap) => hub.record_gap(&topic, gap),
                LinkEvent::Health(TopicHealth::Stale) => hub.mark_stale(&topic),
                LinkEvent::Health(TopicHealth::Live) => hub.mark_live(&topic),
                LinkEvent::Message(message) => {
                    messages.push(message);
                    if !matches!(events.peek(), Some((t, LinkEvent::Message(_))) if *t == topic) {
                        hub.deliver(&topic, &std::mem::take(&mut messages), None);
                    }
                }
            }
        }
    }
}

/// The hub's end of the link.
pub(crate) struct TestUpstream(Arc<TestOwner>);

impl TestUpstream {
    pub(crate) fn for_owner(owner: &Arc<TestOwner>) -> Arc<TestUpstream> {
        Arc::new(TestUpstream(Arc::clone(owner)))
    }
}

impl Upstream for TestUpstream {
    fn watch(&self, topic: &Topic, after: Option<Position>) {
        assert_eq!(after, None);
        let mut state = self.0.state();
        assert!(!state.watched.contains(topic), "watched twice");
        state.watched.push(topic.clone());
        let head = state.logs.get(topic).map_or(Position::ZERO, |log| log.head);
        state.link.push_back((topic.clone(), LinkEvent::Live(head)));
    }

    fn unwatch(&self, topic: &Topic) {
        let mut state = self.0.state();
        assert!(state.watched.contains(topic), "unwatched without having been watched");
        state.watched.retain(|watched| watched != topic);
        // As in a relay, no event follows an unwatch.
        state.link.retain(|(other, _)| other != topic);
    }

    fn fetch(
        &self,
        topic: Topic,
        range: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        let owner = Arc::clone(&self.0);
        owner.state().fetches += 1;
        async move {
            owner.reply_permits.acquire().await.expect("never closed").forget();
            owner.state().logs.entry(topic).or_default().page(range)
        }
        .boxed()
    }

    fn retention(&self, _: &Topic) -> Retention {
        Retention::default()
    }
}

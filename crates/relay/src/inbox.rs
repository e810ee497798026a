//! What the node has said and the relay has not heard yet. Saying never blocks; each kind has its
//! own bound.
//!
//! Committed messages are bounded in bytes: over the bound they are dropped and the relay is told
//! that it lapsed, so that it reads its topics again out of history. Calls are bounded in number:
//! over it they are refused. Words about a topic or a shard replace the earlier word about the same
//! one, so there are never more than topics and shards.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use pushonce_core::{
    Claim, FetchError, Message, NodeId, Page, Placed, Position, Publish, PublishError, ShardId,
    Topic, Want,
};
use tokio::sync::{Notify, oneshot};

use crate::turn::Turn;

/// What waits, in one place.
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    /// Wakes the relay.
    news: Notify,
    bytes_max: usize,
    calls_max: usize,
    /// The relay's, while it runs.
    turn: OnceLock<Weak<Mutex<Turn>>>,
    /// Counted by the relay as it goes round.
    rounds: AtomicU64,
}

/// Everything said since the last time the relay looked.
#[derive(Default)]
pub(crate) struct Waiting {
    /// `None`: the shard is not led, or not for certain.
    pub(crate) claims: BTreeMap<ShardId, Option<Claim>>,
    /// By topic: `Some(after)` to watch, `None` to unwatch.
    pub(crate) watches: HashMap<Topic, Option<Option<Position>>>,
    pub(crate) calls: Vec<Call>,
    pub(crate) committed: Vec<(Topic, Arc<Message>)>,
    committed_bytes: usize,
    /// Committed messages were dropped since.
    pub(crate) lapsed: bool,
    /// This node is being stopped.
    pub(crate) stopping: bool,
    /// Nobody listens any more.
    closed: bool,
}

/// A question that somebody waits for.
pub(crate) enum Call {
    /// Publish at an owner.
    Publish { to: NodeId, publish: Publish, answer: oneshot::Sender<Result<Placed, PublishError>> },
    /// Read the past.
    Fetch { topic: Topic, want: Want, answer: oneshot::Sender<Result<Page, FetchError>> },
    /// Say how many watch each topic, as far as this node owns it.
    Count { topics: Vec<Topic>, answer: oneshot::Sender<Vec<Option<u64>>> },
}

impl Waiting {
    /// The committed messages, if they are all that was said.
    fn committed_alone(&mut self) -> Option<Vec<(Topic, Arc<Message>)>> {
        let alone = !self.lapsed
            && !self.stopping
            && self.claims.is_empty()
            && self.watches.is_empty()
            && self.calls.is_empty();
        if !alone {
            return None;
        }
        self.committed_bytes = 0;
        Some(mem::take(&mut self.committed))
    }
}

impl Inbox {
    pub(crate) fn new(bytes_max: usize, calls_max: usize) -> Inbox {
        let (waiting, news, turn) = (Mutex::default(), Notify::new(), OnceLock::new());
        Inbox { waiting, news, bytes_max, calls_max, turn, rounds: AtomicU64::new(0) }
    }

    /// From here on whoever has placed a message may take a turn.
    pub(crate) fn lend(&self, turn: &Arc<Mutex<Turn>>) {
        // A relay runs once.
        let _ = self.turn.set(Arc::downgrade(turn));
    }

    pub(crate) fn committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        self.placed(messages);
        self.news.notify_one();
    }

    /// Nobody hears of it before [`Inbox::pass_on`].
    pub(crate) fn placed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        let bytes: usize = messages.iter().map(|(_, m)| m.payload.len() + MESSAGE_OVERHEAD).sum();
        let mut waiting = self.lock();
        if waiting.committed_bytes + bytes > self.bytes_max {
            waiting.committed = Vec::new();
            waiting.committed_bytes = 0;
            waiting.lapsed = true;
        } else {
            waiting.committed_bytes += bytes;
            waiting.committed.extend(messages);
        }
    }

    /// Takes a turn for the messages that wait, if nobody has it and nothing else was said; else the
    /// relay hears of them.
    pub(crate) fn pass_on(&self) {
        if self.take_turn().is_none() {
            self.news.notify_one();
        }
    }

    fn take_turn(&self) -> Option<()> {
        let turn = self.turn.get()?.upgrade()?;
        let mut turn = turn.try_lock().ok()?;
        let messages = self.lock().committed_alone()?;
        turn.committed(messages);
        Some(())
    }

    pub(crate) fn claim(&self, shard: ShardId, claim: Option<Claim>) {
        self.lock().claims.insert(shard, claim);
        self.news.notify_one();
    }

    pub(crate) fn announce_stop(&self) {
        self.lock().stopping = true;
        self.news.notify_one();
    }

    pub(crate) fn watch(&self, topic: &Topic, word: Option<Option<Position>>) {
        self.lock().watches.insert(topic.clone(), word);
        self.news.notify_one();
    }

    /// `false`: too many wait; nothing was taken. A call that nobody hears is dropped.
    pub(crate) fn call(&self, call: Call) -> bool {
        let mut waiting = self.lock();
        if waiting.calls.len() >= self.calls_max {
            return false;
        }
        if !waiting.closed {
            waiting.calls.push(call);
        }
        drop(waiting);
        self.news.notify_one();
        true
    }

    /// The relay goes round once more.
    pub(crate) fn round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Drops what waits and what will be said.
    pub(crate) fn close(&self) {
        *self.lock() = Waiting { closed: true, ..Waiting::default() };
    }

    /// Waits until something was said.
    pub(crate) async fn said(&self) {
        self.news.notified().await;
    }

    /// Everything that was said.
    pub(crate) fn take(&self) -> Waiting {
        mem::take(&mut *self.lock())
    }

    /// Nothing is left half done by a panic elsewhere: every change above is one step.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a message costs beside its payload, roughly, so that empty ones are bounded as well.
const MESSAGE_OVERHEAD: usize = 128;

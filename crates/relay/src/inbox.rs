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
    Acknowledgement, FetchError, HistoryPage, HistoryRange, Message, NodeId, OwnershipClaim,
    Position, Publish, PublishError, ShardId, Topic,
};
use tokio::sync::{Notify, oneshot};

use crate::engine_driver::EngineDriver;

/// What waits, in one place.
pub(crate) struct Inbox {
    events: Mutex<LocalEvents>,
    /// Wakes the relay.
    notify: Notify,
    bytes_max: usize,
    requests_max: usize,
    /// The relay's, while it runs.
    driver: OnceLock<Weak<Mutex<EngineDriver>>>,
    /// Counted by the relay as it goes round.
    ticks: AtomicU64,
}

/// Everything said since the last time the relay looked.
#[derive(Default)]
pub(crate) struct LocalEvents {
    /// `NoFault`: the shard is not led, or not for certain.
    pub(crate) claims: BTreeMap<ShardId, Option<OwnershipClaim>>,
    /// By topic: `Some(after)` to watch, `NoFault` to unwatch.
    pub(crate) watches: HashMap<Topic, Option<Option<Position>>>,
    pub(crate) requests: Vec<RelayRequest>,
    pub(crate) committed: Vec<(Topic, Arc<Message>)>,
    committed_bytes: usize,
    /// Committed messages were dropped since.
    pub(crate) committed_dropped: bool,
    /// This node is being stopped.
    pub(crate) stopping: bool,
    /// Nobody listens any more.
    closed: bool,
}

/// A question that somebody waits for.
pub(crate) enum RelayRequest {
    /// Publish at an owner.
    Publish {
        owner: NodeId,
        publish: Publish,
        reply: oneshot::Sender<Result<Acknowledgement, PublishError>>,
    },
    /// Read the past.
    Fetch {
        topic: Topic,
        range: HistoryRange,
        reply: oneshot::Sender<Result<HistoryPage, FetchError>>,
    },
    /// Say how many watch each topic, as far as this node owns it.
    Audience { topics: Vec<Topic>, reply: oneshot::Sender<Vec<Option<u64>>> },
}

impl LocalEvents {
    /// The committed messages, if they are all that was said.
    fn take_committed_if_only(&mut self) -> Option<Vec<(Topic, Arc<Message>)>> {
        let is_only_committed = !self.committed_dropped
            && !self.stopping
            && self.claims.is_empty()
            && self.watches.is_empty()
            && self.requests.is_empty();
        if !is_only_committed {
            return None;
        }
        self.committed_bytes = 0;
        Some(mem::take(&mut self.committed))
    }
}

impl Inbox {
    pub(crate) fn new(bytes_max: usize, requests_max: usize) -> Inbox {
        let (events, notify, driver) = (Mutex::default(), Notify::new(), OnceLock::new());
        Inbox { events, notify, bytes_max, requests_max, driver, ticks: AtomicU64::new(0) }
    }

    /// From here on whoever has placed a message may take a turn.
    pub(crate) fn set_driver(&self, driver: &Arc<Mutex<EngineDriver>>) {
        // A relay runs once.
        let _ = self.driver.set(Arc::downgrade(driver));
    }

    pub(crate) fn push_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        self.stage_committed(messages);
        self.notify.notify_one();
    }

    /// Nobody hears of it before [`Inbox::flush_committed`].
    pub(crate) fn stage_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        let bytes: usize =
            messages.iter().map(|(_, m)| m.payload.len() + MESSAGE_OVERHEAD_BYTES).sum();
        let mut events = self.lock();
        if events.committed_bytes + bytes > self.bytes_max {
            events.committed = Vec::new();
            events.committed_bytes = 0;
            events.committed_dropped = true;
        } else {
            events.committed_bytes += bytes;
            events.committed.extend(messages);
        }
    }

    /// Takes a turn for the messages that wait, if nobody has it and nothing else was said; else the
    /// relay hears of them.
    pub(crate) fn flush_committed(&self) {
        if self.try_flush().is_none() {
            self.notify.notify_one();
        }
    }

    fn try_flush(&self) -> Option<()> {
        let driver = self.driver.get()?.upgrade()?;
        let mut driver = driver.try_lock().ok()?;
        let messages = self.lock().take_committed_if_only()?;
        driver.on_committed(messages);
        Some(())
    }

    pub(crate) fn set_claim(&self, shard: ShardId, claim: Option<OwnershipClaim>) {
        self.lock().claims.insert(shard, claim);
        self.notify.notify_one();
    }

    pub(crate) fn announce_stop(&self) {
        self.lock().stopping = true;
        self.notify.notify_one();
    }

    pub(crate) fn set_watch(&self, topic: &Topic, request: Option<Option<Position>>) {
        self.lock().watches.insert(topic.clone(), request);
        self.notify.notify_one();
    }

    /// `false`: too many wait; nothing was taken. A call that nobody hears is dropped.
    pub(crate) fn try_request(&self, request: RelayRequest) -> bool {
        let mut events = self.lock();
        if events.requests.len() >= self.requests_max {
            return false;
        }
        if !events.closed {
            events.requests.push(request);
        }
        drop(events);
        self.notify.notify_one();
        true
    }

    /// The relay goes round once more.
    pub(crate) fn record_tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tick_count(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Drops what waits and what will be said.
    pub(crate) fn close(&self) {
        *self.lock() = LocalEvents { closed: true, ..LocalEvents::default() };
    }

    /// Waits until something was said.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Everything that was said.
    pub(crate) fn take_all(&self) -> LocalEvents {
        mem::take(&mut *self.lock())
    }

    /// Nothing is left half done by a panic elsewhere: every change above is one step.
    fn lock(&self) -> MutexGuard<'_, LocalEvents> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a message costs beside its payload, roughly, so that empty ones are bounded as well.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

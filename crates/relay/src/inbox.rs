//! The queue of local events from the node to its relay. Adding an event never blocks; each kind has its own
//! bound.
//!
//! Committed messages are bounded in bytes: over the bound they are dropped and the relay reads its topics
//! again from history. Requests are bounded in number: over the bound they are rejected. A watch or claim
//! replaces the earlier one of the same topic or shard, so their number is bounded by topics and shards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use pushonce_core::{
    Acknowledgement, FetchError, HistoryPage, HistoryRange, Message, NodeId, OwnershipClaim,
    Position, Publish, PublishError, ShardId, Term, Topic,
};
use tokio::sync::{Notify, oneshot};

use crate::engine_driver::EngineDriver;

/// The local events that the relay has not handled yet.
pub(crate) struct Inbox {
    events: Mutex<LocalEvents>,
    /// Wakes the relay.
    notify: Notify,
    bytes_max: usize,
    requests_max: usize,
    /// The driver of the relay, while it runs.
    driver: OnceLock<Weak<Mutex<EngineDriver>>>,
    /// Ticks of the relay task.
    ticks: AtomicU64,
}

/// The events that were added since the relay last took them.
#[derive(Default)]
pub(crate) struct LocalEvents {
    /// `None`: this node does not lead the shard, or its leadership is in doubt.
    pub(crate) claims: BTreeMap<ShardId, Option<OwnershipClaim>>,
    /// The leaders that the replicas of this node follow.
    pub(crate) leaders: BTreeMap<ShardId, Option<(NodeId, Term)>>,
    /// By topic: `Some(after)` to watch, `None` to unwatch.
    pub(crate) watches: HashMap<Topic, Option<Option<Position>>>,
    pub(crate) requests: Vec<RelayRequest>,
    pub(crate) committed: CommittedMessages,
    /// Topics that were purged or deleted. Their number is bounded by operators' requests.
    pub(crate) removed: BTreeSet<Topic>,
    /// Committed messages were dropped since the relay last took the events.
    pub(crate) committed_dropped: bool,
    /// This node is being stopped.
    pub(crate) stopping: bool,
    /// The relay has ended.
    closed: bool,
}

/// Committed messages in order.
#[derive(Default)]
pub(crate) struct CommittedMessages {
    pub(crate) messages: Vec<(Topic, Arc<Message>)>,
    /// When the first of them was added.
    pub(crate) since: Option<Instant>,
    bytes: usize,
}

/// A request whose caller waits for the reply.
pub(crate) enum RelayRequest {
    /// Publish through an owner.
    Publish {
        owner: NodeId,
        publish: Publish,
        reply: oneshot::Sender<Result<Acknowledgement, PublishError>>,
    },
    /// Read the history of a topic.
    Fetch {
        topic: Topic,
        range: HistoryRange,
        reply: oneshot::Sender<Result<HistoryPage, FetchError>>,
    },
    /// Return the number of sessions of each topic that this node owns.
    Audience { topics: Vec<Topic>, reply: oneshot::Sender<Vec<Option<u64>>> },
}

impl LocalEvents {
    /// Takes the committed messages if there are no other events.
    fn take_committed_if_only(&mut self) -> Option<CommittedMessages> {
        let is_only_committed = !self.committed_dropped
            && !self.stopping
            && self.removed.is_empty()
            && self.claims.is_empty()
            && self.leaders.is_empty()
            && self.watches.is_empty()
            && self.requests.is_empty();
        is_only_committed.then(|| mem::take(&mut self.committed))
    }
}

impl Inbox {
    pub(crate) fn new(bytes_max: usize, requests_max: usize) -> Inbox {
        let (events, notify, driver) = (Mutex::default(), Notify::new(), OnceLock::new());
        Inbox { events, notify, bytes_max, requests_max, driver, ticks: AtomicU64::new(0) }
    }

    /// Sets the driver that [`Inbox::flush_committed`] runs on the caller's thread.
    pub(crate) fn set_driver(&self, driver: &Arc<Mutex<EngineDriver>>) {
        // A relay runs once.
        let _ = self.driver.set(Arc::downgrade(driver));
    }

    pub(crate) fn push_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        self.stage_committed(messages);
        self.notify.notify_one();
    }

    pub(crate) fn push_removed(&self, topics: Vec<Topic>) {
        self.lock().removed.extend(topics);
        self.notify.notify_one();
    }

    /// Adds committed messages without waking the relay; [`Inbox::flush_committed`] must follow.
    pub(crate) fn stage_committed(&self, messages: Vec<(Topic, Arc<Message>)>) {
        let bytes: usize =
            messages.iter().map(|(_, m)| m.payload.len() + MESSAGE_OVERHEAD_BYTES).sum();
        let mut events = self.lock();
        let committed = &mut events.committed;
        if committed.bytes + bytes > self.bytes_max {
            *committed = CommittedMessages::default();
            events.committed_dropped = true;
        } else {
            committed.bytes += bytes;
            committed.since.get_or_insert_with(Instant::now);
            committed.messages.extend(messages);
        }
    }

    /// Runs the driver for the staged messages if it is idle and no other events are queued. Otherwise wakes
    /// the relay task.
    pub(crate) fn flush_committed(&self) {
        if self.try_flush().is_none() {
            self.notify.notify_one();
        }
    }

    fn try_flush(&self) -> Option<()> {
        let driver = self.driver.get()?.upgrade()?;
        let mut driver = driver.try_lock().ok()?;
        let committed = self.lock().take_committed_if_only()?;
        driver.on_committed(committed);
        Some(())
    }

    pub(crate) fn set_leader(&self, shard: ShardId, leader: Option<(NodeId, Term)>) {
        self.lock().leaders.insert(shard, leader);
        self.notify.notify_one();
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

    /// Returns `false` when too many requests are queued. A request to a relay that has ended is dropped.
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

    /// Counts one tick of the relay task.
    pub(crate) fn record_tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tick_count(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Drops the queued events and all later requests.
    pub(crate) fn close(&self) {
        *self.lock() = LocalEvents { closed: true, ..LocalEvents::default() };
    }

    /// Waits until an event was added.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Takes all events.
    pub(crate) fn take_all(&self) -> LocalEvents {
        mem::take(&mut *self.lock())
    }

    /// A poisoned lock is usable, because every change above is a single step.
    fn lock(&self) -> MutexGuard<'_, LocalEvents> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Approximate memory of a message in addition to its payload, so that empty messages are bounded as well.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

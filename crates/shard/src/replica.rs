//! The state shared by the Raft group, which applies entries, and the handles, which read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use bytes::Bytes;
use pushonce_consensus::{EntryId, GroupId, GroupStatus, RaftGroup, StateMachine, StateSnapshot};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{
    Acknowledgement, AgreedVersion, ClusterVersion, CoverageMark, Durability, FailPoint,
    FetchError, HistoryPage, HistoryRange, NodeId, Publish, PublishError, PublishRejection,
    ShardId, Term, Timestamp, Topic, UnavailableReason,
};
use tokio::sync::watch;

use crate::dedupe::MemoryLookup;
use crate::entry::encode_outcomes;
use crate::limits::{NodeTopics, TopicQuota};
use crate::majority_clock::{MajorityClock, majority_time};
use crate::memory::OwnerMemory;
use crate::{
    ApplyOutcome, ClusterClock, CommitListener, EntryBatch, EntryItem, ShardSettings, ShardState,
};

/// The state that a handle and the group's task share.
pub(crate) struct ShardShared {
    id: ShardId,
    me: NodeId,
    agreed_version: AgreedVersion,
    state: RwLock<ShardState>,
    /// The settings of the state, under their own lock: a publish that reads them must not wait for an
    /// entry that is being applied.
    settings: RwLock<Option<Arc<ShardSettings>>>,
    /// Lock order: `state`, then `memory`.
    memory: Mutex<OwnerMemory>,
    commit_listener: Arc<dyn CommitListener>,
    /// The number of topics here, counted against the limit of the node.
    topic_quota: TopicQuota,
    /// The term in which this node has caught up with its predecessors; 0 when it has not. A group with a
    /// leader never has the term 0.
    ready_term: AtomicU64,
    /// Empty while the group replays its log at the start; no node leads then.
    group: OnceLock<(RaftGroup, watch::Receiver<GroupStatus>)>,
    clock: Arc<dyn ClusterClock>,
    /// Lock order: `state`, then `memory`, then `majority_clock`.
    majority_clock: Mutex<MajorityClock>,
}

/// How a message reaches the owner's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryPath {
    /// Directly, bypassing the queue.
    Bypass,
    /// Through the queue, in order.
    Queued,
}

/// The state machine of the Raft group.
pub(crate) struct ShardReplica {
    shared: Arc<ShardShared>,
}

impl ShardShared {
    pub(crate) fn new(
        id: ShardId,
        me: NodeId,
        agreed_version: AgreedVersion,
        commit_listener: Arc<dyn CommitListener>,
        clock: Arc<dyn ClusterClock>,
        topics: Arc<NodeTopics>,
    ) -> ShardShared {
        ShardShared {
            id,
            me,
            agreed_version,
            state: RwLock::new(ShardState::new(id)),
            settings: RwLock::default(),
            memory: Mutex::default(),
            commit_listener,
            topic_quota: TopicQuota::new(topics),
            ready_term: AtomicU64::new(0),
            group: OnceLock::new(),
            clock,
            majority_clock: Mutex::default(),
        }
    }

    /// The time of an entry proposed now. `None` while fewer than a majority of the voters' clocks have
    /// been known since this node started.
    pub(crate) fn proposal_time(&self) -> Option<Timestamp> {
        let floor = self.read().time();
        self.proposal_time_after(floor)
    }

    fn proposal_time_after(&self, floor: Timestamp) -> Option<Timestamp> {
        let reading = |node: &NodeId| self.clock.reading(*node);
        let majority = match self.group.get() {
            Some((_, status)) => majority_time(status.borrow().voters.iter().map(reading)),
            None => reading(&self.me),
        };
        let mut clock = self.majority_clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.next_entry_time(floor, self.clock.elapsed(), majority)
    }

    /// The time at which the ages of messages are evaluated for a reader: that of an entry proposed now, or
    /// of the newest entry while the clocks of too few nodes are known.
    pub(crate) fn read_time(&self, state: &ShardState, memory: &OwnerMemory) -> Timestamp {
        let floor = state.time().max(memory.time());
        self.proposal_time_after(floor).unwrap_or(floor)
    }

    /// The time at which this node, as the owner, evaluates the ages of messages.
    pub(crate) fn log_time(&self) -> Option<Timestamp> {
        self.is_ready().then(|| self.read_time(&self.read(), &self.memory()))
    }

    /// Sets the group that applies the entries. Only the first call has an effect.
    pub(crate) fn attach_group(&self, group: RaftGroup) {
        let status = group.status();
        self.group.get_or_init(|| (group, status));
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// The version in which entries are written.
    pub(crate) fn version(&self) -> ClusterVersion {
        self.agreed_version.get()
    }

    pub(crate) fn set_ready(&self, term: Option<Term>) {
        self.ready_term.store(term.map_or(0, |term| term.0), Ordering::Release);
    }

    /// Checks that publishes are accepted here: this node leads and has caught up.
    pub(crate) fn check_ownership(&self) -> Result<(), PublishError> {
        if self.is_ready() {
            return Ok(());
        }
        if self.leader_term().is_some() {
            return Err(UnavailableReason::OwnerNotReady.into());
        }
        // A leader without a lease names itself as the leader, which does not help the publisher.
        if self.leader() == Some(self.me) {
            CoverageMark::LeaseExpired.reach();
        }
        Err(PublishRejection::NotOwner { owner: self.leader().filter(|id| *id != self.me) }.into())
    }

    /// The durability of a message of `topic` now, by the settings of the shard as of the last applied
    /// entry, not by newer settings that this node knows.
    ///
    /// # Errors
    /// Rejected as not the owner while there are no settings, and for a topic of another shard.
    pub(crate) fn durability(&self, topic: &Topic) -> Result<Durability, PublishError> {
        topic_durability(self.id, self.settings().as_deref(), topic)
    }

    /// The settings of the state.
    pub(crate) fn settings(&self) -> Option<Arc<ShardSettings>> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Copies the settings of the state, whose lock the caller holds.
    fn cache_settings(&self, state: &ShardState) {
        // Cheap: equal settings are shared.
        if self.settings().as_ref() != state.settings() {
            let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
            *settings = state.settings().cloned();
        }
    }

    /// Whether this node, when it leads, may become the owner of `term` with `known`, the newest settings
    /// it knows: the shard has them or newer ones, and the owner's memory is open if any namespace lives
    /// there.
    pub(crate) fn can_become_owner(&self, term: Term, known: Option<&Arc<ShardSettings>>) -> bool {
        let state = self.read();
        let Some((settings, known)) = state.settings().zip(known) else { return false };
        let is_opened = !settings.has_memory_namespace() || self.memory().is_open(term);
        is_opened && settings.revision() >= known.revision()
    }

    /// Checks that a publish to the topic keeps the limits of its namespace and of this node. A publish to an existing
    /// topic does, unless the node is short of memory.
    pub(crate) fn check_topic_limits(&self, topic: &Topic) -> Result<(), PublishRejection> {
        let Some(known) = self.settings() else {
            return Err(PublishRejection::NotOwner { owner: None });
        };
        let settings = known.namespaces.for_topic(topic);
        if self.topic_quota.has_room(settings) {
            return Ok(());
        }
        let state = self.read();
        let memory = self.memory();
        let is_new = !state.contains_topic(topic) && !memory.contains_topic(topic);
        self.topic_quota.check_memory(is_new)?;
        if !is_new {
            return Ok(());
        }
        let name = topic.namespace();
        let count = state.topic_count(name) + memory.topic_count(name);
        Ok(self.topic_quota.check_room(topic, settings, count)?)
    }

    /// Reads history as the owner. Leadership is checked while the state is locked, here and in `apply`. So
    /// an entry that is not in this page yet also finds this node leading when it is applied, and is
    /// delivered.
    pub(crate) fn fetch_history(
        &self,
        topic: &Topic,
        range: HistoryRange,
    ) -> Result<HistoryPage, FetchError> {
        let state = self.read();
        match self.leader_term() {
            Some(term) if term == self.ready_term() => {
                let settings = state.settings().map(Arc::as_ref);
                if topic_durability(self.id, settings, topic).is_err() {
                    return Err(UnavailableReason::OwnerNotReady.into());
                }
                let memory = self.memory();
                let now = self.read_time(&state, &memory);
                if memory.holds(term, topic) {
                    memory.fetch_history(topic, range, now)
                } else {
                    state.fetch_history(topic, range, now)
                }
            }
            Some(_) => Err(UnavailableReason::OwnerNotReady.into()),
            None => Err(match self.leader() {
                Some(leader) if leader == self.me => UnavailableReason::NoMajority.into(),
                owner => UnavailableReason::NotOwner { owner }.into(),
            }),
        }
    }

    /// Whether this node owns the shard and keeps the topic in its memory.
    pub(crate) fn owns_in_memory(&self, topic: &Topic) -> bool {
        self.leader_term()
            .is_some_and(|term| term == self.ready_term() && self.memory().holds(term, topic))
    }

    /// As [`ShardShared::owns_in_memory`], and new messages may bypass the queue.
    pub(crate) fn can_bypass_queue(&self, topic: &Topic) -> bool {
        self.owns_in_memory(topic) && self.memory().is_bypass_enabled()
    }

    /// Places a message in this owner's memory and delivers it. Returns the publish when its topic does not
    /// live there, or it would overtake queued messages.
    ///
    /// Ownership is checked before the message is delivered, and again before it is acknowledged. A node
    /// that was suspended in between may have lost the shard; what it delivered then belongs to an epoch
    /// that has ended.
    pub(crate) fn place_in_memory(
        &self,
        publish: Publish,
        path: MemoryPath,
    ) -> Result<Result<Acknowledgement, PublishError>, Box<Publish>> {
        let state = self.read();
        let mut memory = self.memory();
        let term = self.ready_term();
        let now = self.proposal_time_after(state.time().max(memory.time()));
        let is_allowed = memory.holds(term, &publish.topic)
            && (path == MemoryPath::Queued || memory.is_bypass_enabled());
        let (Some(now), true) = (now, is_allowed && self.leader_term() == Some(term)) else {
            return Err(Box::new(publish));
        };
        let (outcome, message) = memory.place_if_new(now, EntryItem::new(publish), state.dedupe());
        let is_new = message.is_some();
        if let Some((topic, message)) = message {
            self.commit_listener.on_placed_in_memory(self.id, topic, message);
            self.update_quota(&state, &memory);
        }
        drop((memory, state));
        if is_new {
            self.commit_listener.flush_placed();
        }
        if self.leader_term() != Some(term) {
            return Ok(Err(PublishError::unknown(
                "the shard may have changed its owner meanwhile",
            )));
        }
        Ok(outcome.map_err(PublishError::from))
    }

    /// Updates the part of this replica in the sums of the node.
    fn update_quota(&self, state: &ShardState, memory: &OwnerMemory) {
        self.topic_quota.set_count(state.len() + memory.len());
        let bytes = state.history_bytes().get() + memory.history_bytes().get();
        self.topic_quota.set_history_bytes(bytes);
    }

    /// Enables the bypass unless `is_queued` finds a queued message whose topic lives in memory by the
    /// shard's settings. The settings do not change during the call.
    pub(crate) fn enable_bypass_unless(
        &self,
        is_queued: impl FnOnce(&dyn Fn(&Topic) -> bool) -> bool,
    ) {
        let state = self.read();
        let Some(settings) = state.settings() else { return };
        if !is_queued(&|topic| settings.is_in_memory(topic)) {
            self.memory().enable_bypass();
        }
    }

    /// Looks up a message for the log in this owner's memory.
    pub(crate) fn lookup_in_memory(&self, item: &EntryItem, now: Timestamp) -> MemoryLookup {
        let state = self.read();
        let mut memory = self.memory();
        if !memory.is_open(self.ready_term()) {
            return MemoryLookup::Unknown;
        }
        memory.dedupe_at(now).lookup_before_log(state.dedupe(), item)
    }

    /// Whether this node owns the shard and has caught up.
    pub(crate) fn is_ready(&self) -> bool {
        self.leader_term() == Some(self.ready_term())
    }

    fn ready_term(&self) -> Term {
        Term(self.ready_term.load(Ordering::Acquire))
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, OwnerMemory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state for reading. A poisoned lock is ignored: no step of `apply` can fail between two
    /// changes, so the state is consistent after a panic elsewhere.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ShardState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the empty initial state.
    #[cfg(test)]
    pub(crate) fn set_state(&self, state: ShardState) {
        self.cache_settings(&state);
        *self.write() = state;
    }

    fn write(&self) -> RwLockWriteGuard<'_, ShardState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn leader_term(&self) -> Option<Term> {
        self.group.get().and_then(|(group, _)| group.leader_term())
    }

    fn leader(&self) -> Option<NodeId> {
        self.group.get().and_then(|(_, status)| status.borrow().leader)
    }

    /// Whether applied messages are delivered to the listeners of this node. A leader with an expired lease
    /// continues to deliver until another leader is known: it may have served pages, and a message
    /// delivered twice is dropped, while a missing one leaves a hole.
    fn should_notify(&self) -> bool {
        self.leader_term().is_some() || self.leader() == Some(self.me)
    }
}

impl ShardReplica {
    pub(crate) fn new(shared: Arc<ShardShared>) -> ShardReplica {
        ShardReplica { shared }
    }
}

impl StateMachine for ShardReplica {
    fn apply(&mut self, at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        let shared = &self.shared;
        let (version, batch) = EntryBatch::decode(entry)?;
        let (ApplyOutcome { outcomes, removed, messages }, should_notify) = {
            let mut state = shared.write();
            state.raise_version(version);
            let starts_epoch = batch.starts_memory_epoch;
            let removals = batch.removals.clone();
            let kept_before = state.kept_on_disk().clone();
            let mut applied = state.apply(at.index, batch);
            if *state.kept_on_disk() != kept_before {
                log_kept_namespaces(&state);
            }
            let mut memory = shared.memory();
            memory.apply_entry(at, state.time(), state.settings(), starts_epoch);
            let in_memory =
                |(topic, removal)| memory.remove(at.index, &topic, removal).then_some(topic);
            applied.removed.extend(removals.into_iter().filter_map(in_memory));
            shared.cache_settings(&state);
            shared.update_quota(&state, &memory);
            let should_notify = shared.should_notify();
            if FailPoint::DedupeNotReplicated.is_active() && !should_notify {
                state.clear_dedupe();
            }
            (applied, should_notify)
        };
        let reply = encode_outcomes(&outcomes);
        if should_notify && !removed.is_empty() {
            shared.commit_listener.on_removed(shared.id, removed);
        }
        if should_notify && !messages.is_empty() {
            shared.commit_listener.on_committed(shared.id, messages);
        }
        Ok(reply)
    }

    fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError> {
        EntryBatch::decode(entry).map(drop)
    }

    fn check_snapshot(group: GroupId, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        decode_snapshot(group.as_shard(), snapshot).map(drop)
    }

    fn snapshot(&self) -> StateSnapshot {
        let state = self.shared.read().clone();
        StateSnapshot::new(move |to| state.encode(to))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        let restored = decode_snapshot(Some(self.shared.id), snapshot)?;
        let mut state = self.shared.write();
        *state = restored;
        // Only a replica that does not lead restores a snapshot: its memory is not used again.
        let mut memory = self.shared.memory();
        *memory = OwnerMemory::default();
        self.shared.cache_settings(&state);
        self.shared.update_quota(&state, &memory);
        Ok(())
    }
}

fn log_kept_namespaces(state: &ShardState) {
    let (shard, namespaces) = (state.id(), state.kept_on_disk());
    tracing::info!(
        %shard, ?namespaces,
        "namespaces whose durability is `memory` stay on disk here while they have stored messages"
    );
}

/// Decodes a snapshot, which must be one of `shard`.
fn decode_snapshot(
    shard: Option<ShardId>,
    snapshot: &[u8],
) -> Result<ShardState, VersionedDecodeError> {
    let state = ShardState::restore(snapshot)?;
    if Some(state.id()) != shard {
        let expected = shard.map_or("no shard".to_owned(), |shard| shard.to_string());
        let reason = format!("the snapshot is of {}, not of {expected}", state.id());
        return Err(VersionedDecodeError::Corrupt(reason));
    }
    Ok(state)
}

/// The durability of a topic by these settings.
pub(crate) fn topic_durability(
    id: ShardId,
    settings: Option<&ShardSettings>,
    topic: &Topic,
) -> Result<Durability, PublishError> {
    match settings {
        Some(settings) if settings.shard_of(topic) == id => {
            Ok(settings.namespaces.for_topic(topic).durability)
        }
        _ => Err(PublishRejection::NotOwner { owner: None }.into()),
    }
}

//! The state between its two users: the group that applies entries, and those who ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use bytes::Bytes;
use pushonce_consensus::{At, Capture, Group, Machine, Status};
use pushonce_core::versioned::Unreadable;
use pushonce_core::{
    AgreedVersion, ClusterVersion, Durability, FetchError, NodeId, Page, Placed, Publish,
    PublishError, Refusal, ShardId, Term, Timestamp, Topic, Want,
};
use tokio::sync::watch;

use crate::dedupe::InMemory;
use crate::entry::encode_answer;
use crate::limits::{Held, NodeTopics};
use crate::majority_clock::{MajorityClock, majority};
use crate::memory::Memory;
use crate::{Applied, Batch, Clock, Committed, Item, ShardSettings, State};

/// What a handle and the group's task share.
pub(crate) struct Shared {
    id: ShardId,
    me: NodeId,
    agreed: AgreedVersion,
    state: RwLock<State>,
    /// Those of the state. A lock of its own: a publish that asks for them must not wait for an entry
    /// that is being applied.
    settings: RwLock<Option<Arc<ShardSettings>>>,
    /// Lock order: `state`, then `memory`.
    memory: Mutex<Memory>,
    committed: Arc<dyn Committed>,
    /// How many topics are here, of those that the node may have.
    held: Held,
    /// The term under which this node has caught up with its predecessors; 0 when it has not. Terms
    /// of a group that elected somebody are never 0.
    ready: AtomicU64,
    /// Empty while the group replays its log at the start: nobody leads then.
    group: OnceLock<(Group, watch::Receiver<Status>)>,
    clock: Arc<dyn Clock>,
    /// Lock order: `state`, then `memory`, then this.
    majority_clock: Mutex<MajorityClock>,
}

/// How a message comes to the owner's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Past the queue.
    Past,
    /// Through the queue, in its turn.
    Through,
}

/// The group's end: a consensus machine.
pub(crate) struct Replica {
    shared: Arc<Shared>,
}

impl Shared {
    pub(crate) fn new(
        id: ShardId,
        me: NodeId,
        agreed: AgreedVersion,
        committed: Arc<dyn Committed>,
        clock: Arc<dyn Clock>,
        topics: Arc<NodeTopics>,
    ) -> Shared {
        Shared {
            id,
            me,
            agreed,
            state: RwLock::new(State::new(id)),
            settings: RwLock::default(),
            memory: Mutex::default(),
            committed,
            held: Held::new(topics),
            ready: AtomicU64::new(0),
            group: OnceLock::new(),
            clock,
            majority_clock: Mutex::default(),
        }
    }

    /// The time of an entry that is proposed now. `None` while fewer than a majority of the voters'
    /// clocks have been known since this node started.
    pub(crate) fn stamp(&self) -> Option<Timestamp> {
        let floor = self.read().time();
        self.stamp_after(floor)
    }

    fn stamp_after(&self, floor: Timestamp) -> Option<Timestamp> {
        let reading = |node: &NodeId| self.clock.reading(*node);
        let majority = match self.group.get() {
            Some((_, status)) => majority(status.borrow().voters.iter().map(reading)),
            None => reading(&self.me),
        };
        let mut clock = self.majority_clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.stamp(floor, self.clock.elapsed(), majority)
    }

    /// The time at which the ages of messages are judged for a reader: that of an entry that would be
    /// proposed now, or of the newest one while the clocks of too few nodes are known.
    pub(crate) fn reading_time(&self, state: &State, memory: &Memory) -> Timestamp {
        let floor = state.time().max(memory.time());
        self.stamp_after(floor).unwrap_or(floor)
    }

    /// The time by which this node, as the owner, judges the ages of messages now.
    pub(crate) fn log_time(&self) -> Option<Timestamp> {
        self.is_ready().then(|| self.reading_time(&self.read(), &self.memory()))
    }

    /// Says which group applies the entries. The first word counts.
    pub(crate) fn attach(&self, group: Group) {
        let status = group.status();
        self.group.get_or_init(|| (group, status));
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// The version to write entries in.
    pub(crate) fn version(&self) -> ClusterVersion {
        self.agreed.get()
    }

    pub(crate) fn set_ready(&self, term: Option<Term>) {
        self.ready.store(term.map_or(0, |term| term.0), Ordering::Release);
    }

    /// Whether a publish may be taken here: this node leads, and has caught up.
    pub(crate) fn owns(&self) -> Result<(), PublishError> {
        if self.is_ready() {
            return Ok(());
        }
        if self.leads().is_some() {
            let why = "the shard's owner is catching up, or stops".to_owned();
            return Err(Refusal::Unavailable(why).into());
        }
        // A leader that may not lead now names itself, which helps nobody.
        Err(Refusal::NotOwner { owner: self.leader().filter(|id| *id != self.me) }.into())
    }

    /// What an acknowledgement of a message of `topic` means now, as far as entries are applied: the
    /// shard's settings say so, not what this node knows of newer ones.
    ///
    /// # Errors
    /// Refused as not the owner while there are no settings, and for a topic of another shard.
    pub(crate) fn durability(&self, topic: &Topic) -> Result<Durability, PublishError> {
        durability(self.id, self.settings().as_deref(), topic)
    }

    /// The settings of the state.
    pub(crate) fn settings(&self) -> Option<Arc<ShardSettings>> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the settings of the state, which is locked.
    fn note_settings(&self, state: &State) {
        let revision = |settings: Option<&Arc<ShardSettings>>| settings.map(|it| it.revision());
        if revision(self.settings().as_ref()) != revision(state.settings()) {
            let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
            *settings = state.settings().cloned();
        }
    }

    /// Whether this node, when it leads, may begin as the owner of `term` with `known`, the newest
    /// settings it knows of: the shard has them or newer ones, and the owner's memory is open if any
    /// namespace lives there.
    pub(crate) fn may_begin(&self, term: Term, known: Option<&Arc<ShardSettings>>) -> bool {
        let state = self.read();
        let Some((settings, known)) = state.settings().zip(known) else { return false };
        let opened = !settings.any_in_memory() || self.memory().is_open(term);
        opened && settings.revision() >= known.revision()
    }

    /// Whether a publish to the topic keeps the bounds of its namespace and of this node. One to a topic
    /// that is here always does.
    pub(crate) fn has_room(&self, topic: &Topic) -> Result<(), Refusal> {
        let Some(known) = self.settings() else { return Err(Refusal::NotOwner { owner: None }) };
        let settings = known.namespaces.of(topic);
        if self.held.has_room(settings) {
            return Ok(());
        }
        let state = self.read();
        let memory = self.memory();
        if state.has(topic) || memory.has(topic) {
            return Ok(());
        }
        let name = topic.namespace();
        self.held.check(topic, settings, state.count_of(name) + memory.count_of(name))
    }

    /// Answers as the owner. Leadership is looked at while the state is locked, here and in an apply:
    /// so an entry that this page does not have yet finds this node leading too, and is handed on.
    pub(crate) fn page(&self, topic: &Topic, want: Want) -> Result<Page, FetchError> {
        let state = self.read();
        match self.leads() {
            Some(term) if term == self.ready() => {
                let settings = state.settings().map(Arc::as_ref);
                if let Err(why) = durability(self.id, settings, topic) {
                    return Err(FetchError::Unavailable(why.to_string()));
                }
                let memory = self.memory();
                let now = self.reading_time(&state, &memory);
                if memory.holds(term, topic) {
                    memory.page(topic, want, now)
                } else {
                    state.page(topic, want, now)
                }
            }
            Some(_) => Err(FetchError::Unavailable("the new owner is catching up".to_owned())),
            None => Err(FetchError::Unavailable(match self.leader() {
                Some(owner) if owner != self.me => format!("{owner} owns it"),
                Some(_) => "its owner has no majority of the replicas".to_owned(),
                None => "no owner is elected".to_owned(),
            })),
        }
    }

    /// Whether this node owns the shard and keeps the topic in its memory.
    pub(crate) fn keeps(&self, topic: &Topic) -> bool {
        self.leads().is_some_and(|term| term == self.ready() && self.memory().holds(term, topic))
    }

    /// The same, and what comes now may pass the queue.
    pub(crate) fn may_pass(&self, topic: &Topic) -> bool {
        self.keeps(topic) && self.memory().is_passable()
    }

    /// Gives a message the next place in this owner's memory, hands it on, and says so; gives it back
    /// when its topic does not live there, or it would overtake what waits.
    ///
    /// Ownership is looked at before anybody sees the message, and again before it is acknowledged: a
    /// node that slept in between may have lost the shard, and what it has shown then is of an epoch
    /// that has ended.
    pub(crate) fn place_in_memory(
        &self,
        publish: Publish,
        way: Way,
    ) -> Result<Result<Placed, PublishError>, Box<Publish>> {
        let state = self.read();
        let mut memory = self.memory();
        let term = self.ready();
        let now = self.stamp_after(state.time().max(memory.time()));
        let may =
            memory.holds(term, &publish.topic) && (way == Way::Through || memory.is_passable());
        let (Some(now), true) = (now, may && self.leads() == Some(term)) else {
            return Err(Box::new(publish));
        };
        let (outcome, message) = memory.take(now, Item::new(publish), state.dedupe());
        let is_new = message.is_some();
        if let Some((topic, message)) = message {
            self.committed.placed(self.id, topic, message);
            self.held.set(state.len() + memory.len());
        }
        drop((memory, state));
        if is_new {
            self.committed.pass_on();
        }
        if self.leads() != Some(term) {
            return Ok(Err(PublishError::unknown("the shard may have another owner since")));
        }
        Ok(outcome.map_err(PublishError::from))
    }

    /// Lets messages pass the queue unless `queued` finds one there that is for the memory by the
    /// shard's settings, which do not change meanwhile.
    pub(crate) fn make_passable(&self, queued: impl FnOnce(&dyn Fn(&Topic) -> bool) -> bool) {
        let state = self.read();
        let Some(settings) = state.settings() else { return };
        if !queued(&|topic| settings.is_in_memory(topic)) {
            self.memory().make_passable();
        }
    }

    /// What this owner's memory knows of a message that goes to the log.
    pub(crate) fn look_in_memory(&self, item: &Item, now: Timestamp) -> InMemory {
        let state = self.read();
        let mut memory = self.memory();
        if !memory.is_open(self.ready()) {
            return InMemory::Unknown;
        }
        memory.dedupe_at(now).look_ahead_of(state.dedupe(), item)
    }

    /// Whether this node owns the shard and has caught up.
    pub(crate) fn is_ready(&self) -> bool {
        self.leads() == Some(self.ready())
    }

    fn ready(&self) -> Term {
        Term(self.ready.load(Ordering::Acquire))
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No step of an apply can fail between two changes, so what a panic elsewhere left behind the
    /// lock is whole.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with another state than an empty one.
    #[cfg(test)]
    pub(crate) fn begin(&self, state: State) {
        self.note_settings(&state);
        *self.write() = state;
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn leads(&self) -> Option<Term> {
        self.group.get().and_then(|(group, _)| group.leads())
    }

    fn leader(&self) -> Option<NodeId> {
        self.group.get().and_then(|(_, status)| status.borrow().leader)
    }

    /// Whether what is applied now concerns those who listen to this node. A leader whose lease has
    /// lapsed goes on telling, until another is known: it may have answered pages, and a message told
    /// once too often is dropped, one never told is a hole.
    fn tells(&self) -> bool {
        self.leads().is_some() || self.leader() == Some(self.me)
    }
}

impl Replica {
    pub(crate) fn new(shared: Arc<Shared>) -> Replica {
        Replica { shared }
    }
}

impl Machine for Replica {
    fn apply(&mut self, at: At, entry: &Bytes) -> Result<Bytes, Unreadable> {
        let shared = &self.shared;
        let (version, batch) = Batch::decode(entry)?;
        let (Applied { outcomes, messages }, tells) = {
            let mut state = shared.write();
            state.adopt(version);
            let renews = batch.renews_memory;
            let applied = state.apply(at.index, batch);
            let mut memory = shared.memory();
            memory.follow(at, state.time(), state.settings(), renews);
            shared.note_settings(&state);
            shared.held.set(state.len() + memory.len());
            #[cfg(feature = "planted-bugs")]
            state.forget_repeats(shared.tells());
            (applied, shared.tells())
        };
        let answer = encode_answer(&outcomes);
        if tells && !messages.is_empty() {
            shared.committed.committed(shared.id, messages);
        }
        Ok(answer)
    }

    fn check(entry: &Bytes) -> Result<(), Unreadable> {
        Batch::decode(entry).map(drop)
    }

    fn snapshot(&self) -> Capture {
        let state = self.shared.read().clone();
        Capture::new(move |to| state.encode(to))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unreadable> {
        let restored = State::restore(snapshot)?;
        if restored.id() != self.shared.id {
            let why = format!("it is of {}, not of {}", restored.id(), self.shared.id);
            return Err(Unreadable::Damaged(why));
        }
        let mut state = self.shared.write();
        *state = restored;
        // Only a replica that does not lead takes a snapshot: nothing of its memory is used again.
        *self.shared.memory() = Memory::default();
        self.shared.note_settings(&state);
        self.shared.held.set(state.len());
        Ok(())
    }
}

/// What an acknowledgement of the topic means by these settings.
pub(crate) fn durability(
    id: ShardId,
    settings: Option<&ShardSettings>,
    topic: &Topic,
) -> Result<Durability, PublishError> {
    match settings {
        Some(settings) if settings.shard_of(topic) == id => {
            Ok(settings.namespaces.of(topic).durability)
        }
        _ => Err(Refusal::NotOwner { owner: None }.into()),
    }
}

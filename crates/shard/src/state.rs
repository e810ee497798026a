//! What a shard's entries add up to: a deterministic state machine.
//!
//! No clock, no randomness, no order that differs between nodes: replicas that applied the same
//! entries are equal, and so are their snapshots, byte for byte.

#[cfg(feature = "planted-bugs")]
pub(crate) mod planted;
mod recover;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::versioned::{self, Unreadable};
use pushonce_core::{
    ClusterVersion, Durability, FetchError, Message, Page, Placed, Position, ShardId, Timestamp,
    Topic, VersionRange, Want,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::dedupe::{Dedupe, Look};
use crate::ended::Ended;
use crate::limits::Counts;
use crate::rules::Rules;
use crate::topic::{Info, Log};
use crate::{Batch, Item, Rejected, ShardSettings};

/// How many topics an entry looks at beside its own, to drop messages past their age, and topics that
/// are empty and unused. A topic that nobody publishes to would be kept for ever otherwise. 16 add
/// under a microsecond to an entry that costs some hundred, and go round 50,000 topics in half a
/// minute at 100 entries a second.
pub(crate) const SWEPT_PER_ENTRY: usize = 16;

/// How many an entry without messages looks at: it is there for nothing else. Some 200 µs, during
/// which the state is locked.
pub(crate) const SWEPT_PER_EMPTY_ENTRY: usize = 4_096;

/// The topics of one shard, and what it knows of retries. A clone shares the topics' messages: it costs some
/// pointers a topic, and a copy of what is known of publishes and producers. It is what a snapshot is made
/// of, while entries go on being applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The shard whose topics it has.
    id: ShardId,
    /// The newest settings that an entry carried; `None` before the first. No item gets a place
    /// before that.
    settings: Option<Arc<ShardSettings>>,
    /// Log time: the highest time of any entry. Everything that depends on time is measured in it.
    time: Timestamp,
    topics: BTreeMap<Topic, Arc<Log>>,
    /// Of `topics`, counted again when a snapshot is restored.
    #[serde(skip)]
    counts: Counts,
    /// The last topic the sweep looked at; `None` before the first.
    swept: Option<Topic>,
    dedupe: Dedupe,
    /// Of each namespace that ever lived in the owner's memory, the index of the last entry that gave
    /// the owner an epoch for it, or took it back. No topic of it that is here is older.
    lent: BTreeMap<String, u64>,
    /// The topics that were dropped. Whoever asks for what follows a position of an earlier life of one may
    /// have missed some of it.
    ended: Ended,
    /// The highest version of an entry that was applied; 0 before the first entry. Every snapshot begins with
    /// it.
    #[serde(skip)]
    version: ClusterVersion,
}

/// What an entry came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// For each item, in order, where its message stands: just now, or since it was first taken.
    pub outcomes: Vec<Result<Placed, Rejected>>,
    /// The messages that were placed just now, in order.
    pub messages: Vec<(Topic, Arc<Message>)>,
}

impl State {
    /// The state of a shard before its first entry.
    pub fn new(id: ShardId) -> State {
        State {
            id,
            settings: None,
            time: Timestamp(0),
            topics: BTreeMap::new(),
            counts: Counts::default(),
            swept: None,
            dedupe: Dedupe::default(),
            lent: BTreeMap::new(),
            ended: Ended::default(),
            version: ClusterVersion::default(),
        }
    }

    /// The state of the one shard of a cluster with these settings.
    #[cfg(test)]
    pub(crate) fn under(history: pushonce_core::History) -> State {
        let default = pushonce_core::Namespace { history, ..Default::default() };
        let namespaces = pushonce_core::Namespaces { revision: 1, default, ..Default::default() };
        let shards = pushonce_core::ShardCount::new(1).expect("one is a count");
        let settings = Some(Arc::new(ShardSettings { shards, namespaces }));
        State { settings, ..State::new(ShardId(0)) }
    }

    /// The next entry was written in `version`. From the first entry of a version on the shard keeps to
    /// its rules, also when an owner that has not heard of the raise writes in the version before.
    pub fn adopt(&mut self, version: ClusterVersion) {
        if version > self.version() {
            self.version = version;
            self.dedupe.keep_to(Rules::of(version));
            self.ended.keep_to(Rules::of(version));
        }
    }

    /// The highest version of an entry that was applied; [`ClusterVersion::FIRST`] before the first entry, in
    /// every build.
    pub fn version(&self) -> ClusterVersion {
        self.version.max(ClusterVersion::FIRST)
    }

    /// Which shard it is the state of.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The settings under which the next item is applied.
    pub fn settings(&self) -> Option<&Arc<ShardSettings>> {
        self.settings.as_ref()
    }

    /// Applies the entry at `index` of the shard's log, from 1: its settings first, if they are newer,
    /// then its items in their order. Gives each message that is new its place.
    pub fn apply(&mut self, index: u64, batch: Batch) -> Applied {
        let Batch { time, settings, renews_memory, items, continues } = batch;
        // Entries are proposed side by side, and a proposer may be behind: time does not go back.
        let time = self.time.max(time);
        self.time = time;
        if let Some(settings) = settings {
            self.change_settings(index, time, settings);
        }
        if renews_memory {
            self.renew_memory(index);
        }
        let rules = Rules::of(self.version());
        let swept =
            if items.is_empty() { rules.swept_per_empty_entry } else { rules.swept_per_entry };
        let mut applied = Applied::default();
        self.dedupe.advance(time);
        for (topic, last) in continues {
            self.dedupe.continue_after(&topic, last);
        }
        for item in items {
            let outcome = self.take(index, time, item, &mut applied.messages);
            applied.outcomes.push(outcome);
        }
        self.sweep(index, time, swept);
        applied
    }

    /// Replaces the settings if these are newer. Histories become as short as both the old and the new
    /// bounds want them: what a reader could not get any more does not come back with wider bounds.
    fn change_settings(&mut self, index: u64, time: Timestamp, new: ShardSettings) {
        if !self.accepts(&new) {
            return;
        }
        let new = Arc::new(new);
        let Some(old) = self.settings.replace(new.clone()) else {
            self.move_namespaces(index, &BTreeSet::new(), &new.in_memory());
            return;
        };
        for (topic, log) in &mut self.topics {
            let (before, after) = (old.history(topic), new.history(topic));
            if before == after {
                continue;
            }
            for history in [before, after] {
                // Only what changes is copied away from a snapshot that is being written.
                if log.is_over(time, history) {
                    Arc::make_mut(log).forget(time, history);
                }
            }
        }
        self.move_namespaces(index, &old.in_memory(), &new.in_memory());
    }

    /// Whether settings are newer than those that are known.
    pub(crate) fn accepts(&self, new: &ShardSettings) -> bool {
        #[cfg(feature = "planted-bugs")]
        if self.accepts_older(new) {
            return true;
        }
        self.settings.as_ref().is_none_or(|known| new.revision() > known.revision())
    }

    /// Other namespaces than `before` live in the owner's memory from this entry on. What is here of
    /// those that went there cannot be reached any more: the control group lets that happen only when
    /// there is none of it, or by force.
    fn move_namespaces(&mut self, index: u64, before: &BTreeSet<String>, after: &BTreeSet<String>) {
        if before == after {
            return;
        }
        for name in before.union(after) {
            self.lent.insert(name.clone(), index);
        }
        self.topics.retain(|topic, _| !after.contains(topic.namespace()));
        self.counts = Counts::of(self.topics.keys());
    }

    /// Topics that begin in the owner's memory have the epoch `index` from now on.
    fn renew_memory(&mut self, index: u64) {
        let Some(settings) = &self.settings else { return };
        for name in settings.in_memory() {
            self.lent.insert(name, index);
        }
    }

    fn take(
        &mut self,
        index: u64,
        time: Timestamp,
        item: Item,
        messages: &mut Vec<(Topic, Arc<Message>)>,
    ) -> Result<Placed, Rejected> {
        let settings = self.settings.clone().ok_or(Rejected::NoSettings)?;
        self.may_place(&settings, &item.topic)?;
        let marks = match self.dedupe.look(&item) {
            Look::Settled(outcome) => return outcome,
            Look::New(marks) => marks,
        };
        let (topic, message) = self.place(index, time, item, &settings);
        let placed = Placed {
            position: message.position,
            time: message.time,
            durability: Durability::Replicated,
        };
        if let Some(marks) = marks {
            self.dedupe.remember(marks, &topic, placed);
        }
        messages.push((topic, message));
        Ok(placed)
    }

    /// Whether a message of this topic has its place in this shard's log.
    fn may_place(&self, settings: &ShardSettings, topic: &Topic) -> Result<(), Rejected> {
        #[cfg(feature = "planted-bugs")]
        if planted::takes_foreign_topics() || planted::takes_what_is_in_memory() {
            return Ok(());
        }
        if settings.shard_of(topic) != self.id {
            return Err(Rejected::WrongShard);
        }
        if settings.is_in_memory(topic) {
            return Err(Rejected::InMemory);
        }
        Ok(())
    }

    fn place(
        &mut self,
        index: u64,
        time: Timestamp,
        item: Item,
        settings: &ShardSettings,
    ) -> (Topic, Arc<Message>) {
        let entry = self.topics.entry(item.topic.clone());
        let topic = entry.key().clone();
        let reborn = self.lent.contains_key(topic.namespace()) || self.ended.last(&topic).is_some();
        let counts = &mut self.counts;
        let log = entry.or_insert_with(|| {
            counts.add(&topic);
            Arc::new(Log::begin(index, reborn))
        });
        let history = settings.history(&topic);
        let message = Arc::make_mut(log).append(time, item, history);
        (topic, message)
    }

    /// Log time: that of the newest entry, and never less than before it. Milliseconds since the Unix
    /// epoch, as a majority of the voters' clocks showed it.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// What the log knows of repeats.
    pub(crate) fn dedupe(&self) -> &Dedupe {
        &self.dedupe
    }

    /// Looks at the next `count` topics after those it looked at last; at the end, the next entry begins
    /// from the start.
    fn sweep(&mut self, index: u64, now: Timestamp, count: usize) {
        let after = self.swept.take();
        let Some(settings) = &self.settings else { return };
        let (mut looked, mut unused) = (0, Vec::new());
        for (topic, log) in self.topics.range_mut::<str, _>(past(after.as_ref())).take(count) {
            looked += 1;
            let history = settings.history(topic);
            if log.is_over(now, history) {
                Arc::make_mut(log).forget(now, history);
            }
            if log.is_unused(now, history) {
                unused.push(topic.clone());
            }
            if looked == count {
                self.swept = Some(topic.clone());
            }
        }
        for topic in unused {
            self.topics.remove(&topic);
            self.counts.remove(&topic);
            self.ended.insert(&topic, index);
        }
    }

    /// How many topics there are.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// How many of a namespace there are.
    pub(crate) fn count_of(&self, namespace: &str) -> usize {
        self.counts.get(namespace)
    }

    /// Whether a topic is here, of whichever life.
    pub(crate) fn has(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// Whether an entry of the time `now` would find something to drop, if it looked at every topic.
    pub(crate) fn is_sweep_due(&self, now: Timestamp) -> bool {
        let Some(settings) = &self.settings else { return false };
        self.topics.iter().any(|(topic, log)| {
            let history = settings.history(topic);
            log.is_over(now, history) || log.is_unused(now, history)
        })
    }

    /// Answers a question about the past of a topic, as far as the bounds of its namespace allow at
    /// `now`. A topic that has never had a message, or was dropped and not made again, has an empty page
    /// with the head [`Position::ZERO`]; one that lived in an owner's memory since, an empty page that
    /// begins after that. A reader of what follows a position that may be of a dropped topic, or
    /// [`Position::ZERO`], gets a gap: nobody remembers what was in it.
    ///
    /// # Errors
    /// [`FetchError::Future`] for a position that was never given out here.
    pub fn page(&self, topic: &Topic, want: Want, now: Timestamp) -> Result<Page, FetchError> {
        if let Some((log, settings)) = self.topics.get(topic).zip(self.settings.as_ref()) {
            return log.page(want, now, settings.history(topic));
        }
        let lent = self.lent.get(topic.namespace()).copied();
        let head = Position::ZERO;
        let lost = match want {
            Want::After(_) => lent.max(self.ended.last(topic)),
            Want::Last(_) | Want::All => lent,
        };
        match (lost, want) {
            (Some(index), want) => Log::empty_page(index, want),
            (None, Want::After(asked)) if asked != head => Err(FetchError::Future { asked, head }),
            (None, _) => Ok(Page { messages: vec![], head, gap: None }),
        }
    }

    /// What a reader could get of a topic at `now`.
    pub fn topic(&self, topic: &Topic, now: Timestamp) -> Option<Info> {
        let (log, settings) = self.topics.get(topic).zip(self.settings.as_ref())?;
        Some(log.info(topic, now, settings.history(topic)))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names, with what a
    /// reader could get of them at `now`.
    pub fn topics<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Topic>,
        now: Timestamp,
    ) -> impl Iterator<Item = Info> {
        let known = self.settings.iter();
        known.flat_map(move |settings| {
            named(&self.topics, prefix, after)
                .map(move |(topic, log)| log.info(topic, now, settings.history(topic)))
        })
    }

    /// The whole state as bytes: its version, then postcard.
    pub fn snapshot(&self) -> Bytes {
        let mut snapshot = Vec::new();
        self.encode(&mut snapshot).expect("a growing buffer takes every state");
        snapshot.into()
    }

    /// Writes what [`State::snapshot`] gives, bit by bit.
    ///
    /// # Errors
    /// The writer's own.
    pub fn encode(&self, to: &mut dyn Write) -> io::Result<()> {
        versioned::write(self.version(), self, to)
    }

    /// A number that equal states share, and others as good as never: xxh3 of the snapshot. Costs
    /// what a snapshot costs, without its memory.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest(Xxh3::new());
        self.encode(&mut digest).expect("a hash takes every state");
        digest.0.digest()
    }

    /// The state that a snapshot was made of.
    ///
    /// # Errors
    /// [`Unreadable`] when the bytes are no snapshot of a version that this build reads, with nothing
    /// after it.
    pub fn restore(snapshot: &[u8]) -> Result<State, Unreadable> {
        State::restore_within(VersionRange::READABLE, snapshot)
    }

    /// As [`State::restore`], by a build that reads `readable`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn restore_within(readable: VersionRange, snapshot: &[u8]) -> Result<State, Unreadable> {
        let (version, state) = versioned::decode_within(readable, snapshot)?;
        let mut state = State::checked(state)?;
        state.adopt(version);
        Ok(state)
    }

    /// A snapshot from a disk or a peer may be readable and wrong.
    fn checked(state: State) -> Result<State, Unreadable> {
        if let Some((topic, _)) = state.topics.iter().find(|(_, log)| !log.is_whole()) {
            let why = format!("the history of {topic} has a hole");
            return Err(Unreadable::Damaged(why));
        }
        let foreign = |topic: &&Topic| {
            state.settings.as_ref().is_none_or(|known| known.shard_of(topic) != state.id)
        };
        if let Some(topic) = state.topics.keys().find(foreign) {
            let why = format!("{topic} is not a topic of {}", state.id);
            return Err(Unreadable::Damaged(why));
        }
        let torn = || Unreadable::Damaged("what it knows of retries is torn".to_owned());
        let dedupe = state.dedupe.restored().ok_or_else(torn)?;
        let counts = Counts::of(state.topics.keys());
        Ok(State { dedupe, counts, ..state })
    }
}

struct Digest(Xxh3);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every name after `topic`, or every name.
pub(crate) fn past(topic: Option<&Topic>) -> (Bound<&str>, Bound<&str>) {
    (topic.map_or(Bound::Unbounded, |topic| Bound::Excluded(topic.as_str())), Bound::Unbounded)
}

/// The topics whose names begin with `prefix`, after `after`.
pub(crate) fn named<'a, T>(
    topics: &'a BTreeMap<Topic, T>,
    prefix: &'a str,
    after: Option<&'a Topic>,
) -> impl Iterator<Item = (&'a Topic, &'a T)> {
    let begin = match after {
        Some(after) if after.as_str() >= prefix => past(Some(after)).0,
        _ => Bound::Included(prefix),
    };
    let found = topics.range::<str, _>((begin, Bound::Unbounded));
    found.take_while(move |(topic, _)| topic.as_str().starts_with(prefix))
}

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod state_test;
#[cfg(test)]
mod version_test;

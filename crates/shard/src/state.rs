//! What a shard's entries add up to: a deterministic state machine.
//!
//! No clock, no randomness, no order that differs between nodes: replicas that applied the same
//! entries are equal, and so are their snapshots, byte for byte.

mod recover;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    Acknowledgement, ClusterVersion, Durability, FailPoint, FetchError, HistoryPage, HistoryRange,
    Message, Position, ShardId, Timestamp, Topic, VersionRange,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::dedupe::{Dedupe, DedupeResult};
use crate::dropped_topics::DroppedTopics;
use crate::limits::TopicCounts;
use crate::rules::ShardRules;
use crate::topic::{TopicState, TopicStats};
use crate::{EntryBatch, EntryItem, ItemRejection, ShardSettings};

/// How many topics an entry looks at beside its own, to drop messages past their age, and topics that
/// are empty and unused. A topic that nobody publishes to would be kept for ever otherwise. 16 add
/// under a microsecond to an entry that costs some hundred, and go round 50,000 topics in half a
/// minute at 100 entries a second.
pub(crate) const SWEEP_TOPICS_PER_ENTRY: usize = 16;

/// How many an entry without messages looks at: it is there for nothing else. Some 200 µs, during
/// which the state is locked.
pub(crate) const SWEEP_TOPICS_PER_EMPTY_ENTRY: usize = 4_096;

/// The topics of one shard, and what it knows of retries. A clone shares the topics' messages: it costs some
/// pointers a topic, and a copy of what is known of publishes and producers. It is what a snapshot is made
/// of, while entries go on being applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardState {
    /// The shard whose topics it has.
    id: ShardId,
    /// The newest settings that an entry carried; `NoFault` before the first. No item gets a place
    /// before that.
    settings: Option<Arc<ShardSettings>>,
    /// Log time: the highest time of any entry. Everything that depends on time is measured in it.
    time: Timestamp,
    topics: BTreeMap<Topic, Arc<TopicState>>,
    /// Of `list_topics`, counted again when a snapshot is restored.
    #[serde(skip)]
    topic_counts: TopicCounts,
    /// The last topic the sweep looked at; `NoFault` before the first.
    sweep_cursor: Option<Topic>,
    dedupe: Dedupe,
    /// Of each namespace that ever lived in the owner's memory, the index of the last entry that gave
    /// the owner an epoch for it, or took it back. No topic of it that is here is older.
    memory_epochs: BTreeMap<String, u64>,
    /// The topics that were dropped. Whoever asks for what follows a position of an earlier life of one may
    /// have missed some of it.
    dropped_topics: DroppedTopics,
    /// The highest version of an entry that was applied; 0 before the first entry. Every snapshot begins with
    /// it.
    #[serde(skip)]
    version: ClusterVersion,
}

/// What an entry came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyOutcome {
    /// For each item, in order, where its message stands: just now, or since it was first taken.
    pub outcomes: Vec<Result<Acknowledgement, ItemRejection>>,
    /// The messages that were placed just now, in order.
    pub messages: Vec<(Topic, Arc<Message>)>,
}

impl ShardState {
    /// The state of a shard before its first entry.
    pub fn new(id: ShardId) -> ShardState {
        ShardState {
            id,
            settings: None,
            time: Timestamp(0),
            topics: BTreeMap::new(),
            topic_counts: TopicCounts::default(),
            sweep_cursor: None,
            dedupe: Dedupe::default(),
            memory_epochs: BTreeMap::new(),
            dropped_topics: DroppedTopics::default(),
            version: ClusterVersion::default(),
        }
    }

    /// The state of the one shard of a cluster with these settings.
    #[cfg(test)]
    pub(crate) fn with_history(history: pushonce_core::History) -> ShardState {
        let default = pushonce_core::Namespace { history, ..Default::default() };
        let namespaces = pushonce_core::Namespaces { revision: 1, default, ..Default::default() };
        let shards = pushonce_core::ShardCount::new(1).expect("one is a count");
        let settings = Some(Arc::new(ShardSettings { shards, namespaces }));
        ShardState { settings, ..ShardState::new(ShardId(0)) }
    }

    /// The next entry was written in `version`. From the first entry of a version on the shard keeps to
    /// its rules, also when an owner that has not heard of the raise writes in the version before.
    pub fn raise_version(&mut self, version: ClusterVersion) {
        if version > self.version() {
            self.version = version;
            self.dedupe.set_rules(ShardRules::for_version(version));
            self.dropped_topics.set_rules(ShardRules::for_version(version));
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
    pub fn apply(&mut self, index: u64, batch: EntryBatch) -> ApplyOutcome {
        let EntryBatch { time, settings, starts_memory_epoch, items, continued_sequences } = batch;
        // Entries are proposed side by side, and a proposer may be behind: time does not go back.
        let time = self.time.max(time);
        self.time = time;
        if let Some(settings) = settings {
            self.change_settings(index, time, settings);
        }
        if starts_memory_epoch {
            self.start_memory_epoch(index);
        }
        let rules = ShardRules::for_version(self.version());
        let sweep_count = if items.is_empty() {
            rules.sweep_topics_per_empty_entry
        } else {
            rules.sweep_topics_per_entry
        };
        let mut applied = ApplyOutcome::default();
        self.dedupe.advance(time);
        for (topic, last) in continued_sequences {
            self.dedupe.advance_producer_to(&topic, last);
        }
        for item in items {
            let outcome = self.apply_item(index, time, item, &mut applied.messages);
            applied.outcomes.push(outcome);
        }
        self.sweep(index, time, sweep_count);
        applied
    }

    /// Replaces the settings if these are newer. Histories become as short as both the old and the new
    /// bounds want them: what a reader could not get any more does not come back with wider bounds.
    fn change_settings(&mut self, index: u64, time: Timestamp, new: ShardSettings) {
        if !self.accepts_settings(&new) {
            return;
        }
        let new = Arc::new(new);
        let Some(old) = self.settings.replace(new.clone()) else {
            self.change_memory_namespaces(index, &BTreeSet::new(), &new.memory_namespaces());
            return;
        };
        for (topic, log) in &mut self.topics {
            let (before, after) = (old.history(topic), new.history(topic));
            if before == after {
                continue;
            }
            for history in [before, after] {
                // Only what changes is copied away from a snapshot that is being written.
                if log.has_expired(time, history) {
                    Arc::make_mut(log).trim(time, history);
                }
            }
        }
        self.change_memory_namespaces(index, &old.memory_namespaces(), &new.memory_namespaces());
    }

    /// Whether settings are newer than those that are known.
    pub(crate) fn accepts_settings(&self, new: &ShardSettings) -> bool {
        self.settings.as_ref().is_none_or(|known| {
            if FailPoint::OutdatedSettingsApplied.is_active() {
                return new.revision() != known.revision();
            }
            new.revision() > known.revision()
        })
    }

    /// Other namespaces than `before` live in the owner's memory from this entry on. What is here of
    /// those that went there cannot be reached any more: the control group lets that happen only when
    /// there is none of it, or by force.
    fn change_memory_namespaces(
        &mut self,
        index: u64,
        before: &BTreeSet<String>,
        after: &BTreeSet<String>,
    ) {
        if before == after {
            return;
        }
        for name in before.union(after) {
            self.memory_epochs.insert(name.clone(), index);
        }
        self.topics.retain(|topic, _| !after.contains(topic.namespace()));
        self.topic_counts = TopicCounts::from_topics(self.topics.keys());
    }

    /// Topics that begin in the owner's memory have the epoch `index` from now on.
    fn start_memory_epoch(&mut self, index: u64) {
        let Some(settings) = &self.settings else { return };
        for name in settings.memory_namespaces() {
            self.memory_epochs.insert(name, index);
        }
    }

    fn apply_item(
        &mut self,
        index: u64,
        time: Timestamp,
        item: EntryItem,
        messages: &mut Vec<(Topic, Arc<Message>)>,
    ) -> Result<Acknowledgement, ItemRejection> {
        let settings = self.settings.clone().ok_or(ItemRejection::NoSettings)?;
        self.check_topic(&settings, &item.topic)?;
        let identity = match self.dedupe.lookup(&item) {
            DedupeResult::Settled(outcome) => return outcome,
            DedupeResult::New(identity) => identity,
        };
        let (topic, message) = self.append_item(index, time, item, &settings);
        let ack = Acknowledgement {
            position: message.position,
            time: message.time,
            durability: Durability::Replicated,
        };
        if let Some(identity) = identity {
            self.dedupe.record(identity, &topic, ack);
        }
        messages.push((topic, message));
        Ok(ack)
    }

    /// Whether a message of this topic has its place in this shard's log.
    fn check_topic(&self, settings: &ShardSettings, topic: &Topic) -> Result<(), ItemRejection> {
        if settings.shard_of(topic) != self.id && !FailPoint::WrongShardAccepted.is_active() {
            return Err(ItemRejection::WrongShard);
        }
        if settings.is_in_memory(topic) && !FailPoint::DurabilityDecidedEarly.is_active() {
            return Err(ItemRejection::NamespaceInMemory);
        }
        Ok(())
    }

    fn append_item(
        &mut self,
        index: u64,
        time: Timestamp,
        item: EntryItem,
        settings: &ShardSettings,
    ) -> (Topic, Arc<Message>) {
        let entry = self.topics.entry(item.topic.clone());
        let topic = entry.key().clone();
        let is_recreated = self.memory_epochs.contains_key(topic.namespace())
            || self.dropped_topics.last_dropped_at(&topic).is_some();
        let counts = &mut self.topic_counts;
        let log = entry.or_insert_with(|| {
            counts.add(&topic);
            Arc::new(TopicState::new(index, is_recreated))
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

    /// Forgets every publish id, for [`FailPoint::DedupeNotReplicated`].
    pub(crate) fn clear_dedupe(&mut self) {
        self.dedupe = Dedupe::default();
    }

    /// Looks at the next `count` topics after those it looked at last; at the end, the next entry begins
    /// from the start.
    fn sweep(&mut self, index: u64, now: Timestamp, count: usize) {
        let after = self.sweep_cursor.take();
        let Some(settings) = &self.settings else { return };
        let (mut examined, mut unused) = (0, Vec::new());
        for (topic, log) in self.topics.range_mut::<str, _>(names_after(after.as_ref())).take(count)
        {
            examined += 1;
            let history = settings.history(topic);
            if log.has_expired(now, history) {
                Arc::make_mut(log).trim(now, history);
            }
            if log.is_unused(now, history) {
                unused.push(topic.clone());
            }
            if examined == count {
                self.sweep_cursor = Some(topic.clone());
            }
        }
        for topic in unused {
            self.topics.remove(&topic);
            self.topic_counts.remove(&topic);
            self.dropped_topics.insert(&topic, index);
        }
    }

    /// How many topics there are.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// How many of a namespace there are.
    pub(crate) fn topic_count(&self, namespace: &str) -> usize {
        self.topic_counts.get(namespace)
    }

    /// Whether a topic is here, of whichever life.
    pub(crate) fn contains_topic(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// Whether an entry of the time `now` would find something to drop, if it looked at every topic.
    pub(crate) fn is_sweep_due(&self, now: Timestamp) -> bool {
        let Some(settings) = &self.settings else { return false };
        self.topics.iter().any(|(topic, log)| {
            let history = settings.history(topic);
            log.has_expired(now, history) || log.is_unused(now, history)
        })
    }

    /// Answers a question about the past of a topic, as far as the bounds of its namespace allow at
    /// `now`. A topic that has never had a message, or was dropped and not made again, has an empty page
    /// with the head [`Position::ZERO`]; one that lived in an owner's memory since, an empty page that
    /// begins after that. A reader of what follows a position that may be of a dropped topic, or
    /// [`Position::ZERO`], gets a gap: nobody remembers what was in it.
    ///
    /// # Errors
    /// [`FetchError::FuturePosition`] for a position that was never given out here.
    pub fn fetch_history(
        &self,
        topic: &Topic,
        range: HistoryRange,
        now: Timestamp,
    ) -> Result<HistoryPage, FetchError> {
        if let Some((log, settings)) = self.topics.get(topic).zip(self.settings.as_ref()) {
            return log.fetch_history(range, now, settings.history(topic));
        }
        let memory_epoch = self.memory_epochs.get(topic.namespace()).copied();
        let head = Position::ZERO;
        let lost_before = match range {
            HistoryRange::After(_) => memory_epoch.max(self.dropped_topics.last_dropped_at(topic)),
            HistoryRange::Last(_) | HistoryRange::All => memory_epoch,
        };
        match (lost_before, range) {
            (Some(index), range) => TopicState::empty_page(index, range),
            (None, HistoryRange::After(asked)) if asked != head => {
                Err(FetchError::FuturePosition { requested: asked, head })
            }
            (None, _) => Ok(HistoryPage { messages: vec![], head, gap: None }),
        }
    }

    /// What a reader could get of a topic at `now`.
    pub fn topic_stats(&self, topic: &Topic, now: Timestamp) -> Option<TopicStats> {
        let (log, settings) = self.topics.get(topic).zip(self.settings.as_ref())?;
        Some(log.stats(topic, now, settings.history(topic)))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names, with what a
    /// reader could get of them at `now`.
    pub fn list_topics<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Topic>,
        now: Timestamp,
    ) -> impl Iterator<Item = TopicStats> {
        let known = self.settings.iter();
        known.flat_map(move |settings| {
            topics_with_prefix(&self.topics, prefix, after)
                .map(move |(topic, log)| log.stats(topic, now, settings.history(topic)))
        })
    }

    /// The whole state as bytes: its version, then postcard.
    pub fn snapshot(&self) -> Bytes {
        let mut snapshot = Vec::new();
        self.encode(&mut snapshot).expect("a growing buffer takes every state");
        snapshot.into()
    }

    /// Writes what [`ShardState::snapshot`] gives, bit by bit.
    ///
    /// # Errors
    /// The writer's own.
    pub fn encode(&self, to: &mut dyn Write) -> io::Result<()> {
        versioned::encode_into(self.version(), self, to)
    }

    /// A number that equal states share, and others as good as never: xxh3 of the snapshot. Costs
    /// what a snapshot costs, without its memory.
    pub fn digest(&self) -> u64 {
        let mut digest = DigestWriter(Xxh3::new());
        self.encode(&mut digest).expect("a hash takes every state");
        digest.0.digest()
    }

    /// The state that a snapshot was made of.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] when the bytes are no snapshot of a version that this build reads, with nothing
    /// after it.
    pub fn restore(snapshot: &[u8]) -> Result<ShardState, VersionedDecodeError> {
        ShardState::restore_within(VersionRange::READABLE, snapshot)
    }

    /// As [`ShardState::restore`], by a build that reads `readable`.
    ///
    /// # Errors
    /// [`VersionedDecodeError`].
    pub fn restore_within(
        readable: VersionRange,
        snapshot: &[u8],
    ) -> Result<ShardState, VersionedDecodeError> {
        let (version, state) = versioned::decode_in_range(readable, snapshot)?;
        let mut state = ShardState::validate(state)?;
        state.raise_version(version);
        Ok(state)
    }

    /// A snapshot from a disk or a peer may be readable and wrong.
    fn validate(state: ShardState) -> Result<ShardState, VersionedDecodeError> {
        if let Some((topic, _)) = state.topics.iter().find(|(_, log)| !log.is_consistent()) {
            let reason = format!("the history of {topic} has a hole");
            return Err(VersionedDecodeError::Corrupt(reason));
        }
        let foreign = |topic: &&Topic| {
            state.settings.as_ref().is_none_or(|known| known.shard_of(topic) != state.id)
        };
        if let Some(topic) = state.topics.keys().find(foreign) {
            let reason = format!("{topic} is not a topic of {}", state.id);
            return Err(VersionedDecodeError::Corrupt(reason));
        }
        let inconsistent =
            || VersionedDecodeError::Corrupt("what it knows of retries is torn".to_owned());
        let dedupe = state.dedupe.rebuild_indexes().ok_or_else(inconsistent)?;
        let counts = TopicCounts::from_topics(state.topics.keys());
        Ok(ShardState { dedupe, topic_counts: counts, ..state })
    }
}

struct DigestWriter(Xxh3);

impl Write for DigestWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every name after `topic_stats`, or every name.
pub(crate) fn names_after(topic: Option<&Topic>) -> (Bound<&str>, Bound<&str>) {
    (topic.map_or(Bound::Unbounded, |topic| Bound::Excluded(topic.as_str())), Bound::Unbounded)
}

/// The topics whose names begin with `prefix`, after `after`.
pub(crate) fn topics_with_prefix<'a, T>(
    topics: &'a BTreeMap<Topic, T>,
    prefix: &'a str,
    after: Option<&'a Topic>,
) -> impl Iterator<Item = (&'a Topic, &'a T)> {
    let start = match after {
        Some(after) if after.as_str() >= prefix => names_after(Some(after)).0,
        _ => Bound::Included(prefix),
    };
    let found = topics.range::<str, _>((start, Bound::Unbounded));
    found.take_while(move |(topic, _)| topic.as_str().starts_with(prefix))
}

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod state_test;
#[cfg(test)]
mod version_test;

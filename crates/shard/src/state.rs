//! The deterministic state machine of a shard.
//!
//! It uses no clock, no randomness, and no order that differs between nodes: replicas that applied the same
//! entries are equal, and so are their snapshots, byte for byte.

mod move_to_memory;
mod recover;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    Acknowledgement, ClusterVersion, CoverageMark, Durability, Epoch, FailPoint, FetchError,
    HistoryPage, HistoryRange, Message, Position, ShardId, Timestamp, Topic, TopicRemoval,
    VersionRange,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::dedupe::{Dedupe, DedupeResult};
use crate::dropped_topics::DroppedTopics;
use crate::history_bytes::HistoryBytes;
use crate::limits::TopicCounts;
use crate::rules::ShardRules;
use crate::topic::{TopicState, TopicStats};
use crate::{EntryBatch, EntryItem, ItemRejection, ShardSettings};

/// How many topics an entry visits beside its own, to drop messages past their age, and topics that are
/// empty and unused. Otherwise a topic without new publishes would never expire. Visiting 16 adds under a
/// microsecond to an entry that costs some hundred, and visits 50,000 topics in half a minute at 100
/// entries a second.
pub(crate) const SWEEP_TOPICS_PER_ENTRY: usize = 16;

/// How many topics an entry without messages visits, because it serves no other purpose. Takes some 200 µs,
/// during which the state is locked.
pub(crate) const SWEEP_TOPICS_PER_EMPTY_ENTRY: usize = 4_096;

/// The topics and the deduplication records of one shard. A clone shares the topics' messages: it costs a
/// few pointers a topic and a copy of the deduplication records. Snapshots are written from a clone while
/// entries continue to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardState {
    /// The shard.
    id: ShardId,
    /// The newest settings that an entry carried, with the namespaces of `kept_on_disk` replicated; `None` before
    /// the first. No item is placed before that.
    settings: Option<Arc<ShardSettings>>,
    /// The namespaces that live in memory by the newest settings and have stored messages here. They move when the
    /// messages have expired or were removed.
    kept_on_disk: BTreeSet<String>,
    /// Log time: the highest time of any entry. Everything that depends on time is measured in it.
    time: Timestamp,
    topics: BTreeMap<Topic, Arc<TopicState>>,
    /// The number of `topics` by namespace, counted again when a snapshot is restored.
    #[serde(skip)]
    topic_counts: TopicCounts,
    /// The bytes of `topics`, summed again when a snapshot is restored.
    #[serde(skip)]
    history_bytes: HistoryBytes,
    /// The last topic that the sweep visited; `None` before the first.
    sweep_cursor: Option<Topic>,
    dedupe: Dedupe,
    /// For each namespace that ever lived in the owner's memory, the index of the last entry that started a
    /// memory epoch for it or moved it back to the log. No topic of the namespace in `topics` is older.
    memory_epochs: BTreeMap<String, u64>,
    /// The topics that were dropped. A reader that resumes from a position of an earlier instance of one
    /// may have missed messages.
    dropped_topics: DroppedTopics,
    /// The highest version of an entry that was applied; 0 before the first entry. Every snapshot begins
    /// with it.
    #[serde(skip)]
    version: ClusterVersion,
}

/// The result of applying an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyOutcome {
    /// For each item, in order, the acknowledgement of its message, now or when it was first placed, or its
    /// rejection.
    pub outcomes: Vec<Result<Acknowledgement, ItemRejection>>,
    /// The topics that this entry purged or deleted.
    pub removed: Vec<Topic>,
    /// The messages that this entry placed, in order.
    pub messages: Vec<(Topic, Arc<Message>)>,
}

impl ShardState {
    /// The state of a shard before its first entry.
    pub fn new(id: ShardId) -> ShardState {
        ShardState {
            id,
            settings: None,
            kept_on_disk: BTreeSet::new(),
            time: Timestamp(0),
            topics: BTreeMap::new(),
            topic_counts: TopicCounts::default(),
            history_bytes: HistoryBytes::default(),
            sweep_cursor: None,
            dedupe: Dedupe::default(),
            memory_epochs: BTreeMap::new(),
            dropped_topics: DroppedTopics::default(),
            version: ClusterVersion::default(),
        }
    }

    /// The state of the only shard of a cluster with these settings.
    #[cfg(test)]
    pub(crate) fn with_history(history: pushonce_core::History) -> ShardState {
        let default = pushonce_core::Namespace { history, ..Default::default() };
        let namespaces = pushonce_core::Namespaces { revision: 1, default, ..Default::default() };
        let shards = pushonce_core::ShardCount::new(1).expect("one is a count");
        let settings = Some(Arc::new(ShardSettings { shards, namespaces }));
        ShardState { settings, ..ShardState::new(ShardId(0)) }
    }

    /// Raises the version to that of the next entry. From the first entry of a version on, the shard keeps
    /// its rules, also when an owner that does not know the new version yet writes in the version before.
    pub fn raise_version(&mut self, version: ClusterVersion) {
        if version > self.version() {
            self.version = version;
            self.dedupe.set_rules(ShardRules::for_version(version));
            self.dropped_topics.set_rules(ShardRules::for_version(version));
        }
    }

    /// The highest version of an entry that was applied; [`ClusterVersion::FIRST`] before the first entry,
    /// in every build.
    pub fn version(&self) -> ClusterVersion {
        self.version.max(ClusterVersion::FIRST)
    }

    /// The shard whose state this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The settings under which the next item is applied.
    pub fn settings(&self) -> Option<&Arc<ShardSettings>> {
        self.settings.as_ref()
    }

    /// Applies the entry at `index` of the shard's log, from 1: its settings first, if they are newer, then
    /// its removals, then its items in order. Every new message is placed.
    pub fn apply(&mut self, index: u64, batch: EntryBatch) -> ApplyOutcome {
        let EntryBatch { time, settings, starts_memory_epoch, removals, .. } = batch;
        let EntryBatch { items, continued_sequences, .. } = batch;
        // A proposer's time may be behind that of an earlier entry: time does not go back.
        let time = self.time.max(time);
        self.time = time;
        if let Some(settings) = settings {
            self.change_settings(index, time, settings);
        }
        if starts_memory_epoch {
            self.start_memory_epoch(index);
        }
        let rules = ShardRules::for_version(self.version());
        let has_items = !items.is_empty();
        let sweep_count = if !has_items {
            rules.sweep_topics_per_empty_entry
        } else {
            rules.sweep_topics_per_entry
        };
        let mut applied = ApplyOutcome::default();
        self.dedupe.advance(time);
        for (topic, last) in continued_sequences {
            self.dedupe.advance_producer_to(&topic, last);
        }
        for (topic, removal) in removals {
            if self.remove(index, &topic, removal) {
                applied.removed.push(topic);
            }
        }
        for item in items {
            let outcome = self.apply_item(index, time, item, &mut applied.messages);
            applied.outcomes.push(outcome);
        }
        self.sweep(index, time, sweep_count);
        if !has_items {
            self.move_kept_namespaces(index);
        }
        applied
    }

    /// Replaces the settings if the new ones are newer. Histories are trimmed to both the old and the new
    /// limits: a message that readers could not get any more does not come back with wider limits.
    fn change_settings(&mut self, index: u64, time: Timestamp, mut new: ShardSettings) {
        if !self.accepts_settings(&new) {
            return;
        }
        self.kept_on_disk = self.namespaces_to_keep(&new);
        new.set_durability(&self.kept_on_disk, Durability::Replicated);
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
                // Copy only topics that change; the others stay shared with a snapshot that is being written.
                if log.has_expired(time, history) {
                    self.history_bytes.track(Arc::make_mut(log), |log| log.trim(time, history));
                }
            }
        }
        self.change_memory_namespaces(index, &old.memory_namespaces(), &new.memory_namespaces());
    }

    /// Whether the settings are newer than the current ones, with the same number of shards: it never changes in a
    /// cluster, and with another one the topics of this shard would belong to others.
    pub(crate) fn accepts_settings(&self, new: &ShardSettings) -> bool {
        self.settings.as_ref().is_none_or(|known| {
            if new.shards != known.shards {
                return false;
            }
            if FailPoint::OutdatedSettingsApplied.is_active() {
                return new.revision() != known.revision();
            }
            if new.revision() < known.revision() {
                CoverageMark::OlderSettingsArrive.reach();
            }
            new.revision() > known.revision()
        })
    }

    /// Purges or deletes a topic of the log. Returns whether it was there.
    fn remove(&mut self, index: u64, topic: &Topic, removal: TopicRemoval) -> bool {
        let Some(log) = self.topics.get_mut(topic) else { return false };
        self.history_bytes.track(Arc::make_mut(log), |log| log.purge(Epoch(index)));
        if removal == TopicRemoval::Delete {
            self.drop_topic(index, topic);
        }
        true
    }

    /// Drops a topic without messages.
    fn drop_topic(&mut self, index: u64, topic: &Topic) {
        self.topics.remove(topic);
        self.topic_counts.remove(topic);
        self.dropped_topics.insert(topic, index);
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
            DedupeResult::Settled(outcome) => {
                CoverageMark::PublishRepeated.reach();
                return outcome;
            }
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

    /// Checks that messages of this topic belong to this shard's log.
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
        let topic = item.topic.clone();
        let lost_before = self.lost_before(&topic);
        let counts = &mut self.topic_counts;
        let log = self.topics.entry(topic.clone()).or_insert_with(|| {
            counts.add(&topic);
            // Readers that came meanwhile received a gap up to this epoch: they get no second one.
            Arc::new(TopicState::new(lost_before.unwrap_or(index), lost_before.is_some()))
        });
        let history = settings.history(&topic);
        let log = Arc::make_mut(log);
        let message = self.history_bytes.track(log, |log| log.append(time, item, history));
        (topic, message)
    }

    /// Log time: the highest time of any entry, which never decreases. Milliseconds since the Unix epoch,
    /// as a majority of the voters' clocks showed it.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The deduplication records of the log.
    pub(crate) fn dedupe(&self) -> &Dedupe {
        &self.dedupe
    }

    /// Forgets every publish id, for [`FailPoint::DedupeNotReplicated`].
    pub(crate) fn clear_dedupe(&mut self) {
        self.dedupe = Dedupe::default();
    }

    /// Visits the next `count` topics after the sweep cursor. After the last topic, the next entry starts
    /// again at the first.
    fn sweep(&mut self, index: u64, now: Timestamp, count: usize) {
        let after = self.sweep_cursor.take();
        let Some(settings) = &self.settings else { return };
        let (mut examined, mut unused) = (0, Vec::new());
        for (topic, log) in self.topics.range_mut::<str, _>(names_after(after.as_ref())).take(count)
        {
            examined += 1;
            let history = settings.history(topic);
            if log.has_expired(now, history) {
                self.history_bytes.track(Arc::make_mut(log), |log| log.trim(now, history));
            }
            if log.is_unused(now, history) {
                unused.push(topic.clone());
            }
            if examined == count {
                self.sweep_cursor = Some(topic.clone());
            }
        }
        for topic in unused {
            self.drop_topic(index, &topic);
        }
    }

    /// The number of topics.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// The payload bytes of the histories of all topics.
    pub(crate) fn history_bytes(&self) -> HistoryBytes {
        self.history_bytes
    }

    /// The number of topics of a namespace.
    pub(crate) fn topic_count(&self, namespace: &str) -> usize {
        self.topic_counts.get(namespace)
    }

    /// Whether a topic exists.
    pub(crate) fn contains_topic(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// Whether a sweep of all topics at `now` would drop anything, or an entry without messages moves a namespace to
    /// memory.
    pub(crate) fn is_sweep_due(&self, now: Timestamp) -> bool {
        let Some(settings) = &self.settings else { return false };
        if !self.movable_namespaces().is_empty() {
            return true;
        }
        self.topics.iter().any(|(topic, log)| {
            let history = settings.history(topic);
            log.has_expired(now, history) || log.is_unused(now, history)
        })
    }

    /// Reads the history of a topic, within the limits of its namespace at `now`. A topic that never had a
    /// message, or was dropped and not recreated, has an empty page with the head [`Position::ZERO`]. A
    /// topic whose namespace lived in an owner's memory since has an empty page that begins after that. A
    /// reader that resumes from a position that may be of a dropped topic, or from [`Position::ZERO`], gets
    /// a gap: the messages in it are not known any more.
    ///
    /// # Errors
    /// [`FetchError::FuturePosition`] for a position that was never assigned here.
    pub fn fetch_history(
        &self,
        topic: &Topic,
        range: HistoryRange,
        now: Timestamp,
    ) -> Result<HistoryPage, FetchError> {
        if let Some((log, settings)) = self.topics.get(topic).zip(self.settings.as_ref()) {
            return log.fetch_history(range, now, settings.history(topic));
        }
        let head = Position::ZERO;
        let lost_before = match range {
            HistoryRange::After(_) => self.lost_before(topic),
            HistoryRange::Last(_) | HistoryRange::All => self.memory_epoch(topic),
        };
        match (lost_before, range) {
            (Some(index), range) => TopicState::empty_page(index, range),
            (None, HistoryRange::After(asked)) if asked != head => {
                Err(FetchError::FuturePosition { requested: asked, head })
            }
            (None, _) => Ok(HistoryPage { messages: vec![], head, gap: None }),
        }
    }

    fn memory_epoch(&self, topic: &Topic) -> Option<u64> {
        self.memory_epochs.get(topic.namespace()).copied()
    }

    /// The index of the entry with which the last instance of a topic that does not exist may have ended; `None` when
    /// there was none.
    fn lost_before(&self, topic: &Topic) -> Option<u64> {
        self.memory_epoch(topic).max(self.dropped_topics.last_dropped_at(topic))
    }

    /// The stats of a topic that a reader would see at `now`.
    pub fn topic_stats(&self, topic: &Topic, now: Timestamp) -> Option<TopicStats> {
        let (log, settings) = self.topics.get(topic).zip(self.settings.as_ref())?;
        Some(log.stats(topic, now, settings.history(topic)))
    }

    /// The topics whose names begin with `prefix`, after `after`, ordered by name, with the stats that a
    /// reader would see at `now`.
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

    /// The names of the topics that begin with `prefix`.
    pub(crate) fn topic_names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Topic> {
        topics_with_prefix(&self.topics, prefix, None).map(|(topic, _)| topic)
    }

    /// The snapshot of the whole state: its version, then postcard.
    pub fn snapshot(&self) -> Bytes {
        let mut snapshot = Vec::new();
        self.encode(&mut snapshot).expect("encoding to a growing buffer cannot fail");
        snapshot.into()
    }

    /// Writes the bytes of [`ShardState::snapshot`] piece by piece.
    ///
    /// # Errors
    /// The error of the writer.
    pub fn encode(&self, to: &mut dyn Write) -> io::Result<()> {
        versioned::encode_into(self.version(), self, to)
    }

    /// The xxh3 hash of the snapshot: equal states share it, others practically never do. Costs as much
    /// time as a snapshot, without its memory.
    pub fn digest(&self) -> u64 {
        let mut digest = DigestWriter(Xxh3::new());
        self.encode(&mut digest).expect("hashing cannot fail");
        digest.0.digest()
    }

    /// Restores the state from a snapshot.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] when the bytes are not exactly one snapshot of a version that this build
    /// reads.
    pub fn restore(snapshot: &[u8]) -> Result<ShardState, VersionedDecodeError> {
        ShardState::restore_within(VersionRange::readable(), snapshot)
    }

    /// As [`ShardState::restore`], for a build that reads `readable`.
    ///
    /// # Errors
    /// As [`ShardState::restore`].
    pub fn restore_within(
        readable: VersionRange,
        snapshot: &[u8],
    ) -> Result<ShardState, VersionedDecodeError> {
        let (version, state) = versioned::decode_in_range(readable, snapshot)?;
        let mut state = ShardState::validate(state)?;
        state.raise_version(version);
        Ok(state)
    }

    /// Checks a decoded state: a snapshot from a disk or a peer may be decodable and wrong.
    fn validate(state: ShardState) -> Result<ShardState, VersionedDecodeError> {
        if let Some((topic, _)) = state.topics.iter().find(|(_, log)| !log.is_consistent()) {
            let reason = format!("the history of {topic} is inconsistent");
            return Err(VersionedDecodeError::Corrupt(reason));
        }
        let foreign = |topic: &&Topic| {
            state.settings.as_ref().is_none_or(|known| known.shard_of(topic) != state.id)
        };
        if let Some(topic) = state.topics.keys().find(foreign) {
            let reason = format!("{topic} is not a topic of {}", state.id);
            return Err(VersionedDecodeError::Corrupt(reason));
        }
        let inconsistent = || {
            VersionedDecodeError::Corrupt("the deduplication records are inconsistent".to_owned())
        };
        let dedupe = state.dedupe.rebuild_indexes().ok_or_else(inconsistent)?;
        let counts = TopicCounts::from_topics(state.topics.keys());
        let history_bytes = HistoryBytes::sum(state.topics.values().map(Arc::as_ref));
        Ok(ShardState { dedupe, topic_counts: counts, history_bytes, ..state })
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

/// The range of names after `topic`, or of all names.
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
mod fuzz;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod move_to_memory_test;
#[cfg(test)]
mod state_test;
#[cfg(test)]
mod version_test;

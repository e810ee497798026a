//! Topics of `memory` namespaces, which live in the owner's memory only.
//!
//! Their messages are in no entry. The shard's settings name the namespaces. The index of an entry that
//! starts a memory epoch ([`EntryBatch::starts_memory_epoch`](crate::EntryBatch::starts_memory_epoch)), or
//! that changes which namespaces live in memory, is the epoch of topics created from then on. It is higher
//! than every epoch assigned before, in memory or on disk, by this owner or another. The owner of another
//! term starts empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_consensus::EntryId;
use pushonce_core::{
    Acknowledgement, Durability, Epoch, FetchError, History, HistoryPage, HistoryRange, Message,
    Term, Timestamp, Topic, TopicRemoval,
};

use crate::dedupe::{Dedupe, DedupeResult};
use crate::history_bytes::HistoryBytes;
use crate::limits::TopicCounts;
use crate::state::topics_with_prefix;
use crate::topic::{TopicState, TopicStats};
use crate::{EntryItem, ItemRejection, ShardSettings};

/// Maximum number of names of dropped topics remembered (some 2 MiB), so that only recreated topics start a
/// higher epoch. Above it all topics without messages start a later epoch, and their subscribers get a gap.
const DROPPED_TOPICS_MAX: usize = 16_384;

/// How many topics one entry sweeps; as many as an entry without messages does in the log.
const SWEEP_TOPICS_PER_ENTRY: usize = 4_096;

/// The memory of one owner. A replica that is not the owner has one too, which stays empty.
#[derive(Debug, Default)]
pub(crate) struct OwnerMemory {
    /// The term of the owner that opened the memory; 0 before the first.
    term: Term,
    /// The shard's settings as of the last entry.
    settings: Option<Arc<ShardSettings>>,
    /// The epoch of every topic without messages that is not in `dropped_topic_epochs`.
    epoch: u64,
    /// The epoch in which the queue was last known to hold no message that must not be overtaken.
    bypass_epoch: u64,
    topics: BTreeMap<Topic, TopicState>,
    /// The number of `topics` by namespace.
    topic_counts: TopicCounts,
    /// The bytes of `topics`.
    history_bytes: HistoryBytes,
    /// The epochs of the topics that were dropped since `epoch` began.
    dropped_topic_epochs: BTreeMap<Topic, u64>,
    /// The last topic that the sweep visited.
    sweep_cursor: Option<Topic>,
    dedupe: Dedupe,
    /// The time of the newest message or entry.
    time: Timestamp,
}

/// A new message, to be delivered; `None` for a repeat.
type NewMessage = Option<(Topic, Arc<Message>)>;

impl OwnerMemory {
    /// Whether the owner of `term` has opened the memory.
    pub(crate) fn is_open(&self, term: Term) -> bool {
        self.term == term
    }

    /// Whether the owner of `term` keeps `topic` in memory.
    pub(crate) fn holds(&self, term: Term, topic: &Topic) -> bool {
        self.is_open(term) && self.memory_settings_of(topic).is_some()
    }

    /// Whether messages of the topics in memory may bypass the queue.
    pub(crate) fn is_bypass_enabled(&self) -> bool {
        self.bypass_epoch == self.epoch
    }

    /// Enables the bypass. The queue must hold no message for the memory, including messages queued before
    /// the settings changed.
    pub(crate) fn enable_bypass(&mut self) {
        self.bypass_epoch = self.epoch;
    }

    /// The settings, if they put `topic` in memory.
    fn memory_settings_of(&self, topic: &Topic) -> Option<&Arc<ShardSettings>> {
        self.settings.as_ref().filter(|settings| settings.is_in_memory(topic))
    }

    /// The time of the newest message or entry: log time, as that of [`ShardState`](crate::ShardState).
    pub(crate) fn time(&self) -> Timestamp {
        self.time
    }

    /// Follows an entry that was applied to the state; `settings` are those of the state after it. The
    /// first entry of a term that starts a memory epoch opens the memory. Later ones drop messages past
    /// their age, and topics that are empty and unused.
    pub(crate) fn apply_entry(
        &mut self,
        at: EntryId,
        now: Timestamp,
        settings: Option<&Arc<ShardSettings>>,
        starts_epoch: bool,
    ) {
        if starts_epoch && !self.is_open(at.term) {
            *self = OwnerMemory {
                term: at.term,
                settings: settings.cloned(),
                epoch: at.index,
                time: now,
                ..OwnerMemory::default()
            };
            return;
        }
        let now = self.advance_time(now);
        // Cheap: equal settings are shared.
        if self.settings.as_ref() != settings {
            self.change_settings(at.index, now, settings.cloned());
        }
        if starts_epoch && self.epoch != at.index {
            self.sweep(at.index, now);
            if self.dropped_topic_epochs.len() > DROPPED_TOPICS_MAX {
                self.start_epoch(at.index);
            }
        }
    }

    /// Drops the topics of namespaces that leave the memory, and starts a later epoch for every topic
    /// without messages.
    fn change_settings(&mut self, index: u64, now: Timestamp, new: Option<Arc<ShardSettings>>) {
        let names = |settings: Option<&Arc<ShardSettings>>| {
            settings.map_or_else(BTreeSet::new, |settings| settings.memory_namespaces())
        };
        let (before, after) = (names(self.settings.as_ref()), names(new.as_ref()));
        let old = std::mem::replace(&mut self.settings, new);
        if before != after {
            self.topics.retain(|topic, _| after.contains(topic.namespace()));
            self.topic_counts = TopicCounts::from_topics(self.topics.keys());
            self.history_bytes = HistoryBytes::sum(self.topics.values());
            self.start_epoch(index);
        }
        for (topic, log) in &mut self.topics {
            for settings in [&old, &self.settings].into_iter().flatten() {
                self.history_bytes.track(log, |log| log.trim(now, settings.history(topic)));
            }
        }
    }

    /// Time does not go back: an entry may carry an earlier time than a message that overtook it.
    fn advance_time(&mut self, time: Timestamp) -> Timestamp {
        self.time = self.time.max(time);
        self.time
    }

    fn start_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.dropped_topic_epochs.clear();
    }

    fn sweep(&mut self, index: u64, now: Timestamp) {
        let after = self.sweep_cursor.take();
        let Some(settings) = &self.settings else { return };
        let mut unused = Vec::new();
        let remaining = self.topics.range_mut::<str, _>(crate::state::names_after(after.as_ref()));
        for (topic, log) in remaining.take(SWEEP_TOPICS_PER_ENTRY) {
            let history = settings.history(topic);
            self.history_bytes.track(log, |log| log.trim(now, history));
            if log.is_unused(now, history) {
                unused.push(topic.clone());
            }
            self.sweep_cursor = Some(topic.clone());
        }
        for topic in unused {
            self.drop_topic(index, topic);
        }
    }

    /// Drops a topic without messages. If it is created again, it begins at the epoch `index`.
    fn drop_topic(&mut self, index: u64, topic: Topic) {
        self.topics.remove(&topic);
        self.topic_counts.remove(&topic);
        self.dropped_topic_epochs.insert(topic, index);
    }

    /// Purges or deletes a topic in memory, by the entry at `index`, which was applied already. Returns whether it was
    /// there.
    pub(crate) fn remove(&mut self, index: u64, topic: &Topic, removal: TopicRemoval) -> bool {
        let Some(log) = self.topics.get_mut(topic) else { return false };
        self.history_bytes.track(log, |log| log.purge(Epoch(index)));
        if removal == TopicRemoval::Delete {
            self.drop_topic(index, topic.clone());
        }
        true
    }

    /// The deduplication records as of `time`, for messages that go to the log.
    pub(crate) fn dedupe_at(&mut self, time: Timestamp) -> &Dedupe {
        let time = self.advance_time(time);
        self.dedupe.advance(time);
        &self.dedupe
    }

    /// Places a message of a topic in memory, if neither the records of this owner, which are lost with its
    /// messages, nor those of the `log` know it. Returns the outcome and the message to deliver.
    pub(crate) fn place_if_new(
        &mut self,
        time: Timestamp,
        item: EntryItem,
        log: &Dedupe,
    ) -> (Result<Acknowledgement, ItemRejection>, NewMessage) {
        let time = self.advance_time(time);
        self.dedupe.advance(time);
        let identity = match self.dedupe.lookup_with_log(log, &item) {
            DedupeResult::Settled(outcome) => return (outcome, None),
            DedupeResult::New(identity) => identity,
        };
        let topic = item.topic.clone();
        let message = self.append(time, item);
        let (position, time) = (message.position, message.time);
        let ack = Acknowledgement { position, time, durability: Durability::Memory };
        if let Some(identity) = identity {
            self.dedupe.record(identity, &topic, ack);
        }
        (Ok(ack), Some((topic, message)))
    }

    fn append(&mut self, time: Timestamp, item: EntryItem) -> Arc<Message> {
        let history = self.history(&item.topic);
        let create = || {
            self.topic_counts.add(&item.topic);
            TopicState::new(
                self.dropped_topic_epochs.remove(&item.topic).unwrap_or(self.epoch),
                true,
            )
        };
        let log = self.topics.entry(item.topic.clone()).or_insert_with(create);
        self.history_bytes.track(log, |log| log.append(time, item, &history))
    }

    fn history(&self, topic: &Topic) -> History {
        let settings = self.settings.as_ref();
        settings.map_or_else(History::default, |settings| *settings.history(topic))
    }

    /// Reads the history of a topic in memory. A topic without messages has its head before the first
    /// position of its epoch, so a reader with a position of another epoch gets a gap. So does a reader at
    /// `0:0`, because an earlier owner may have had messages.
    pub(crate) fn fetch_history(
        &self,
        topic: &Topic,
        range: HistoryRange,
        now: Timestamp,
    ) -> Result<HistoryPage, FetchError> {
        match self.topics.get(topic) {
            Some(log) => log.fetch_history(range, now, &self.history(topic)),
            None => TopicState::empty_page(
                self.dropped_topic_epochs.get(topic).copied().unwrap_or(self.epoch),
                range,
            ),
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

    /// Whether a topic is in memory.
    pub(crate) fn contains_topic(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// The stats of a topic that a reader would see at `now`.
    pub(crate) fn topic_stats(&self, topic: &Topic, now: Timestamp) -> Option<TopicStats> {
        self.topics.get(topic).map(|log| log.stats(topic, now, &self.history(topic)))
    }

    /// The topics whose names begin with `prefix`, after `after`, ordered by name.
    pub(crate) fn list_topics<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Topic>,
        now: Timestamp,
    ) -> impl Iterator<Item = TopicStats> {
        let found = topics_with_prefix(&self.topics, prefix, after);
        found.map(move |(topic, log)| log.stats(topic, now, &self.history(topic)))
    }

    /// The names of the topics that begin with `prefix`.
    pub(crate) fn topic_names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Topic> {
        topics_with_prefix(&self.topics, prefix, None).map(|(topic, _)| topic)
    }

    /// Whether a sweep at `now` would drop anything.
    pub(crate) fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.topics.iter().any(|(topic, log)| {
            let history = self.history(topic);
            log.has_expired(now, &history) || log.is_unused(now, &history)
        })
    }
}

#[cfg(test)]
mod memory_test;

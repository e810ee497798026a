//! Topics that live in the owner's memory alone: those of `memory` namespaces.
//!
//! Their messages are in no entry. The shard's settings say which namespaces they are, and the index of
//! an entry that renews the memory ([`EntryBatch::starts_memory_epoch`](crate::Batch::renews_memory)), or that
//! changes which namespaces live there, is the epoch of the topics that begin then: higher than every
//! epoch that was given out before, in memory or on disk, by this owner or by another. An owner of
//! another term begins with nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_consensus::EntryId;
use pushonce_core::{
    Acknowledgement, Durability, FetchError, History, HistoryPage, HistoryRange, Message, Term,
    Timestamp, Topic,
};

use crate::dedupe::{Dedupe, DedupeResult};
use crate::limits::TopicCounts;
use crate::state::topics_with_prefix;
use crate::topic::{TopicState, TopicStats};
use crate::{EntryItem, ItemRejection, ShardSettings};

/// How many names of dropped topics are remembered, so that those made again begin a higher epoch and
/// nobody else has to. Past it all topics without messages do, and who listens to one is told a gap.
/// Some two mebibytes.
const DROPPED_TOPICS_MAX: usize = 16_384;

/// How many topics an entry looks at; as many as one without messages does on disk.
const SWEEP_TOPICS_PER_ENTRY: usize = 4_096;

/// What one owner keeps in memory. A replica that does not own keeps one, too, and nothing in it.
#[derive(Debug, Default)]
pub(crate) struct OwnerMemory {
    /// The term of the owner that opened it; 0 before the first.
    term: Term,
    /// The shard's settings as of the last entry.
    settings: Option<Arc<ShardSettings>>,
    /// That of every topic which has no message and is not in `dropped_topic_epochs`.
    epoch: u64,
    /// The epoch since which nothing stands in the queue that may be overtaken.
    bypass_epoch: u64,
    topics: BTreeMap<Topic, TopicState>,
    /// Of `list_topics`.
    topic_counts: TopicCounts,
    /// The epochs of topics that were dropped since it was opened.
    dropped_topic_epochs: BTreeMap<Topic, u64>,
    /// The last topic the sweep looked at.
    sweep_cursor: Option<Topic>,
    dedupe: Dedupe,
    /// The time of the newest message or entry.
    time: Timestamp,
}

/// A message that is new, for whoever listens; none for a repeat.
type NewMessage = Option<(Topic, Arc<Message>)>;

impl OwnerMemory {
    /// Whether the owner of `term` has opened it.
    pub(crate) fn is_open(&self, term: Term) -> bool {
        self.term == term
    }

    /// Whether the owner of `term` keeps `topic_stats` here.
    pub(crate) fn holds(&self, term: Term, topic: &Topic) -> bool {
        self.is_open(term) && self.memory_settings_of(topic).is_some()
    }

    /// Whether messages of topics that it holds may pass the queue.
    pub(crate) fn is_bypass_enabled(&self) -> bool {
        self.bypass_epoch == self.epoch
    }

    /// Nothing for it stands in the queue, not even what came before anybody knew that it was for it.
    pub(crate) fn enable_bypass(&mut self) {
        self.bypass_epoch = self.epoch;
    }

    /// The settings, if `topic_stats` lives in memory by them.
    fn memory_settings_of(&self, topic: &Topic) -> Option<&Arc<ShardSettings>> {
        self.settings.as_ref().filter(|settings| settings.is_in_memory(topic))
    }

    /// The time of the newest message or entry: log time, as that of [`ShardState`](crate::State).
    pub(crate) fn time(&self) -> Timestamp {
        self.time
    }

    /// Follows an entry that was applied to the state: `settings` are those of the state after it.
    /// The first entry of a term that renews the memory opens it; a later one drops what is past its age,
    /// and topics that are empty and unused.
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
        if self.settings_revision() != settings.map(|settings| settings.revision()) {
            self.change_settings(at.index, now, settings.cloned());
        }
        if starts_epoch && self.epoch != at.index {
            self.sweep(at.index, now);
            if self.dropped_topic_epochs.len() > DROPPED_TOPICS_MAX {
                self.start_epoch(at.index);
            }
        }
    }

    fn settings_revision(&self) -> Option<u64> {
        self.settings.as_ref().map(|settings| settings.revision())
    }

    /// Topics of namespaces that leave go, and every topic without messages begins a later epoch.
    fn change_settings(&mut self, index: u64, now: Timestamp, new: Option<Arc<ShardSettings>>) {
        let names = |settings: Option<&Arc<ShardSettings>>| {
            settings.map_or_else(BTreeSet::new, |settings| settings.memory_namespaces())
        };
        let (before, after) = (names(self.settings.as_ref()), names(new.as_ref()));
        let old = std::mem::replace(&mut self.settings, new);
        if before != after {
            self.topics.retain(|topic, _| after.contains(topic.namespace()));
            self.topic_counts = TopicCounts::from_topics(self.topics.keys());
            self.start_epoch(index);
        }
        for (topic, log) in &mut self.topics {
            for settings in [&old, &self.settings].into_iter().flatten() {
                log.trim(now, settings.history(topic));
            }
        }
    }

    /// Time does not go back: an entry may carry an earlier one than a message that overtook it.
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
            log.trim(now, history);
            if log.is_unused(now, history) {
                unused.push(topic.clone());
            }
            self.sweep_cursor = Some(topic.clone());
        }
        for topic in unused {
            self.topics.remove(&topic);
            self.topic_counts.remove(&topic);
            self.dropped_topic_epochs.insert(topic, index);
        }
    }

    /// What it knows of repeats, for messages that go to the log.
    pub(crate) fn dedupe_at(&mut self, time: Timestamp) -> &Dedupe {
        let time = self.advance_time(time);
        self.dedupe.advance(time);
        &self.dedupe
    }

    /// Gives a message of a topic that it holds the next place, if it is new by what this owner knows of
    /// repeats, which goes with it, as the messages do, and by what the `log` knows. Says where it stands,
    /// and what is to be handed on.
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
        log.append(time, item, &history)
    }

    fn history(&self, topic: &Topic) -> History {
        let settings = self.settings.as_ref();
        settings.map_or_else(History::default, |settings| *settings.history(topic))
    }

    /// Answers a question about the past of a topic that it holds. One without messages stands before
    /// the first of its epoch, so a reader with a position of another one gets a gap; so does
    /// one with `0:0`, for an owner before this one may have had messages.
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

    /// How many topics there are.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// How many of a namespace there are.
    pub(crate) fn topic_count(&self, namespace: &str) -> usize {
        self.topic_counts.get(namespace)
    }

    /// Whether a topic is here.
    pub(crate) fn contains_topic(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// What a reader could get of a topic at `now`.
    pub(crate) fn topic_stats(&self, topic: &Topic, now: Timestamp) -> Option<TopicStats> {
        self.topics.get(topic).map(|log| log.stats(topic, now, &self.history(topic)))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names.
    pub(crate) fn list_topics<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Topic>,
        now: Timestamp,
    ) -> impl Iterator<Item = TopicStats> {
        let found = topics_with_prefix(&self.topics, prefix, after);
        found.map(move |(topic, log)| log.stats(topic, now, &self.history(topic)))
    }

    /// Whether an entry that renews it would change anything.
    pub(crate) fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.topics.iter().any(|(topic, log)| {
            let history = self.history(topic);
            log.has_expired(now, &history) || log.is_unused(now, &history)
        })
    }
}

#[cfg(test)]
mod memory_test;

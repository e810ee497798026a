//! Topics that live in the owner's memory alone: those of `memory` namespaces.
//!
//! Their messages are in no entry. The shard's settings say which namespaces they are, and the index of
//! an entry that renews the memory ([`Batch::renews_memory`](crate::Batch::renews_memory)), or that
//! changes which namespaces live there, is the epoch of the topics that begin then: higher than every
//! epoch that was given out before, in memory or on disk, by this owner or by another. An owner of
//! another term begins with nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_consensus::At;
use pushonce_core::{
    Durability, FetchError, History, Message, Page, Placed, Term, Timestamp, Topic, Want,
};

use crate::dedupe::{Dedupe, Look};
use crate::limits::Counts;
use crate::state::named;
use crate::topic::{Info, Log};
use crate::{Item, Rejected, ShardSettings};

/// How many names of dropped topics are remembered, so that those made again begin a higher epoch and
/// nobody else has to. Past it all topics without messages do, and who listens to one is told a gap.
/// Some two mebibytes.
const RENEWED_MAX: usize = 16_384;

/// How many topics an entry looks at; as many as one without messages does on disk.
const SWEPT_PER_ENTRY: usize = 4_096;

/// What one owner keeps in memory. A replica that does not own keeps one, too, and nothing in it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The term of the owner that opened it; 0 before the first.
    term: Term,
    /// The shard's settings as of the last entry.
    settings: Option<Arc<ShardSettings>>,
    /// That of every topic which has no message and is not in `renewed`.
    epoch: u64,
    /// The epoch since which nothing stands in the queue that may be overtaken.
    passable: u64,
    topics: BTreeMap<Topic, Log>,
    /// Of `topics`.
    counts: Counts,
    /// The epochs of topics that were dropped since it was opened.
    renewed: BTreeMap<Topic, u64>,
    /// The last topic the sweep looked at.
    swept: Option<Topic>,
    dedupe: Dedupe,
    /// The time of the newest message or entry.
    time: Timestamp,
}

/// A message that is new, for whoever listens; none for a repeat.
type HandedOn = Option<(Topic, Arc<Message>)>;

impl Memory {
    /// Whether the owner of `term` has opened it.
    pub(crate) fn is_open(&self, term: Term) -> bool {
        self.term == term
    }

    /// Whether the owner of `term` keeps `topic` here.
    pub(crate) fn holds(&self, term: Term, topic: &Topic) -> bool {
        self.is_open(term) && self.settings_of(topic).is_some()
    }

    /// Whether messages of topics that it holds may pass the queue.
    pub(crate) fn is_passable(&self) -> bool {
        self.passable == self.epoch
    }

    /// Nothing for it stands in the queue, not even what came before anybody knew that it was for it.
    pub(crate) fn make_passable(&mut self) {
        self.passable = self.epoch;
    }

    /// The settings, if `topic` lives in memory by them.
    fn settings_of(&self, topic: &Topic) -> Option<&Arc<ShardSettings>> {
        self.settings.as_ref().filter(|settings| settings.is_in_memory(topic))
    }

    /// The time of the newest message or entry: log time, as that of [`State`](crate::State).
    pub(crate) fn time(&self) -> Timestamp {
        self.time
    }

    /// Follows an entry that was applied to the state: `settings` are those of the state after it.
    /// The first entry of a term that renews the memory opens it; a later one drops what is past its age,
    /// and topics that are empty and unused.
    pub(crate) fn follow(
        &mut self,
        at: At,
        now: Timestamp,
        settings: Option<&Arc<ShardSettings>>,
        renews: bool,
    ) {
        if renews && !self.is_open(at.term) {
            *self = Memory {
                term: at.term,
                settings: settings.cloned(),
                epoch: at.index,
                time: now,
                ..Memory::default()
            };
            return;
        }
        let now = self.advance(now);
        if self.revision() != settings.map(|settings| settings.revision()) {
            self.change_settings(at.index, now, settings.cloned());
        }
        if renews && self.epoch != at.index {
            self.sweep(at.index, now);
            if self.renewed.len() > RENEWED_MAX {
                self.renew(at.index);
            }
        }
    }

    fn revision(&self) -> Option<u64> {
        self.settings.as_ref().map(|settings| settings.revision())
    }

    /// Topics of namespaces that leave go, and every topic without messages begins a later epoch.
    fn change_settings(&mut self, index: u64, now: Timestamp, new: Option<Arc<ShardSettings>>) {
        let names = |settings: Option<&Arc<ShardSettings>>| {
            settings.map_or_else(BTreeSet::new, |settings| settings.in_memory())
        };
        let (before, after) = (names(self.settings.as_ref()), names(new.as_ref()));
        let old = std::mem::replace(&mut self.settings, new);
        if before != after {
            self.topics.retain(|topic, _| after.contains(topic.namespace()));
            self.counts = Counts::of(self.topics.keys());
            self.renew(index);
        }
        for (topic, log) in &mut self.topics {
            for settings in [&old, &self.settings].into_iter().flatten() {
                log.forget(now, settings.history(topic));
            }
        }
    }

    /// Time does not go back: an entry may carry an earlier one than a message that overtook it.
    fn advance(&mut self, time: Timestamp) -> Timestamp {
        self.time = self.time.max(time);
        self.time
    }

    fn renew(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.renewed.clear();
    }

    fn sweep(&mut self, index: u64, now: Timestamp) {
        let after = self.swept.take();
        let Some(settings) = &self.settings else { return };
        let mut unused = Vec::new();
        let rest = self.topics.range_mut::<str, _>(crate::state::past(after.as_ref()));
        for (topic, log) in rest.take(SWEPT_PER_ENTRY) {
            let history = settings.history(topic);
            log.forget(now, history);
            if log.is_unused(now, history) {
                unused.push(topic.clone());
            }
            self.swept = Some(topic.clone());
        }
        for topic in unused {
            self.topics.remove(&topic);
            self.counts.remove(&topic);
            self.renewed.insert(topic, index);
        }
    }

    /// What it knows of repeats, for messages that go to the log.
    pub(crate) fn dedupe_at(&mut self, time: Timestamp) -> &Dedupe {
        let time = self.advance(time);
        self.dedupe.advance(time);
        &self.dedupe
    }

    /// Gives a message of a topic that it holds the next place, if it is new by what this owner knows of
    /// repeats, which goes with it, as the messages do, and by what the `log` knows. Says where it stands,
    /// and what is to be handed on.
    pub(crate) fn take(
        &mut self,
        time: Timestamp,
        item: Item,
        log: &Dedupe,
    ) -> (Result<Placed, Rejected>, HandedOn) {
        let time = self.advance(time);
        self.dedupe.advance(time);
        let marks = match self.dedupe.look_beside(log, &item) {
            Look::Settled(outcome) => return (outcome, None),
            Look::New(marks) => marks,
        };
        let topic = item.topic.clone();
        let message = self.append(time, item);
        let (position, time) = (message.position, message.time);
        let placed = Placed { position, time, durability: Durability::Memory };
        if let Some(marks) = marks {
            self.dedupe.remember(marks, &topic, placed);
        }
        (Ok(placed), Some((topic, message)))
    }

    fn append(&mut self, time: Timestamp, item: Item) -> Arc<Message> {
        let history = self.history(&item.topic);
        let begin = || {
            self.counts.add(&item.topic);
            Log::begin(self.renewed.remove(&item.topic).unwrap_or(self.epoch), true)
        };
        let log = self.topics.entry(item.topic.clone()).or_insert_with(begin);
        log.append(time, item, &history)
    }

    fn history(&self, topic: &Topic) -> History {
        let settings = self.settings.as_ref();
        settings.map_or_else(History::default, |settings| *settings.history(topic))
    }

    /// Answers a question about the past of a topic that it holds. One without messages stands before
    /// the first of its epoch, so a reader with a position of another one gets a gap; so does
    /// one with `0:0`, for an owner before this one may have had messages.
    pub(crate) fn page(
        &self,
        topic: &Topic,
        want: Want,
        now: Timestamp,
    ) -> Result<Page, FetchError> {
        match self.topics.get(topic) {
            Some(log) => log.page(want, now, &self.history(topic)),
            None => Log::empty_page(self.renewed.get(topic).copied().unwrap_or(self.epoch), want),
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

    /// Whether a topic is here.
    pub(crate) fn has(&self, topic: &Topic) -> bool {
        self.topics.contains_key(topic)
    }

    /// What a reader could get of a topic at `now`.
    pub(crate) fn topic(&self, topic: &Topic, now: Timestamp) -> Option<Info> {
        self.topics.get(topic).map(|log| log.info(topic, now, &self.history(topic)))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names.
    pub(crate) fn topics<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Topic>,
        now: Timestamp,
    ) -> impl Iterator<Item = Info> {
        let found = named(&self.topics, prefix, after);
        found.map(move |(topic, log)| log.info(topic, now, &self.history(topic)))
    }

    /// Whether an entry that renews it would change anything.
    pub(crate) fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.topics.iter().any(|(topic, log)| {
            let history = self.history(topic);
            log.is_over(now, &history) || log.is_unused(now, &history)
        })
    }
}

#[cfg(test)]
mod memory_test;

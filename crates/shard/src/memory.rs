//! Topics that live in the owner's memory alone: those of `memory` namespaces.
//!
//! Their messages are in no entry. What is in entries is which namespaces they are
//! ([`Batch::memory`](crate::Batch::memory)), and the index of such an entry is the epoch of what begins
//! then: higher than every epoch that was given out before, in memory or on disk, by this owner or by
//! another. An owner of another term begins with nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_consensus::At;
use pushonce_core::{Durability, FetchError, Message, Page, Placed, Term, Timestamp, Topic, Want};

use crate::dedupe::{Dedupe, Look};
use crate::limits::Counts;
use crate::state::named;
use crate::topic::{Info, Log};
use crate::{Item, Rejected};

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
    /// The namespaces it is for.
    names: BTreeSet<String>,
    /// That of every topic which has no message and is not in `renewed`.
    epoch: u64,
    /// The epoch since which nothing stands in the queue that may be overtaken.
    passable: u64,
    topics: BTreeMap<Topic, Log>,
    /// Of `topics`.
    counts: Counts,
    /// The epochs of topics that were dropped since it was opened.
    renewed: BTreeMap<Topic, u64>,
    /// Topics that had a publish by way of the log meanwhile: that of somebody who did not know yet.
    /// Until the next entry, which gives them a later epoch, they are not in memory.
    strayed: BTreeSet<Topic>,
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
        self.is_open(term) && self.is_named(topic) && !self.strayed.contains(topic)
    }

    /// Whether messages of topics that it holds may pass the queue.
    pub(crate) fn is_passable(&self) -> bool {
        self.passable == self.epoch
    }

    /// Nothing for it stands in the queue, not even what came before anybody knew that it was for it.
    pub(crate) fn make_passable(&mut self) {
        self.passable = self.epoch;
    }

    fn is_named(&self, topic: &Topic) -> bool {
        self.names.contains(topic.namespace())
    }

    /// The time of the newest message or entry: log time, as that of [`State`](crate::State).
    pub(crate) fn time(&self) -> Timestamp {
        self.time
    }

    /// An entry says which namespaces its proposer keeps. Saying the same again drops what is past its
    /// age, and topics that are empty and unused.
    pub(crate) fn open(&mut self, at: At, now: Timestamp, names: BTreeSet<String>) {
        if !self.is_open(at.term) {
            *self =
                Memory { term: at.term, names, epoch: at.index, time: now, ..Memory::default() };
            return;
        }
        let now = self.advance(now);
        if names != self.names {
            self.topics.retain(|topic, _| names.contains(topic.namespace()));
            self.counts = Counts::of(self.topics.keys());
            self.names = names;
            self.renew(at.index);
            return;
        }
        let strayed = std::mem::take(&mut self.strayed);
        self.renewed.extend(strayed.into_iter().map(|topic| (topic, at.index)));
        self.sweep(at.index, now);
        if self.renewed.len() > RENEWED_MAX {
            self.renew(at.index);
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
        self.strayed.clear();
    }

    fn sweep(&mut self, index: u64, now: Timestamp) {
        let after = self.swept.take();
        let mut unused = Vec::new();
        let rest = self.topics.range_mut::<str, _>(crate::state::past(after.as_ref()));
        for (topic, log) in rest.take(SWEPT_PER_ENTRY) {
            log.forget(now);
            if log.is_unused(now) {
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

    /// A message of `topic` came by way of the log: whatever is here of the topic is of the past.
    pub(crate) fn stray(&mut self, topic: &Topic) {
        if self.is_named(topic) {
            if self.topics.remove(topic).is_some() {
                self.counts.remove(topic);
            }
            self.strayed.insert(topic.clone());
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
        let begin = || {
            self.counts.add(&item.topic);
            Log::begin(self.renewed.remove(&item.topic).unwrap_or(self.epoch), true)
        };
        self.topics.entry(item.topic.clone()).or_insert_with(begin).append(time, item)
    }

    /// Answers a question about the past of a topic that it holds. One without messages stands before
    /// the first of its epoch, so whoever was told of another is told a gap; so is whoever comes with
    /// `0:0`, for an owner before this one may have had messages.
    pub(crate) fn page(&self, topic: &Topic, want: Want) -> Result<Page, FetchError> {
        match self.topics.get(topic) {
            Some(log) => log.page(want),
            None => {
                let epoch = self.renewed.get(topic).copied().unwrap_or(self.epoch);
                Log::begin(epoch, true).page(want)
            }
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

    /// What is held of a topic.
    pub(crate) fn topic(&self, topic: &Topic) -> Option<Info> {
        self.topics.get(topic).map(|log| log.info(topic))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names.
    pub(crate) fn topics<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Topic>,
    ) -> impl Iterator<Item = Info> {
        named(&self.topics, prefix, after).map(|(topic, log)| log.info(topic))
    }

    /// Whether an entry that says the same again would change anything.
    pub(crate) fn is_sweep_due(&self, now: Timestamp) -> bool {
        !self.strayed.is_empty()
            || self.topics.values().any(|log| log.is_over(now) || log.is_unused(now))
    }
}

#[cfg(test)]
mod memory_test;

//! What a shard's entries add up to: a deterministic state machine.
//!
//! No clock, no randomness, no order that differs between nodes: replicas that applied the same
//! entries are equal, and so are their snapshots, byte for byte.

#[cfg(feature = "planted-bugs")]
mod planted;
mod recover;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::versioned::{self, Unreadable};
use pushonce_core::{
    ClusterVersion, Durability, FetchError, Message, Page, Placed, Position, Timestamp, Topic,
    VersionRange, Want,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::dedupe::{Dedupe, Look};
use crate::ended::Ended;
use crate::limits::Counts;
use crate::rules::Rules;
use crate::topic::{Info, Log};
use crate::{Batch, Item, Rejected};

/// How many topics an entry looks at beside its own, to drop messages past their age, and topics that
/// are empty and unused. A topic that nobody publishes to would be kept for ever otherwise. 16 add
/// under a microsecond to an entry that costs some hundred, and go round 50,000 topics in half a
/// minute at 100 entries a second.
pub(crate) const SWEPT_PER_ENTRY: usize = 16;

/// How many an entry without messages looks at: it is there for nothing else. Some 200 µs, during
/// which the state is locked.
pub(crate) const SWEPT_PER_EMPTY_ENTRY: usize = 4_096;

/// The topics of one shard, and what it knows of retries. A clone shares the topics, and costs some
/// pointers a topic and a known publish: it is what a snapshot is made of, while entries go on being
/// applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Log time: the highest time of any entry. Everything that depends on time is measured in it.
    time: Timestamp,
    topics: BTreeMap<Topic, Arc<Log>>,
    /// Of `topics`, counted again when a snapshot is restored.
    #[serde(skip)]
    counts: Counts,
    /// The last topic the sweep looked at; `None` before the first.
    swept: Option<Topic>,
    dedupe: Dedupe,
    /// The namespaces that live in the owner's memory.
    in_memory: BTreeSet<String>,
    /// Of each namespace that ever did, the index of the last entry that gave the owner an epoch for
    /// it, or took it back. What is here of its topics from before is of an earlier life.
    lent: BTreeMap<String, u64>,
    /// The topics that were dropped. Whoever asks for what follows a position of an earlier life of one may
    /// have missed some of it.
    ended: Ended,
    /// The highest version of an entry that was applied, or 0 for the oldest that this build supports. It
    /// stands before every snapshot.
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
    /// The next entry was written in `version`. From the first entry of a version on the shard keeps to
    /// its rules, also when an owner that has not heard of the raise writes in the version before.
    pub fn adopt(&mut self, version: ClusterVersion) {
        if version > self.version() {
            self.version = version;
            self.dedupe.keep_to(Rules::of(version));
            self.ended.keep_to(Rules::of(version));
        }
    }

    /// The highest version of an entry that was applied; the oldest that this build supports before
    /// the first.
    pub fn version(&self) -> ClusterVersion {
        self.version.max(VersionRange::SUPPORTED.min)
    }

    /// Applies the entry at `index` of the shard's log, from 1. Gives each message that is new its
    /// place, in the order of the batch.
    pub fn apply(&mut self, index: u64, batch: Batch) -> Applied {
        let Batch { time, items, memory, continues } = batch;
        if let Some(names) = memory {
            self.lend(index, names);
        }
        let rules = Rules::of(self.version());
        let swept =
            if items.is_empty() { rules.swept_per_empty_entry } else { rules.swept_per_entry };
        let mut applied = Applied::default();
        // Entries are proposed side by side, and a proposer may be behind: time does not go back.
        let time = self.time.max(time);
        self.time = time;
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

    fn take(
        &mut self,
        index: u64,
        time: Timestamp,
        item: Item,
        messages: &mut Vec<(Topic, Arc<Message>)>,
    ) -> Result<Placed, Rejected> {
        let marks = match self.dedupe.look(&item) {
            Look::Settled(outcome) => return outcome,
            Look::New(marks) => marks,
        };
        let (topic, message) = self.place(index, time, item);
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

    fn place(&mut self, index: u64, time: Timestamp, item: Item) -> (Topic, Arc<Message>) {
        let entry = self.topics.entry(item.topic.clone());
        let topic = entry.key().clone();
        let lent = self.lent.get(topic.namespace()).copied();
        let counts = &mut self.counts;
        let log = entry.or_insert_with(|| {
            counts.add(&topic);
            let reborn = lent.is_some() || self.ended.last(&topic).is_some();
            Arc::new(Log::begin(index, reborn))
        });
        if Some(log.epoch().0) <= lent {
            *log = Arc::new(Log::begin(index, true));
        }
        (topic, Arc::make_mut(log).append(time, item))
    }

    fn lend(&mut self, index: u64, names: BTreeSet<String>) {
        for name in self.in_memory.union(&names) {
            self.lent.insert(name.clone(), index);
        }
        self.in_memory = names;
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

    /// The namespaces that live in the owner's memory, as the newest entry about that has it.
    pub(crate) fn in_memory(&self) -> &BTreeSet<String> {
        &self.in_memory
    }

    /// Looks at the next `count` topics after those it looked at last; at the end, the next entry begins
    /// from the start.
    fn sweep(&mut self, index: u64, now: Timestamp, count: usize) {
        let after = self.swept.take();
        let (mut looked, mut unused) = (0, Vec::new());
        for (topic, log) in self.topics.range_mut::<str, _>(past(after.as_ref())).take(count) {
            looked += 1;
            // Only what changes is copied away from a snapshot that is being written.
            if log.is_over(now) {
                Arc::make_mut(log).forget(now);
            }
            if log.is_unused(now) {
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
        self.topics.values().any(|log| log.is_over(now) || log.is_unused(now))
    }

    /// Answers a question about the past of a topic. A topic that has never had a message, or was
    /// dropped and not made again, has an empty page with the head [`Position::ZERO`]; one that lived in
    /// an owner's memory since, an empty page that begins after that. Who asks for what follows a
    /// position that may be of a dropped topic is told of a gap, also after [`Position::ZERO`]: nobody
    /// remembers what was in it.
    ///
    /// # Errors
    /// [`FetchError::Future`] for a position that was never given out here.
    pub fn page(&self, topic: &Topic, want: Want) -> Result<Page, FetchError> {
        let lent = self.lent.get(topic.namespace()).copied();
        if let Some(log) = self.topics.get(topic).filter(|log| Some(log.epoch().0) > lent) {
            return log.page(want);
        }
        let head = Position::ZERO;
        let lost = match want {
            Want::After(_) => lent.max(self.ended.last(topic)),
            Want::Last(_) | Want::All => lent,
        };
        match (lost, want) {
            (Some(index), want) => Log::begin(index, true).page(want),
            (None, Want::After(asked)) if asked != head => Err(FetchError::Future { asked, head }),
            (None, _) => Ok(Page { messages: vec![], head, gap: None }),
        }
    }

    /// What is held of a topic.
    pub fn topic(&self, topic: &Topic) -> Option<Info> {
        self.topics.get(topic).map(|log| log.info(topic))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names; without what
    /// is left of an earlier life.
    pub fn topics<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Topic>,
    ) -> impl Iterator<Item = Info> {
        let lives = |topic: &Topic, log: &Log| {
            Some(log.epoch().0) > self.lent.get(topic.namespace()).copied()
        };
        let found = named(&self.topics, prefix, after);
        found.filter(move |(topic, log)| lives(topic, log)).map(|(topic, log)| log.info(topic))
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
    /// [`Unreadable`] when the bytes are no snapshot of a version that this build supports, with
    /// nothing after it.
    pub fn restore(snapshot: &[u8]) -> Result<State, Unreadable> {
        State::restore_within(VersionRange::SUPPORTED, snapshot)
    }

    /// As [`State::restore`], by a build that supports `supported`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn restore_within(supported: VersionRange, snapshot: &[u8]) -> Result<State, Unreadable> {
        let (version, state) = versioned::decode_within(supported, snapshot)?;
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
mod state_test;
#[cfg(test)]
mod version_test;

//! Which topics this node has interest in, and which questions are on their way up.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, FutureExt, Shared};
use pushonce_core::{FetchError, Page, Topic, Want, Watching};

use crate::audience::Changed;
use crate::feed::{Feed, lock};
use crate::metrics::Meters;
use crate::ring::Bounds;
use crate::{Retention, Upstream};

/// A power of two. Lanes meet at a lock only when they open or leave topics of one part at the same
/// time; deliveries take it for one look-up.
const PARTS: usize = 16;

type Answer = Result<Arc<Page>, FetchError>;
type Question = Shared<BoxFuture<'static, Answer>>;

pub(crate) struct Table {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
    bounds: Bounds,
    upstream: Arc<dyn Upstream>,
    changed: Changed,
    pub(crate) meters: Meters,
}

#[derive(Default)]
struct Part {
    topics: HashMap<Topic, Slot>,
    questions: HashMap<(Topic, Want), Question>,
}

struct Slot {
    feed: Arc<Feed>,
    interests: usize,
}

/// Keeps a topic's feed alive and its upstream watched. The last one to go takes both with it.
pub(crate) struct Interest {
    table: Arc<Table>,
    feed: Arc<Feed>,
}

impl Table {
    pub(crate) fn new(bounds: Bounds, upstream: Arc<dyn Upstream>) -> Table {
        Table {
            parts: Default::default(),
            hasher: RandomState::new(),
            bounds,
            upstream,
            changed: Changed::default(),
            meters: Meters::new(),
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn part(&self, topic: &Topic) -> &Mutex<Part> {
        let hash = self.hasher.hash_one(topic);
        &self.parts[hash as usize % PARTS]
    }

    /// The feed of a topic that somebody here is interested in.
    pub(crate) fn get(&self, topic: &Topic) -> Option<Arc<Feed>> {
        lock(self.part(topic)).topics.get(topic).map(|slot| Arc::clone(&slot.feed))
    }

    /// How many watch the topics where that changed since this was asked last: at most so many of them.
    pub(crate) fn watching(&self, topics_max: usize) -> Vec<(Topic, Watching)> {
        let look = |topic| {
            let feed = self.get(&topic);
            let watching = feed.as_ref().map(|feed| feed.seats.look()).unwrap_or_default();
            if let Some(feed) = feed.filter(|_| !watching.asks) {
                feed.forget_audience();
            }
            (topic, watching)
        };
        self.changed.take(topics_max).into_iter().map(look).collect()
    }

    /// Takes an interest in a topic; the first one has it watched.
    pub(crate) fn join(self: &Arc<Table>, topic: &Topic) -> Interest {
        let mut part = lock(self.part(topic));
        let feed = match part.topics.entry(topic.clone()) {
            Entry::Occupied(mut slot) => {
                slot.get_mut().interests += 1;
                Arc::clone(&slot.get().feed)
            }
            Entry::Vacant(vacant) => {
                let feed = Arc::new(Feed::new(topic.clone(), self.bounds));
                vacant.insert(Slot { feed: Arc::clone(&feed), interests: 1 });
                // Under the lock, so that the upstream hears of comings and goings in their order.
                self.upstream.watch(topic, None);
                self.meters.topics.increment(1.0);
                feed
            }
        };
        Interest { table: Arc::clone(self), feed }
    }

    fn leave(&self, topic: &Topic) {
        let mut part = lock(self.part(topic));
        let Entry::Occupied(mut slot) = part.topics.entry(topic.clone()) else { return };
        slot.get_mut().interests -= 1;
        if slot.get().interests == 0 {
            slot.remove();
            self.upstream.unwatch(topic);
            self.meters.topics.decrement(1.0);
        }
    }

    /// How much of a topic's past may be shown now.
    pub(crate) fn retention(&self, topic: &Topic) -> Retention {
        self.upstream.retention(topic)
    }

    /// Asks upstream; whoever asks the same while an answer is awaited gets the same answer.
    pub(crate) async fn fetch(&self, topic: &Topic, want: Want) -> Answer {
        let key = (topic.clone(), want);
        let question = {
            let mut part = lock(self.part(topic));
            let ask = || {
                self.meters.fetches.increment(1);
                let answer = self.upstream.fetch(topic.clone(), want);
                let (upstream, topic) = (Arc::clone(&self.upstream), topic.clone());
                let cut = move |page| Arc::new(upstream.retention(&topic).cut(page, want));
                answer.map(|answer| answer.map(cut)).boxed().shared()
            };
            part.questions.entry(key.clone()).or_insert_with(ask).clone()
        };
        let asked = Asked { table: self, key, question: &question };
        let answer = question.clone().await;
        drop(asked);
        answer
    }
}

/// Somebody waits for an answer. When it has come, or nobody waits any longer, the question is
/// forgotten, so that the next to ask gets a fresh answer.
struct Asked<'a> {
    table: &'a Table,
    key: (Topic, Want),
    question: &'a Question,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut part = lock(self.table.part(&self.key.0));
        let Some(current) = part.questions.get(&self.key) else { return };
        let mine = current.ptr_eq(self.question);
        // Two: the table's, and the one that is going.
        let alone = self.question.strong_count().is_some_and(|count| count <= 2);
        if mine && (alone || self.question.peek().is_some()) {
            part.questions.remove(&self.key);
        }
    }
}

impl Interest {
    pub(crate) fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// A session watches by way of this interest, or asks how many do.
    pub(crate) fn seat(&self, one: Watching) {
        self.feed.seats.add(one, &self.feed.topic, &self.table.changed);
    }

    /// It does not any more.
    pub(crate) fn unseat(&self, one: Watching) {
        self.feed.seats.remove(one, &self.feed.topic, &self.table.changed);
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.table.leave(&self.feed.topic);
    }
}

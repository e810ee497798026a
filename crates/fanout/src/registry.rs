//! The topics with interest on this node, and the history fetches in flight.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, FutureExt, Shared};
use pushonce_core::{FetchError, HistoryPage, HistoryRange, SubscriberCount, Topic};

use crate::audience::ChangedTopics;
use crate::metrics::FanoutMetrics;
use crate::ring::RingBounds;
use crate::topic_buffer::{TopicBuffer, lock};
use crate::warm_topics::WarmTopics;
use crate::{Retention, Upstream};

/// Number of partitions, a power of two. Lanes contend for a lock only when they add or remove topics of
/// one partition at the same time; deliveries hold it for one lookup.
const PARTITIONS: usize = 16;

type HistoryFetchResult = Result<Arc<HistoryPage>, FetchError>;
type SharedHistoryFetch = Shared<BoxFuture<'static, HistoryFetchResult>>;

pub(crate) struct TopicRegistry {
    partitions: [Mutex<RegistryPartition>; PARTITIONS],
    hasher: RandomState,
    bounds: RingBounds,
    upstream: Arc<dyn Upstream>,
    changed_topics: ChangedTopics,
    pub(crate) warm_topics: WarmTopics,
    pub(crate) metrics: FanoutMetrics,
}

#[derive(Default)]
struct RegistryPartition {
    topics: HashMap<Topic, TopicSlot>,
    fetches_in_flight: HashMap<(Topic, HistoryRange), SharedHistoryFetch>,
}

struct TopicSlot {
    buffer: Arc<TopicBuffer>,
    interest_count: usize,
}

/// Keeps a topic's buffer alive and watched upstream. Dropping the last one removes the buffer and
/// unwatches the topic.
pub(crate) struct TopicInterest {
    registry: Arc<TopicRegistry>,
    buffer: Arc<TopicBuffer>,
}

impl TopicRegistry {
    pub(crate) fn new(bounds: RingBounds, upstream: Arc<dyn Upstream>) -> TopicRegistry {
        TopicRegistry {
            partitions: Default::default(),
            hasher: RandomState::new(),
            bounds,
            upstream,
            changed_topics: ChangedTopics::default(),
            warm_topics: WarmTopics::default(),
            metrics: FanoutMetrics::new(),
        }
    }

    pub(crate) fn bounds(&self) -> RingBounds {
        self.bounds
    }

    fn partition(&self, topic: &Topic) -> &Mutex<RegistryPartition> {
        let hash = self.hasher.hash_one(topic);
        &self.partitions[hash as usize % PARTITIONS]
    }

    /// The buffer of a topic with interest.
    pub(crate) fn get(&self, topic: &Topic) -> Option<Arc<TopicBuffer>> {
        lock(self.partition(topic)).topics.get(topic).map(|slot| Arc::clone(&slot.buffer))
    }

    /// The subscriber counts of at most `topics_max` topics whose count changed since the last call.
    pub(crate) fn take_changed_counts(&self, topics_max: usize) -> Vec<(Topic, SubscriberCount)> {
        let take_count = |topic| {
            let buffer = self.get(&topic);
            let count =
                buffer.as_ref().map(|buffer| buffer.subscribers.take_count()).unwrap_or_default();
            if let Some(buffer) = buffer.filter(|_| !count.wants_audience) {
                buffer.clear_audience();
            }
            (topic, count)
        };
        self.changed_topics.take(topics_max).into_iter().map(take_count).collect()
    }

    /// Acquires interest in a topic; the first interest watches the topic.
    pub(crate) fn acquire_interest(self: &Arc<TopicRegistry>, topic: &Topic) -> TopicInterest {
        let mut partition = lock(self.partition(topic));
        let buffer = match partition.topics.entry(topic.clone()) {
            Entry::Occupied(mut slot) => {
                slot.get_mut().interest_count += 1;
                Arc::clone(&slot.get().buffer)
            }
            Entry::Vacant(vacant) => {
                let buffer = Arc::new(TopicBuffer::new(topic.clone(), self.bounds));
                vacant.insert(TopicSlot { buffer: Arc::clone(&buffer), interest_count: 1 });
                // Called under the lock, so that upstream receives watch and unwatch in order.
                self.upstream.watch(topic, None);
                self.metrics.topics.increment(1.0);
                buffer
            }
        };
        TopicInterest { registry: Arc::clone(self), buffer }
    }

    fn release_interest(&self, topic: &Topic) {
        let mut partition = lock(self.partition(topic));
        let Entry::Occupied(mut slot) = partition.topics.entry(topic.clone()) else { return };
        slot.get_mut().interest_count -= 1;
        if slot.get().interest_count == 0 {
            slot.remove();
            self.upstream.unwatch(topic);
            self.metrics.topics.decrement(1.0);
        }
    }

    /// The retention of a topic as far as this node knows it now.
    pub(crate) fn retention(&self, topic: &Topic) -> Retention {
        self.upstream.retention(topic)
    }

    /// Fetches history from upstream. Concurrent calls for the same range share one request.
    pub(crate) async fn fetch(&self, topic: &Topic, range: HistoryRange) -> HistoryFetchResult {
        let key = (topic.clone(), range);
        let fetch = {
            let mut partition = lock(self.partition(topic));
            let start_fetch = || {
                self.metrics.fetches.increment(1);
                let reply = self.upstream.fetch(topic.clone(), range);
                let (upstream, topic) = (Arc::clone(&self.upstream), topic.clone());
                let truncate =
                    move |page| Arc::new(upstream.retention(&topic).truncate_page(page, range));
                reply.map(|result| result.map(truncate)).boxed().shared()
            };
            partition.fetches_in_flight.entry(key.clone()).or_insert_with(start_fetch).clone()
        };
        let waiter = FetchWaiter { registry: self, key, fetch: &fetch };
        let result = fetch.clone().await;
        drop(waiter);
        result
    }
}

/// A caller that waits for a fetch. The fetch is removed when it has completed or its last waiter is gone,
/// so that the next call makes a new request.
struct FetchWaiter<'a> {
    registry: &'a TopicRegistry,
    key: (Topic, HistoryRange),
    fetch: &'a SharedHistoryFetch,
}

impl Drop for FetchWaiter<'_> {
    fn drop(&mut self) {
        let mut partition = lock(self.registry.partition(&self.key.0));
        let Some(current) = partition.fetches_in_flight.get(&self.key) else { return };
        let is_current = current.ptr_eq(self.fetch);
        // Two: the handle in the table and the one of this waiter.
        let is_last_waiter = self.fetch.strong_count().is_some_and(|count| count <= 2);
        if is_current && (is_last_waiter || self.fetch.peek().is_some()) {
            partition.fetches_in_flight.remove(&self.key);
        }
    }
}

impl TopicInterest {
    pub(crate) fn buffer(&self) -> &Arc<TopicBuffer> {
        &self.buffer
    }

    pub(crate) fn registry(&self) -> &Arc<TopicRegistry> {
        &self.registry
    }

    /// Counts a session that subscribes through this interest.
    pub(crate) fn add_subscriber(&self, count: SubscriberCount) {
        self.buffer.subscribers.add(count, &self.buffer.topic, &self.registry.changed_topics);
    }

    /// Removes a session from the count.
    pub(crate) fn remove_subscriber(&self, count: SubscriberCount) {
        self.buffer.subscribers.remove(count, &self.buffer.topic, &self.registry.changed_topics);
    }
}

impl Drop for TopicInterest {
    fn drop(&mut self) {
        self.registry.release_interest(&self.buffer.topic);
    }
}

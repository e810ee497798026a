//! The topics of this node: how messages come in, and who may ask for them.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    FetchError, From, Gap, Message, Options, Page, Position, Topic, Want, Watching,
};

use crate::begin::{Begun, begin};
use crate::feed::{Feed, State};
use crate::ring::{Bounds, Place};
use crate::table::Table;
use crate::{Driver, Encode, Lane, Reader, Retention, Standing, Upstream};

/// The bounds of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many messages a topic's ring keeps; whichever of the two bounds is met first forgets the
    /// oldest. 1,000, as history does. While somebody catches up it may be four times as many, or a
    /// page of history besides.
    pub ring_messages_max: usize,
    /// How many payload bytes a topic's ring keeps. 1 MiB, as history does; more in the same way.
    pub ring_bytes_max: usize,
    /// How many topics one session may subscribe to. 1,000.
    pub subscriptions_max: usize,
    /// How long a subscriber or a snapshot waits for upstream before it is refused. 5 s: longer
    /// than a failover takes, shorter than a person's patience.
    pub upstream_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            ring_messages_max: 1_000,
            ring_bytes_max: 1 << 20,
            subscriptions_max: 1_000,
            upstream_timeout: Duration::from_secs(5),
        }
    }
}

/// The fan-out of one node. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) table: Arc<Table>,
    pub(crate) encode: Arc<dyn Encode>,
}

impl Hub {
    /// A hub without topics.
    pub fn new(config: Config, upstream: Arc<dyn Upstream>, encode: Arc<dyn Encode>) -> Hub {
        let bounds = Bounds { messages: config.ring_messages_max, bytes: config.ring_bytes_max };
        let table = Arc::new(Table::new(bounds, upstream));
        Hub { shared: Arc::new(Shared { config, table, encode }) }
    }

    /// The upstream's word after [`Upstream::watch`]: the topic stands at `head`, and everything
    /// after it will be delivered. Said again with a head that was not reached here, it is a loss of
    /// what lies between; with one that was, it changes nothing.
    pub fn live(&self, topic: &Topic, head: Position) {
        self.write(topic, |feed| feed.live(head));
    }

    /// The next messages of a topic, in order. What lies at or before the head is dropped; a hole
    /// is the caller's mistake, and is told to subscribers as a gap. Never waits for a subscriber.
    pub fn deliver(&self, topic: &Topic, messages: &[Arc<Message>]) {
        self.write(topic, |feed| feed.deliver(messages));
    }

    /// What lies between the head and `gap.to` will not come: every subscriber that is not beyond
    /// is told so once, and goes on after it.
    pub fn lost(&self, topic: &Topic, gap: Gap) {
        self.write(topic, |feed| feed.lost(gap));
    }

    /// The upstream lost touch with a topic's owner: every subscriber is told, once it is level.
    pub fn stale(&self, topic: &Topic) {
        self.write(topic, |feed| feed.stand(Standing::Stale));
    }

    /// It hears of the topic again. [`Hub::live`] says so as well.
    pub fn fresh(&self, topic: &Topic) {
        self.write(topic, |feed| feed.stand(Standing::Live));
    }

    /// So many sessions of the whole cluster watch the topic: every subscriber that asked is told, once it
    /// is level.
    pub fn audience(&self, topic: &Topic, sessions: u64) {
        self.write(topic, |feed| feed.audience(sessions));
    }

    /// How many sessions watch here, and whether one of them asks how many do in the whole cluster: of
    /// at most `topics_max` of the topics where that changed since this was asked last. Costs nothing for
    /// the others.
    pub fn watching(&self, topics_max: usize) -> Vec<(Topic, Watching)> {
        self.shared.table.watching(topics_max)
    }

    /// What nobody here is interested in is dropped: it is on its way since before the last one went.
    fn write(&self, topic: &Topic, act: impl FnOnce(&Feed) -> usize) {
        if let Some(feed) = self.shared.table.get(topic) {
            self.shared.table.meters.wakes.increment(act(&feed) as u64);
        }
    }

    /// The newest `n` messages of a topic, as far as its namespace keeps them: from its ring if that has them and is not stale, else from
    /// upstream, which is asked once however many ask at the same time.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when upstream cannot be asked, or does not answer in time.
    pub async fn latest(&self, topic: &Topic, n: u32) -> Result<Page, FetchError> {
        let table = &self.shared.table;
        let retention = table.retention(topic);
        if let Some(page) = table.get(topic).and_then(|feed| newest(&feed.state(), n, &retention)) {
            return Ok(page);
        }
        let timeout = self.shared.config.upstream_timeout;
        match tokio::time::timeout(timeout, table.fetch(topic, Want::Last(n))).await {
            Ok(page) => page.map(Arc::unwrap_or_clone),
            Err(_) => Err(unanswered(timeout)),
        }
    }

    /// A subscription for a back end. Of the options only the delivery counts, and whether to be told
    /// what it passes over; none is every message, whatever the namespace has for viewers.
    ///
    /// # Errors
    /// [`FetchError::Future`] when `from` is a position that was never given out;
    /// [`FetchError::Unavailable`] when upstream cannot be asked, or does not answer in time.
    pub async fn reader(
        &self,
        topic: Topic,
        from: From,
        options: Options,
    ) -> Result<Reader, FetchError> {
        self.shared.begin(&topic, from).await.map(|begun| Reader::new(begun, &options))
    }

    /// A new lane: its handle, and what runs it. Both stay on the thread that runs the driver.
    pub fn lane(&self) -> (Lane, Driver) {
        Lane::new(self.clone())
    }
}

impl Shared {
    /// Takes an interest in `topic` and finds where `from` is, within the time a subscriber waits.
    pub(crate) async fn begin(&self, topic: &Topic, from: From) -> Result<Begun, FetchError> {
        let timeout = self.config.upstream_timeout;
        match tokio::time::timeout(timeout, begin(&self.table, topic, from)).await {
            Ok(begun) => begun,
            Err(_) => Err(unanswered(timeout)),
        }
    }
}

fn unanswered(timeout: Duration) -> FetchError {
    FetchError::Unavailable(format!("no answer within {} ms", timeout.as_millis()))
}

/// The newest `n`, as far as they may be shown, if they are all in the ring.
fn newest(state: &State, n: u32, retention: &Retention) -> Option<Page> {
    if !state.is_open() || state.standing() == Standing::Stale {
        return None;
    }
    let ring = &state.ring;
    let Place::At(index) = ring.place(ring.last(n as usize, retention)?) else { return None };
    let messages = ring.from(index).map(|entry| Arc::clone(&entry.message)).collect();
    Some(Page { messages, head: ring.head(), gap: None })
}

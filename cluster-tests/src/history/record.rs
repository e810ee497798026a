//! One thing that happened.

use std::fmt;
use std::sync::Arc;

use pushonce_core::{Durability, Gap, Key, Placed, Position};
use serde::{Deserialize, Serialize};

/// One thing that happened, as the one it happened to saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since the run began, by one monotonic clock.
    pub at: u64,
    /// Who: a publisher, a subscriber, a reader, a prober or the nemesis. Each does one thing after
    /// the other, except that a publisher may have several publishes under way.
    pub process: Name,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The name of a process, a topic or a node.
pub type Name = Arc<str>;

/// The name of a publish: unique in the run.
pub type Op = u64;

/// The hash of a payload. No two logical publishes of a run have the same payload.
pub type Hash = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run goes over to its next part.
    Phase { phase: Phase },
    /// Invoke: a publish. A retry is another one, with the same key.
    Publish {
        op: Op,
        topic: Name,
        payload: Hash,
        /// The idempotency key, if it has one.
        key: Option<Name>,
        /// Its number in its publisher's ordered stream, if it goes by one.
        sequence: Option<u64>,
        /// The node that is asked, when it is known.
        node: Option<usize>,
    },
    /// Ok: it has this place, and is as safe as this.
    Placed { op: Op, position: Position, durability: Durability },
    /// Fail: nothing happened, and nothing will.
    Refused { op: Op, why: Name },
    /// Unknown: it may have happened, or may yet.
    Unknown { op: Op, why: Name },
    /// Invoke: a subscription is asked for.
    Subscribe { topic: Name, node: Option<usize>, transport: Name, from: Begin },
    /// Ok: it is live, and the topic stood at `position`.
    Subscribed { topic: Name, position: Position, recovered: bool },
    /// Fail: it was refused, with a word to branch on.
    SubscribeRefused { topic: Name, code: Name },
    /// It is left for good, by the subscriber's own will.
    Left { topic: Name },
    /// The session is over. What comes next to this process comes by another.
    Ended { why: Name },
    /// A message came.
    Delivered { topic: Name, position: Position, payload: Hash, key: Option<Name> },
    /// The word that messages are missing.
    Gap { topic: Name, from: Position, to: Position, reason: Name },
    /// The client's own word that something was left out without a gap.
    Hole { topic: Name, why: Name },
    /// The word that everything up to `position` was sent.
    Heartbeat { topic: Name, position: Position },
    /// The word that the node is cut off from the owner of the topic, or no longer is.
    Stale { topic: Name, stale: bool },
    /// After the heal: the log of a topic as one node gives it, oldest first.
    Log { topic: Name, node: usize, transport: Name, log: Vec<Entry> },
    /// What a node says of its own health.
    Health { node: usize, ready: bool, because: Name },
    /// A node does not answer the question for its health.
    Silent { node: usize },
    /// One session sent more publishes at once than a session may have without an answer: so many were
    /// sent, and so many answered, in so many milliseconds. `closed` when the session ended before.
    Burst { node: usize, sent: usize, answered: usize, closed: bool, ms: u64 },
    /// What a node takes of the machine.
    Sample { node: usize, rss_kib: u64, descriptors: u64 },
    /// After the run: how often a node's log says that something panicked.
    Panics { node: usize, count: u64 },
    /// A node whose files were damaged has ended by itself, and this is what it said last.
    Noticed { node: usize, said: Name },
    /// Invoke: a fault is about to begin.
    FaultBegins { fault: Name, effect: Effect },
    /// The fault is there.
    FaultConfirmed { fault: Name },
    /// The fault is not there, and why.
    FaultSkipped { fault: Name, why: Name },
    /// Nobody can say whether the fault is there, and why.
    FaultIndeterminate { fault: Name, why: Name },
    /// The fault is over, and what it broke is running again.
    FaultEnds { fault: Name },
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Load without any fault: what there is to compare with.
    WarmUp,
    /// Load, and faults that come and go.
    Faults,
    /// Load, and no fault any more.
    Recovery,
    /// No publishes any more; subscribers get what is left.
    Drain,
    /// The logs are read.
    Reading,
}

/// Where a subscription was to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// With the oldest message there is.
    Start,
    /// With whatever comes next.
    Now,
    /// With the newest so many.
    Last(u32),
    /// Behind this position.
    After(Position),
}

/// What a fault does to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The nodes it is done to.
    pub nodes: Vec<usize>,
    /// Whether a connected majority of every shard's replicas and of the voters is left, so that
    /// publishing must go on.
    pub majority: bool,
    /// Nodes that run meanwhile, can be asked, and cannot commit, apply or deliver: they must say so.
    pub unready: Vec<usize>,
    /// Nodes that sleep, are cut off, or come back from a restart, and may take themselves for an owner
    /// when another is one.
    pub deposed: Vec<usize>,
    /// Nodes whose files were changed behind their backs.
    pub damaged: Vec<usize>,
    /// More load than the cluster can bear.
    pub flood: bool,
}

/// A message in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// What it says.
    pub payload: Hash,
    /// Its key, if it has one.
    pub key: Option<Name>,
}

impl Effect {
    /// Done to these nodes, and a majority is left without them.
    pub fn on(nodes: Vec<usize>) -> Effect {
        Effect { nodes, majority: true, ..Effect::default() }
    }

    /// These nodes end and come back with the data they had.
    pub fn restart(nodes: Vec<usize>) -> Effect {
        Effect { deposed: nodes.clone(), ..Effect::on(nodes) }
    }

    /// This effect and another one at the same time.
    pub fn and(mut self, other: Effect) -> Effect {
        self.nodes.extend(other.nodes);
        self.majority &= other.majority;
        self.unready.extend(other.unready);
        self.deposed.extend(other.deposed);
        self.damaged.extend(other.damaged);
        self.flood |= other.flood;
        self
    }
}

impl Event {
    /// An acknowledgement, as an event.
    pub fn placed(op: Op, placed: Placed) -> Event {
        Event::Placed { op, position: placed.position, durability: placed.durability }
    }

    /// A gap, as an event.
    pub fn gap(topic: &Name, gap: &Gap) -> Event {
        let (from, to) = (gap.from, gap.to);
        Event::Gap { topic: topic.clone(), from, to, reason: gap.reason.as_str().into() }
    }
}

impl Entry {
    /// A message, as a log has it.
    pub fn of(message: &pushonce_core::Message) -> Entry {
        Entry {
            position: message.position,
            payload: hash(&message.payload),
            key: message.key.as_ref().map(key),
        }
    }
}

/// The hash of a payload.
pub fn hash(payload: &[u8]) -> Hash {
    xxhash_rust::xxh3::xxh3_64(payload)
}

/// A key, as a record has it.
pub fn key(key: &Key) -> Name {
    key.as_str().into()
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, process) = (self.at as f64 / 1e6, &self.process);
        write!(f, "{at:>10.6} s  {process:<14} ")?;
        match &self.event {
            // Its ends say enough; the file has the rest.
            Event::Log { topic, node, transport, log } => {
                let end = |entry: Option<&Entry>| entry.map_or(Position::ZERO, |e| e.position);
                let (first, last) = (end(log.first()), end(log.last()));
                write!(f, "Log {{ {topic}, node {node} over {transport}: {first} to {last} }}")
            }
            event => write!(f, "{event:?}"),
        }
    }
}

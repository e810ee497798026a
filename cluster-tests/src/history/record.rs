//! One thing that happened.

use std::fmt;
use std::sync::Arc;

use pushonce_core::{Acknowledgement, Durability, Gap, MessageKey, Position};
use serde::{Deserialize, Serialize};

/// One thing that happened, as the one it happened to saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Microseconds since the run began, by one monotonic clock.
    pub time_us: u64,
    /// Who: a publisher, a subscriber, a reader, a prober or the nemesis. Each does one thing after
    /// the other, except that a publisher may have several publishes under way.
    pub process: SharedStr,
    /// What.
    #[serde(flatten)]
    pub event: HistoryEvent,
}

/// The name of a process, a topic or a node.
pub type SharedStr = Arc<str>;

/// The name of a publish: unique in the run.
pub type OpId = u64;

/// The hash of a payload. No two logical publishes of a run have the same payload.
pub type PayloadHash = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum HistoryEvent {
    /// The run goes over to its next part.
    Phase { phase: RunPhase },
    /// Invoke: a publish. A retry is another one, with the same key.
    Publish {
        op: OpId,
        topic: SharedStr,
        payload: PayloadHash,
        /// The idempotency key, if it has one.
        key: Option<SharedStr>,
        /// Its number in its publisher's ordered stream, if it goes by one.
        sequence: Option<u64>,
        /// The node that is asked, when it is known.
        node: Option<usize>,
    },
    /// Ok: it has this place, and is as safe as this.
    Acknowledged { op: OpId, position: Position, durability: Durability },
    /// Fail: nothing happened, and nothing will.
    Rejected { op: OpId, reason: SharedStr },
    /// Unknown: it may have happened, or may yet.
    Unknown { op: OpId, reason: SharedStr },
    /// Invoke: a subscription is asked for.
    Subscribe { topic: SharedStr, node: Option<usize>, transport: SharedStr, from: SubscribeStart },
    /// Ok: it is live, and the topic stood at `position`.
    Subscribed { topic: SharedStr, position: Position, recovered: bool },
    /// Fail: it was refused, with a word to branch on.
    SubscribeRejected { topic: SharedStr, code: SharedStr },
    /// It is left for good, by the subscriber's own will.
    Unsubscribed { topic: SharedStr },
    /// The session is over. What comes next to this process comes by another.
    SessionEnded { reason: SharedStr },
    /// A message came.
    Delivered { topic: SharedStr, position: Position, payload: PayloadHash, key: Option<SharedStr> },
    /// The word that messages are missing.
    Gap { topic: SharedStr, from: Position, to: Position, reason: SharedStr },
    /// The client's own word that something was left out without a gap.
    UnsignalledGap { topic: SharedStr, reason: SharedStr },
    /// The word that everything up to `position` was sent.
    Heartbeat { topic: SharedStr, position: Position },
    /// The word that the node is cut off from the owner of the topic, or no longer is.
    Stale { topic: SharedStr, stale: bool },
    /// After the heal: the log of a topic as one node gives it, oldest first.
    Log { topic: SharedStr, node: usize, transport: SharedStr, log: Vec<LoggedMessage> },
    /// What a node says of its own health.
    Health { node: usize, ready: bool, reason: SharedStr },
    /// A node does not answer the question for its health.
    Unreachable { node: usize },
    /// One session sent more publishes at once than a session may have without an answer: so many were
    /// sent, and so many answered, in so many milliseconds. `closed` when the session ended before.
    Burst { node: usize, sent: usize, answered: usize, closed: bool, ms: u64 },
    /// What a node takes of the machine.
    ResourceSample { node: usize, rss_kib: u64, descriptors: u64 },
    /// After the run: how often a node's log says that something panicked.
    Panics { node: usize, count: u64 },
    /// A node whose files were damaged has ended by itself, and this is what it said last.
    DamagedNodeExited { node: usize, last_log_line: SharedStr },
    /// Invoke: a fault is about to begin.
    FaultInjected { fault: SharedStr, effect: FaultEffect },
    /// The fault is there.
    FaultActive { fault: SharedStr },
    /// The fault is not there, and why.
    FaultNotActive { fault: SharedStr, reason: SharedStr },
    /// Nobody can say whether the fault is there, and why.
    FaultIndeterminate { fault: SharedStr, reason: SharedStr },
    /// The fault is over, and what it broke is running again.
    FaultHealed { fault: SharedStr },
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// Load without any fault: what there is to compare with.
    WarmUp,
    /// Load, and faults that come and go.
    Faults,
    /// Load, and no fault any more.
    Recovery,
    /// No publishes any more; subscribers get what is left.
    Drain,
    /// The logs are read.
    ReadLogs,
}

/// Where a subscription was to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscribeStart {
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
pub struct FaultEffect {
    /// The nodes it is done to.
    pub nodes: Vec<usize>,
    /// Whether a connected majority of every shard's replicas and of the voters is left, so that
    /// publishing must go on.
    pub has_majority: bool,
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
pub struct LoggedMessage {
    /// Its place.
    pub position: Position,
    /// What it says.
    pub payload: PayloadHash,
    /// Its key, if it has one.
    pub key: Option<SharedStr>,
}

impl FaultEffect {
    /// Done to these nodes, and a majority is left without them.
    pub fn on_nodes(nodes: Vec<usize>) -> FaultEffect {
        FaultEffect { nodes, has_majority: true, ..FaultEffect::default() }
    }

    /// These nodes end and come back with the data they had.
    pub fn restart(nodes: Vec<usize>) -> FaultEffect {
        FaultEffect { deposed: nodes.clone(), ..FaultEffect::on_nodes(nodes) }
    }

    /// This effect and another one at the same time.
    pub fn combine(mut self, other: FaultEffect) -> FaultEffect {
        self.nodes.extend(other.nodes);
        self.has_majority &= other.has_majority;
        self.unready.extend(other.unready);
        self.deposed.extend(other.deposed);
        self.damaged.extend(other.damaged);
        self.flood |= other.flood;
        self
    }
}

impl HistoryEvent {
    /// An acknowledgement, as an event.
    pub fn acknowledged(op: OpId, acknowledgement: Acknowledgement) -> HistoryEvent {
        HistoryEvent::Acknowledged {
            op,
            position: acknowledgement.position,
            durability: acknowledgement.durability,
        }
    }

    /// A gap, as an event.
    pub fn gap(topic: &SharedStr, gap: &Gap) -> HistoryEvent {
        let (from, to) = (gap.from, gap.to);
        HistoryEvent::Gap { topic: topic.clone(), from, to, reason: gap.reason.as_str().into() }
    }
}

impl LoggedMessage {
    /// A message, as a log has it.
    pub fn from_message(message: &pushonce_core::Message) -> LoggedMessage {
        LoggedMessage {
            position: message.position,
            payload: hash(&message.payload),
            key: message.key.as_ref().map(key_name),
        }
    }
}

/// The hash of a payload.
pub fn hash(payload: &[u8]) -> PayloadHash {
    xxhash_rust::xxh3::xxh3_64(payload)
}

/// A key, as a record has it.
pub fn key_name(key: &MessageKey) -> SharedStr {
    key.as_str().into()
}

impl fmt::Display for HistoryRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, process) = (self.time_us as f64 / 1e6, &self.process);
        write!(f, "{at:>10.6} s  {process:<14} ")?;
        match &self.event {
            // Its ends say enough; the file has the rest.
            HistoryEvent::Log { topic, node, transport, log } => {
                let position_of =
                    |entry: Option<&LoggedMessage>| entry.map_or(Position::ZERO, |e| e.position);
                let (first, last) = (position_of(log.first()), position_of(log.last()));
                write!(f, "Log {{ {topic}, node {node} over {transport}: {first} to {last} }}")
            }
            event => write!(f, "{event:?}"),
        }
    }
}

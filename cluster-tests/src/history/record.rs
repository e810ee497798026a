//! The records of a history.

use std::fmt;
use std::sync::Arc;

use pushonce_core::{Acknowledgement, Durability, Gap, MessageKey, Position};
use serde::{Deserialize, Serialize};

/// One event, as the process that it concerns observed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Microseconds since the start of the run, by one monotonic clock.
    pub time_us: u64,
    /// The process: a publisher, a subscriber, a reader, a prober or the nemesis. Each performs one operation
    /// at a time, except that a publisher may have several publishes in flight.
    pub process: SharedStr,
    /// The event.
    #[serde(flatten)]
    pub event: HistoryEvent,
}

/// The shared name of a process, a topic or a node.
pub type SharedStr = Arc<str>;

/// The identifier of a publish, unique in the run.
pub type OpId = u64;

/// The hash of a payload. No two logical publishes of a run have the same payload.
pub type PayloadHash = u64;

/// An event of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum HistoryEvent {
    /// The run enters its next phase.
    Phase { phase: RunPhase },
    /// Invoke: a publish. A retry is a publish of its own, with the same key.
    Publish {
        op: OpId,
        topic: SharedStr,
        payload: PayloadHash,
        /// The idempotency key, if it has one.
        key: Option<SharedStr>,
        /// The number in the publisher's ordered stream, if it uses one.
        sequence: Option<u64>,
        /// The node that receives the request, if it is known.
        node: Option<usize>,
    },
    /// Ok: the message has this position and this durability.
    Acknowledged { op: OpId, position: Position, durability: Durability },
    /// Fail: the message was not published and will not be.
    Rejected { op: OpId, reason: SharedStr },
    /// Unknown: the message may have been published, or may still be.
    Unknown { op: OpId, reason: SharedStr },
    /// Invoke: a subscription is requested.
    Subscribe { topic: SharedStr, node: Option<usize>, transport: SharedStr, from: SubscribeStart },
    /// Ok: the subscription is live, and the topic's newest position was `position`.
    Subscribed { topic: SharedStr, position: Position, recovered: bool },
    /// Fail: the subscription was rejected with an error code.
    SubscribeRejected { topic: SharedStr, code: SharedStr },
    /// The subscriber ended the subscription itself.
    Unsubscribed { topic: SharedStr },
    /// The session ended. Later events of this process belong to another session.
    SessionEnded { reason: SharedStr },
    /// A message was received.
    Delivered { topic: SharedStr, position: Position, payload: PayloadHash, key: Option<SharedStr> },
    /// A gap was received: these messages are missing.
    Gap { topic: SharedStr, from: Position, to: Position, reason: SharedStr },
    /// The client reports that messages were left out without a gap.
    UnsignalledGap { topic: SharedStr, reason: SharedStr },
    /// A heartbeat was received: everything up to `position` was sent.
    Heartbeat { topic: SharedStr, position: Position },
    /// The node reported that it is disconnected from the owner of the topic, or connected again.
    Stale { topic: SharedStr, stale: bool },
    /// After recovery: the log of a topic as one node returns it, oldest message first.
    Log { topic: SharedStr, node: usize, transport: SharedStr, log: Vec<LoggedMessage> },
    /// A node reported its health.
    Health { node: usize, ready: bool, reason: SharedStr },
    /// A node did not answer the health check.
    Unreachable { node: usize },
    /// One session sent `sent` publishes at once, more than a session may have in flight, and received
    /// `answered` replies within `ms` milliseconds. `closed` if the session ended before the last reply.
    Burst { node: usize, sent: usize, answered: usize, closed: bool, ms: u64 },
    /// The memory and the descriptors that a node uses.
    ResourceSample { node: usize, rss_kib: u64, descriptors: u64 },
    /// After the run: the number of panics in a node's log.
    Panics { node: usize, count: u64 },
    /// A node with damaged files exited by itself, with this last log line.
    DamagedNodeExited { node: usize, last_log_line: SharedStr },
    /// Invoke: a fault is about to be injected.
    FaultInjected { fault: SharedStr, effect: FaultEffect },
    /// The fault was confirmed.
    FaultActive { fault: SharedStr },
    /// The fault did not take place, for this reason.
    FaultNotActive { fault: SharedStr, reason: SharedStr },
    /// Whether the fault took place could not be determined, for this reason.
    FaultIndeterminate { fault: SharedStr, reason: SharedStr },
    /// The fault is over, and everything that it stopped runs again.
    FaultHealed { fault: SharedStr },
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// Load without a fault, as the reference.
    WarmUp,
    /// Load while faults are injected and healed.
    Faults,
    /// Load without a fault.
    Recovery,
    /// No publishes; subscribers receive the remaining messages.
    Drain,
    /// The logs are read from every node.
    ReadLogs,
}

/// The requested start of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscribeStart {
    /// The oldest message in the history.
    Start,
    /// The next message.
    Now,
    /// The newest `n` messages.
    Last(u32),
    /// The message after this position.
    After(Position),
}

/// The effect of a fault on the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultEffect {
    /// The nodes that the fault affects.
    pub nodes: Vec<usize>,
    /// Whether a connected majority of the voters and of every shard's replicas remains, so that publishing
    /// must continue.
    pub has_majority: bool,
    /// Nodes that run and answer, but cannot commit, apply or deliver. They must report that they are not
    /// ready.
    pub unready: Vec<usize>,
    /// Nodes that are paused, partitioned or restarted, and may consider themselves an owner while another
    /// node is the owner.
    pub deposed: Vec<usize>,
    /// Nodes whose files were modified from outside.
    pub damaged: Vec<usize>,
    /// Whether the load exceeds the capacity of the cluster.
    pub flood: bool,
}

/// A message in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedMessage {
    /// The position.
    pub position: Position,
    /// The hash of the payload.
    pub payload: PayloadHash,
    /// The key, if the message has one.
    pub key: Option<SharedStr>,
}

impl FaultEffect {
    /// An effect on these nodes that leaves a majority.
    pub fn on_nodes(nodes: Vec<usize>) -> FaultEffect {
        FaultEffect { nodes, has_majority: true, ..FaultEffect::default() }
    }

    /// These nodes exit and restart with their data.
    pub fn restart(nodes: Vec<usize>) -> FaultEffect {
        FaultEffect { deposed: nodes.clone(), ..FaultEffect::on_nodes(nodes) }
    }

    /// The combination of this effect and another one at the same time.
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
    /// The event of an acknowledgement.
    pub fn acknowledged(op: OpId, acknowledgement: Acknowledgement) -> HistoryEvent {
        HistoryEvent::Acknowledged {
            op,
            position: acknowledgement.position,
            durability: acknowledgement.durability,
        }
    }

    /// The event of a gap.
    pub fn gap(topic: &SharedStr, gap: &Gap) -> HistoryEvent {
        let (from, to) = (gap.from, gap.to);
        HistoryEvent::Gap { topic: topic.clone(), from, to, reason: gap.reason.as_str().into() }
    }
}

impl LoggedMessage {
    /// The log entry of a message.
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

/// The name of a key in a record.
pub fn key_name(key: &MessageKey) -> SharedStr {
    key.as_str().into()
}

impl fmt::Display for HistoryRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, process) = (self.time_us as f64 / 1e6, &self.process);
        write!(f, "{at:>10.6} s  {process:<14} ")?;
        match &self.event {
            // The first and the last position are enough here; the file has all of them.
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

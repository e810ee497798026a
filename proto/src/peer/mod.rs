//! The contract between nodes as domain types: the frames of a link, and the addresses of a node.

mod addresses;
mod outcome;
mod read;
mod topics;
mod write;

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    Acknowledgement, FetchError, Gap, HistoryRange, Message, NodeId, OwnershipClaim, Position,
    Publish, PublishError, ShardId, SubscriberCount, Term, Timestamp, Topic,
};

use crate::pb::peer::v1 as pb;

/// A frame of a link between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFrame {
    /// A node leads a shard: the sender, or a node of whose leadership the sender's replica knows.
    Claim(OwnershipClaim),
    /// The sender leads a shard that another node has claimed.
    ClaimRefuted {
        /// The shard.
        shard: ShardId,
        /// The node that claimed it.
        owner: NodeId,
        /// The term of its claim.
        term: Term,
    },
    /// A publish for a topic whose shard the receiver owns.
    Publish {
        /// The id that the response repeats.
        id: u64,
        /// The message, which the sender has already validated.
        publish: Publish,
    },
    /// The outcome of a publish.
    Published {
        /// The id of the publish.
        id: u64,
        /// Whether the publish was acknowledged or rejected, or its outcome is unknown.
        outcome: Result<Acknowledgement, PublishError>,
    },
    /// The sender wants to receive a topic.
    Interest {
        /// The number of the topic in this direction of the link; never used twice on one link.
        number: u32,
        /// The topic.
        topic: Topic,
        /// The newest position that the sender has; `None` if it wants no history.
        after: Option<Position>,
    },
    /// The sender no longer wants to receive a topic.
    Withdraw {
        /// The number of the interest.
        number: u32,
    },
    /// The response to an interest, before the first delivery of the topic.
    Interested {
        /// The number of the interest.
        number: u32,
        /// The position after which deliveries begin; `None` if the sender is not or no longer upstream.
        head: Option<Position>,
    },
    /// Messages of a topic, in order.
    Deliver {
        /// The number of the interest.
        number: u32,
        /// Consecutive messages, oldest first.
        messages: Vec<Arc<Message>>,
        /// The time since the owner committed the oldest of them, to the microsecond; `None` for messages
        /// that were read from history.
        age: Option<Duration>,
    },
    /// Messages that the receiver waits for no longer exist; deliveries continue after them.
    Lost {
        /// The number of the interest.
        number: u32,
        /// The range of the missing messages and the reason.
        gap: Gap,
    },
    /// A request for the history of a topic.
    Fetch {
        /// The id that every part of the response repeats.
        id: u64,
        /// The topic.
        topic: Topic,
        /// The requested range.
        range: HistoryRange,
    },
    /// A part of the response to a fetch.
    Fetched {
        /// The id of the fetch.
        id: u64,
        /// The part of the response.
        part: FetchedPart,
    },
    /// A heartbeat, sent every second so that the receiver detects a broken link.
    Heartbeat {
        /// The newest position of each topic that changed since the last heartbeat, by interest number.
        heads: Vec<(u32, Position)>,
        /// The shards of which the sender may lack messages, and the time since it last had all of them, to
        /// the millisecond.
        stale_shards: Vec<(ShardId, Duration)>,
        /// The time of the sender's clock.
        clock: Timestamp,
        /// The newest log time known to the sender of each shard that the receiver may get from it.
        log_times: Vec<(ShardId, Timestamp)>,
        /// From which both sides measure the round trip of the link.
        timing: HeartbeatTiming,
    },
    /// The changed counts of the sessions that the sender represents.
    SubscriberCounts {
        /// Counts by interest number. Each count replaces the previous one; the initial count is 0.
        counts: Vec<(u32, SubscriberCount)>,
    },
    /// The changed audiences, in sessions of the whole cluster, of the topics whose audience the receiver
    /// requested.
    Audience {
        /// Sessions by interest number.
        counts: Vec<(u32, u64)>,
    },
    /// The sender is shutting down; the leadership of a shard must not be transferred to it.
    Stopping,
}

/// The times in a heartbeat, to the microsecond. Empty from a node that does not measure round trips, and in
/// all but the first frame of a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatTiming {
    /// When the sender made the heartbeat, since an origin of its choice.
    pub sent: Option<Duration>,
    /// The newest heartbeat of the receiver, unless it was echoed before.
    pub echo: Option<HeartbeatEcho>,
}

/// The heartbeat that a heartbeat answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatEcho {
    /// Its [`HeartbeatTiming::sent`].
    pub sent: Duration,
    /// The time from its arrival to the answer.
    pub held: Duration,
}

/// A part of the response to a fetch. All parts together form one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedPart {
    /// Messages, with more parts to follow.
    More(Vec<Arc<Message>>),
    /// The last part.
    Done {
        /// The last messages of the page.
        messages: Vec<Arc<Message>>,
        /// The newest position of the topic.
        head: Position,
        /// The requested messages that no longer exist, if any.
        gap: Option<Gap>,
    },
    /// The fetch failed, and no message follows.
    Failed(FetchError),
}

/// Bytes of a message on a link besides its payload: position, time, content type, key, tags.
pub const MESSAGE_OVERHEAD_BYTES: usize = 64;
/// Maximum bytes of any other frame in practice: a topic and some numbers.
const FRAME_OVERHEAD_BYTES: usize = 64;

impl PeerFrame {
    /// Approximate length of the frame on the wire in bytes, for batching and credit.
    pub fn size_hint(&self) -> usize {
        let messages_size = |messages: &[Arc<Message>]| {
            messages
                .iter()
                .map(|message| message.payload.len() + MESSAGE_OVERHEAD_BYTES)
                .sum::<usize>()
        };
        FRAME_OVERHEAD_BYTES
            + match self {
                PeerFrame::Publish { publish, .. } => {
                    publish.topic.as_str().len() + publish.payload.len()
                }
                PeerFrame::Interest { topic, .. } | PeerFrame::Fetch { topic, .. } => {
                    topic.as_str().len()
                }
                PeerFrame::Deliver { messages, .. } => messages_size(messages),
                PeerFrame::Fetched { part, .. } => match part {
                    FetchedPart::More(messages) | FetchedPart::Done { messages, .. } => {
                        messages_size(messages)
                    }
                    FetchedPart::Failed(_) => 0,
                },
                PeerFrame::Heartbeat { heads, stale_shards, log_times, .. } => {
                    heads.len() * 24 + stale_shards.len() * 8 + log_times.len() * 16
                }
                PeerFrame::SubscriberCounts { counts } => counts.len() * 16,
                PeerFrame::Audience { counts } => counts.len() * 16,
                PeerFrame::Claim(claim) => (claim.voters.len() + claim.learners.len()) * 8,
                PeerFrame::Stopping
                | PeerFrame::ClaimRefuted { .. }
                | PeerFrame::Published { .. }
                | PeerFrame::Withdraw { .. }
                | PeerFrame::Interested { .. }
                | PeerFrame::Lost { .. } => 0,
            }
    }
}

impl From<Position> for pb::Position {
    fn from(position: Position) -> pb::Position {
        pb::Position { epoch: position.epoch.0, offset: position.offset.0 }
    }
}

impl From<pb::Position> for Position {
    fn from(position: pb::Position) -> Position {
        Position::new(position.epoch, position.offset)
    }
}

#[cfg(test)]
mod tests;

//! The domain types of the services between nodes: the frames of a link, and joining a cluster.

mod join;
mod outcome;
mod read;
mod topics;
mod write;

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    Acknowledgement, ClusterId, FetchError, Gap, HistoryRange, Message, NodeId, OwnershipClaim,
    Position, Publish, PublishError, ShardId, SubscriberCount, Timestamp, Topic, VersionOffer,
};

use crate::pb::peer::v1 as pb;

pub use join::{JoinRequest, MemberIdentity};

/// A frame of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFrame {
    /// The first of each side.
    Hello {
        /// The sender's cluster.
        cluster: ClusterId,
        /// The sender.
        node: NodeId,
        /// The node that the sender expects, if it knows.
        expected_peer: Option<NodeId>,
        /// The cluster versions that it supports and writes; `None` when it names none.
        versions: Option<VersionOffer>,
    },
    /// I lead this shard.
    Claim(OwnershipClaim),
    /// A publish for a topic whose shard the receiver owns.
    Publish {
        /// Repeated in the answer.
        id: u64,
        /// The message, already checked by the sender.
        publish: Publish,
    },
    /// How a publish ended.
    Published {
        /// Of the publish.
        id: u64,
        /// Acknowledged, refused or unknown.
        outcome: Result<Acknowledgement, PublishError>,
    },
    /// Send me this topic from now on.
    Interest {
        /// Names the topic in this direction of the link, never used twice on one link.
        number: u32,
        /// Which topic.
        topic: Topic,
        /// The position that the sender has reached; `None` when no history is requested.
        after: Option<Position>,
    },
    /// Send it no more.
    Withdraw {
        /// Of the interest.
        number: u32,
    },
    /// The answer to an interest, before anything of the topic is delivered.
    Interested {
        /// Of the interest.
        number: u32,
        /// Deliveries begin after this position. `None`: the sender is not upstream, or not any more.
        head: Option<Position>,
    },
    /// Messages of a topic, in order.
    Deliver {
        /// Of the interest.
        number: u32,
        /// Neighbours, oldest first.
        messages: Vec<Arc<Message>>,
    },
    /// What the receiver waits for is no more; deliveries go on after it.
    Lost {
        /// Of the interest.
        number: u32,
        /// Which messages, and why.
        gap: Gap,
    },
    /// A question about the past of a topic.
    Fetch {
        /// Repeated in every part of the answer.
        id: u64,
        /// Which topic.
        topic: Topic,
        /// Which messages.
        range: HistoryRange,
    },
    /// A part of the answer.
    Fetched {
        /// Of the question.
        id: u64,
        /// The part.
        part: FetchedPart,
    },
    /// Said every second, so that silence is noticed.
    Heartbeat {
        /// By number of the interest: where each topic stands that changed since the last one.
        heads: Vec<(u32, Position)>,
        /// The shards of which the sender cannot say that it has everything, and how long ago it
        /// last could, to the millisecond.
        stale_shards: Vec<(ShardId, Duration)>,
        /// What the sender's clock shows.
        clock: Timestamp,
        /// The newest log time that the sender knows of each shard that the receiver may get from it.
        log_times: Vec<(ShardId, Timestamp)>,
    },
    /// How many sessions the sender speaks for, where that changed.
    SubscriberCounts {
        /// By number of the interest. Each count replaces the one before; at first it is 0.
        counts: Vec<(u32, SubscriberCount)>,
    },
    /// How many sessions of the whole cluster watch a topic of which the receiver wants to know, where
    /// that changed.
    Audience {
        /// By number of the interest.
        counts: Vec<(u32, u64)>,
    },
    /// The sender is being stopped, and is not to be handed the lead of a shard.
    Stopping,
}

/// A part of the answer to a fetch. The parts together are one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedPart {
    /// More follows.
    More(Vec<Arc<Message>>),
    /// The last.
    Done {
        /// The end of the page.
        messages: Vec<Arc<Message>>,
        /// The newest position of the topic.
        head: Position,
        /// What was asked for and is no more.
        gap: Option<Gap>,
    },
    /// Nothing was read.
    Failed(FetchError),
}

/// What a message costs on a link beside its payload: position, time, content type, key, tags.
pub const MESSAGE_OVERHEAD_BYTES: usize = 64;
/// What any other frame costs at most in practice: a topic and some numbers.
const FRAME_OVERHEAD_BYTES: usize = 64;

impl PeerFrame {
    /// About how many bytes the frame has on the wire: for packing and for credit, not exact.
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
                PeerFrame::Heartbeat { heads, stale_shards: doubts, clock: _, log_times } => {
                    heads.len() * 24 + doubts.len() * 8 + log_times.len() * 16
                }
                PeerFrame::SubscriberCounts { counts } => counts.len() * 16,
                PeerFrame::Audience { counts } => counts.len() * 16,
                PeerFrame::Claim(claim) => (claim.voters.len() + claim.learners.len()) * 8,
                PeerFrame::Hello { .. }
                | PeerFrame::Stopping
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

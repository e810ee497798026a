//! Start positions, history requests and gaps.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Message, Position, UnavailableReason};

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// After the newest message.
    #[default]
    Now,
    /// With the newest `n` messages of history, then live.
    Last(u32),
    /// After this position.
    Position(Position),
    /// With the oldest message in history.
    Start,
}

/// The reply to a subscriber, before the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeAck {
    /// The newest position of the topic at the time of the reply; [`Position::ZERO`] when it never had a
    /// message.
    pub position: Position,
    /// Whether everything that was requested follows. If not, a gap comes first.
    pub recovered: bool,
}

/// A request for history, as it is forwarded from an edge to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HistoryRange {
    /// Everything after this position.
    After(Position),
    /// The newest `n` messages.
    Last(u32),
    /// The whole history.
    All,
}

/// The reply to a [`HistoryRange`]: consecutive messages in order, ending at `head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// The requested messages, oldest first, without a hole between them or after the last.
    pub messages: Vec<Arc<Message>>,
    /// The newest position of the topic; [`Position::ZERO`] when it never had a message.
    pub head: Position,
    /// The requested messages that history no longer has, if any.
    pub gap: Option<Gap>,
}

/// An event of a topic, in the order of delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicEvent {
    /// The next message.
    Message(Arc<Message>),
    /// A hole before the next message.
    Gap(Gap),
    /// The node lost contact with the topic's owner. Everything up to this position was delivered; newer
    /// messages may exist that the node does not know, until [`TopicEvent::Live`].
    Stale(Position),
    /// Contact with the topic's owner was restored. Everything up to this position was delivered; missed
    /// messages follow.
    Live(Position),
}

/// Why a history request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The position was never assigned: it is forged, from another cluster, or corrupt.
    #[error(
        "position {requested} was never assigned; the newest is {head}; start from \"start\" or \"now\""
    )]
    FuturePosition {
        /// The requested position.
        requested: Position,
        /// The newest position of the topic.
        head: Position,
    },
    /// No node can answer the request at present.
    #[error("the topic's owner is unavailable: {0}; retry after a pause")]
    Unavailable(#[from] UnavailableReason),
}

/// A hole, delivered in place of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// First missing position.
    pub from: Position,
    /// Last missing position. Its epoch is later than that of `from` when continuity was lost.
    pub to: Position,
    /// Why the messages are missing.
    pub reason: GapReason,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The messages are no longer in history.
    Expired,
    /// The topic began a new epoch: the missed messages are unknown.
    Epoch,
    /// The subscriber was slower than the topic, and history moved past its cursor.
    Slow,
    /// The subscription delivers only the newest messages.
    Conflated,
}

impl GapReason {
    /// The name in frames.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::Expired => "expired",
            GapReason::Epoch => "epoch",
            GapReason::Slow => "slow",
            GapReason::Conflated => "conflated",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ({})", self.from, self.to, self.reason.as_str())
    }
}

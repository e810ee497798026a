//! Where a reader begins, what it asks for, and how a hole is told.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Message, Position};

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// With whatever comes next.
    #[default]
    Now,
    /// With the newest `n` of the past, then live.
    Last(u32),
    /// With everything after this position.
    Position(Position),
    /// With the oldest message that history still has.
    Start,
}

/// A question about the past, as it climbs from an edge to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HistoryRange {
    /// Everything after this position.
    After(Position),
    /// The newest `n`.
    Last(u32),
    /// Everything there is.
    All,
}

/// The answer: neighbouring messages in order, ending at `head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// The messages asked for, oldest first, without a hole between them or after the last.
    pub messages: Vec<Arc<Message>>,
    /// The newest position of the topic; [`Position::ZERO`] when it has never had a message.
    pub head: Position,
    /// What was asked for and is no more, if anything.
    pub gap: Option<Gap>,
}

/// What a reader meets, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicEvent {
    /// The next message.
    Message(Arc<Message>),
    /// A hole before the next message.
    Gap(Gap),
    /// The node has lost touch with the topic's owner. Everything up to here was shown; whether there
    /// is more it cannot say until [`TopicEvent::Live`].
    Stale(Position),
    /// It hears of the topic again. Everything up to here was shown, and what it missed follows.
    Live(Position),
}

/// Why a question about the past has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The position was never given out: it is forged, of another cluster, or damaged.
    #[error(
        "position {requested} was never given out; the newest is {head}; begin from \"start\" or \"now\""
    )]
    FuturePosition {
        /// What was asked for.
        requested: Position,
        /// The newest there is.
        head: Position,
    },
    /// Nobody can be asked now; later somebody can.
    #[error("the topic's owner cannot be asked now: {0}; retry after a pause")]
    Unavailable(String),
}

/// A hole, told to the reader in place of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first position that is missing.
    pub from: Position,
    /// The last position that is missing. Of a later epoch than `from` when continuity was lost.
    pub to: Position,
    /// Why.
    pub reason: GapReason,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// History no longer has them.
    Expired,
    /// The topic began a new epoch: nobody can say what was missed.
    Epoch,
    /// The reader was slower than the topic, and history moved past its cursor.
    Slow,
    /// The reader asked for the newest only.
    Conflated,
}

impl GapReason {
    /// As it stands in a frame.
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

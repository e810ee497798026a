//! What the fan-out needs from the rest of the node, and the words of its answers.

use bytes::Bytes;
use futures::future::BoxFuture;
use pushonce_core::{FetchError, Gap, HistoryPage, HistoryRange, Message, Position, Topic};

use crate::Retention;

/// Where the topics come from: the node's relay.
///
/// `watch` and `unwatch` are called in the order in which a topic's first subscriber comes and its
/// last one goes. None of these may block, or call the hub back before it returns.
pub trait Upstream: Send + Sync + 'static {
    /// Somebody here wants `topic`: answer with [`Hub::mark_live_at`](crate::Hub::mark_live_at), then deliver
    /// everything after that head. `offsets_after` is what is here already, if anything.
    fn watch(&self, topic: &Topic, after: Option<Position>);

    /// Nobody here wants `topic` any more.
    fn unwatch(&self, topic: &Topic);

    /// Asks for the past of a topic, watched or not.
    fn fetch(
        &self,
        topic: Topic,
        range: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>>;

    /// How much of a topic's past may be shown now, as far as this node knows. Asked whenever history
    /// is read.
    fn retention(&self, topic: &Topic) -> Retention;
}

/// Makes frames: whole, ready for a socket, and the same for every subscriber of the topic.
pub trait FrameEncoder: Send + Sync + 'static {
    /// The frame of a message. Called once per message and wire.
    fn encode_message(&self, wire: WireFormat, topic: &Topic, message: &Message) -> Bytes;

    /// What makes a message's payload out of that of the message right before it; none when that is
    /// no less to send than the payload. Called once per message.
    fn compute_delta(&self, predecessor: &Message, message: &Message) -> Option<Bytes>;

    /// The frame of a message for one who has the message before: `delta` in place of its payload.
    /// Called once per message and wire.
    fn encode_delta(
        &self,
        wire: WireFormat,
        topic: &Topic,
        message: &Message,
        delta: Bytes,
    ) -> Bytes;

    /// The frame of a gap.
    fn encode_gap(&self, wire: WireFormat, topic: &Topic, gap: &Gap) -> Bytes;

    /// The frame that says that nothing is known of the topic any more, or again, for one who was
    /// shown everything up to `reached`.
    fn encode_health(
        &self,
        wire: WireFormat,
        topic: &Topic,
        health: TopicHealth,
        reached: Position,
    ) -> Bytes;

    /// The frame that says how many watch the topic in the whole cluster. Called once per number and
    /// wire.
    fn encode_audience(&self, wire: WireFormat, topic: &Topic, sessions: u64) -> Bytes;
}

/// Whether this node hears of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicHealth {
    /// It does.
    #[default]
    Live,
    /// It lost touch with the owner; what is here stands, and there may be more.
    Stale,
}

/// A way to write frames that is in use. A message keeps a frame for each on which it was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireFormat(pub u8);

/// The answer to a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeAck {
    /// The newest position of the topic at this moment.
    pub position: Position,
    /// Whether everything that was asked for follows. If not, the first thing to follow is a gap.
    pub recovered: bool,
}

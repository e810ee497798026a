//! The ports of the fan-out to the rest of the node, and their types.

use bytes::Bytes;
use futures::future::BoxFuture;
use pushonce_core::{FetchError, Gap, HistoryPage, HistoryRange, Message, Position, Topic};

use crate::Retention;

/// The source of the topics: the node's relay.
///
/// `watch` and `unwatch` are called in the order in which a topic gets its first subscriber and loses its
/// last one. No method may block or call the hub before it returns.
pub trait Upstream: Send + Sync + 'static {
    /// Starts the delivery of `topic`, which has subscribers on this node. The upstream calls
    /// [`Hub::mark_live_at`](crate::Hub::mark_live_at) and then delivers everything after that head.
    /// `after` is the newest position that this node has, if any.
    fn watch(&self, topic: &Topic, after: Option<Position>);

    /// Stops the delivery of `topic`, which has no subscribers on this node any more.
    fn unwatch(&self, topic: &Topic);

    /// Fetches history of a topic, watched or not.
    fn fetch(
        &self,
        topic: Topic,
        range: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>>;

    /// The retention of a topic as far as this node knows it now. Called whenever history is read.
    fn retention(&self, topic: &Topic) -> Retention;
}

/// Encodes complete frames, the same for every subscriber of the topic.
pub trait FrameEncoder: Send + Sync + 'static {
    /// Every wire format that sessions use, with its transport as the label of metrics.
    fn wire_formats(&self) -> &'static [(WireFormat, &'static str)];

    /// Encodes a message. Called once per message and wire format.
    fn encode_message(&self, wire: WireFormat, topic: &Topic, message: &Message) -> Bytes;

    /// The delta that makes the payload of `message` from that of `predecessor`, the message directly
    /// before it; `None` when it is not smaller than the payload. Called once per message.
    fn compute_delta(&self, predecessor: &Message, message: &Message) -> Option<Bytes>;

    /// Encodes a message with `delta` in place of its payload, for a subscriber that has the previous
    /// message. Called once per message and wire format.
    fn encode_delta(
        &self,
        wire: WireFormat,
        topic: &Topic,
        message: &Message,
        delta: Bytes,
    ) -> Bytes;

    /// Encodes a gap.
    fn encode_gap(&self, wire: WireFormat, topic: &Topic, gap: &Gap) -> Bytes;

    /// Encodes a change of the topic's health, for a subscriber that received everything up to `reached`.
    fn encode_health(
        &self,
        wire: WireFormat,
        topic: &Topic,
        health: TopicHealth,
        reached: Position,
    ) -> Bytes;

    /// Encodes the cluster-wide number of subscribers of the topic. Called once per number and wire format.
    fn encode_audience(&self, wire: WireFormat, topic: &Topic, sessions: u64) -> Bytes;
}

/// Whether this node has contact with the owner of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicHealth {
    /// The node has contact: it receives every new message.
    #[default]
    Live,
    /// The node has no contact: newer messages may exist that it does not know.
    Stale,
}

/// Identifies an encoding of frames. A message keeps one frame for each format in which it was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireFormat(pub u8);

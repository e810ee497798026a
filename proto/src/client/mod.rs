//! The client protocol as domain types, and its two encodings. `README.md` beside this crate specifies it
//! for authors of clients.

mod delta;
mod error;
mod json;
mod protobuf;

use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{
    AccessToken, Delivery, Durability, Gap, Message, Position, Publish, StartFrom,
    SubscribeOptions, Timestamp, Topic,
};

pub use delta::MessageDelta;
pub use error::{ErrorCode, InvalidFrame};

/// The encoding of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Each frame is one JSON object.
    Json,
    /// Each frame is one `ClientFrame` or `ServerFrame` of `client.proto`.
    Proto,
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// The id that the client chose and the response repeats; not zero.
    pub id: Option<u64>,
    /// The requested command.
    pub command: ClientCommand,
}

/// A command that a client can send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// Subscribe to a topic.
    Subscribe {
        /// The topic.
        topic: Topic,
        /// The start of the subscription.
        from: StartFrom,
        /// The options of the subscription.
        options: SubscribeOptions,
    },
    /// End the subscription to a topic.
    Unsubscribe {
        /// The topic.
        topic: Topic,
    },
    /// Publish a message. It is decoded but not validated: only the server knows the limit of the namespace.
    Publish(Publish),
    /// Replace the token of the session.
    Authenticate {
        /// The encoded token from its issuer.
        token: AccessToken,
    },
}

/// A response or an event that a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// A subscription begins.
    Subscribed {
        /// The id of the request.
        id: Option<u64>,
        /// The topic.
        topic: Topic,
        /// The newest position at this moment; [`Position::ZERO`] if the topic has no message yet.
        position: Position,
        /// Whether every requested message follows without a gap.
        recovered: bool,
        /// The delivery of the subscription: the requested one, within the limits of the namespace.
        delivery: Delivery,
    },
    /// A subscription has ended; no event of the topic follows.
    Unsubscribed {
        /// The id of the request.
        id: Option<u64>,
        /// The topic.
        topic: Topic,
    },
    /// A publish is acknowledged.
    Published {
        /// The id of the request.
        id: Option<u64>,
        /// The position of the message.
        position: Position,
        /// The durability of the message.
        durability: Durability,
    },
    /// A token is accepted.
    Authenticated {
        /// The id of the request.
        id: Option<u64>,
        /// The time at which the token expires.
        expires: Timestamp,
    },
    /// A message of a subscription.
    Message {
        /// The topic.
        topic: Topic,
        /// The message.
        message: Arc<Message>,
    },
    /// A message as a delta, for a session that accepts deltas and received the message right before it.
    MessageDelta {
        /// The topic.
        topic: Topic,
        /// The message as a delta.
        message_delta: MessageDelta,
    },
    /// Messages of a subscription are missing and will not be delivered.
    Gap {
        /// The topic.
        topic: Topic,
        /// The range of the missing messages and the reason.
        gap: Gap,
    },
    /// The server lost its connection to the topic's owner and does not know if there are newer messages.
    Stale {
        /// The topic.
        topic: Topic,
        /// Everything up to this position was sent.
        since: Position,
    },
    /// The server receives the topic again; the missed messages follow.
    Live {
        /// The topic.
        topic: Topic,
        /// Everything up to this position was sent.
        position: Position,
    },
    /// The audience of a topic, for a subscription that requested it.
    Audience {
        /// The topic.
        topic: Topic,
        /// Number of known sessions in the whole cluster; at most seconds old.
        count: u64,
    },
    /// A request was rejected.
    Error {
        /// The id of the request, if it could be decoded.
        id: Option<u64>,
        /// The error code.
        code: ErrorCode,
        /// What failed and what to change.
        message: String,
        /// Whether the same request may succeed later.
        retry: bool,
        /// Time in milliseconds after which it may; 0 if the server does not know.
        retry_after_ms: u32,
    },
    /// A heartbeat of the server, with the positions that it has sent.
    Heartbeat {
        /// The position of each topic up to which everything was sent before, without stale topics.
        positions: Vec<(Topic, Position)>,
    },
    /// The server will close the session: the client connects to another server.
    Goaway {
        /// Maximum time until the close, in milliseconds.
        after_ms: u32,
        /// Time in milliseconds during which the client must not reconnect to this server; 0 for none.
        retry_after_ms: u32,
        /// The reason for the close.
        reason: String,
    },
    /// The first frame on each stream of a QUIC subscription: names its topic.
    Stream {
        /// The topic.
        topic: Topic,
    },
}

impl Encoding {
    /// Both encodings.
    pub const ALL: [Encoding; 2] = [Encoding::Json, Encoding::Proto];

    /// The WebSocket subprotocol that selects the encoding.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Encoding::Json => "pushonce.v1.json",
            Encoding::Proto => "pushonce.v1.proto",
        }
    }

    /// The encoding that a WebSocket subprotocol selects; `None` for a subprotocol that is unknown.
    pub fn from_subprotocol(name: &str) -> Option<Encoding> {
        Encoding::ALL.into_iter().find(|encoding| encoding.subprotocol() == name)
    }

    /// Decodes a frame of a client.
    ///
    /// # Errors
    /// [`InvalidFrame`] if the frame is malformed or the request is invalid. Respond with
    /// [`InvalidFrame::to_event`], and end the session if `is_fatal` is set.
    pub fn decode_request(self, frame: &Bytes) -> Result<ClientRequest, InvalidFrame> {
        match self {
            Encoding::Json => json::decode_request(frame),
            Encoding::Proto => protobuf::decode_request(frame),
        }
    }

    /// Encodes an event of a server.
    pub fn encode_event(self, event: &ServerEvent) -> Bytes {
        match self {
            Encoding::Json => json::encode_event(event),
            Encoding::Proto => protobuf::encode_event(event),
        }
    }

    /// Encodes a request of a client.
    pub fn encode_request(self, request: &ClientRequest) -> Bytes {
        match self {
            Encoding::Json => json::encode_request(request),
            Encoding::Proto => protobuf::encode_request(request),
        }
    }

    /// Decodes a frame of a server.
    ///
    /// # Errors
    /// [`InvalidFrame`] if the frame is malformed or unknown. If `is_fatal` is not set, the frame comes from
    /// a newer server: skip it.
    pub fn decode_event(self, frame: &Bytes) -> Result<ServerEvent, InvalidFrame> {
        match self {
            Encoding::Json => json::decode_event(frame),
            Encoding::Proto => protobuf::decode_event(frame),
        }
    }
}

/// Encodes the frame of a message: the same for every subscriber of the topic. A JSON payload is copied as
/// it is, so it must be valid JSON ([`Publish::validate`]).
pub fn encode_message(encoding: Encoding, topic: &Topic, message: &Message) -> Bytes {
    match encoding {
        Encoding::Json => json::encode_message(topic, message),
        Encoding::Proto => protobuf::encode_message(topic, message),
    }
}

/// Encodes the frame of a message as a delta to the previous message.
pub fn encode_message_delta(
    encoding: Encoding,
    topic: &Topic,
    message_delta: &MessageDelta,
) -> Bytes {
    match encoding {
        Encoding::Json => json::encode_message_delta(topic, message_delta),
        Encoding::Proto => protobuf::encode_message_delta(topic, message_delta),
    }
}

/// Whether a frame that this crate encoded holds a message, whole or as a delta.
pub fn is_message(encoding: Encoding, frame: &[u8]) -> bool {
    match encoding {
        Encoding::Json => json::is_message(frame),
        Encoding::Proto => protobuf::is_message(frame),
    }
}

/// Encodes the frame of a gap: the same for every subscriber of the topic.
pub fn encode_gap(encoding: Encoding, topic: &Topic, gap: &Gap) -> Bytes {
    match encoding {
        Encoding::Json => json::encode_gap(topic, gap),
        Encoding::Proto => protobuf::encode_gap(topic, gap),
    }
}

#[cfg(test)]
mod tests;

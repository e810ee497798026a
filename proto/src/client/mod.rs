//! The client protocol as domain types, and its two encodings. `README.md` beside this crate shows
//! it to people who write a client.

mod delta;
mod error;
mod json;
mod protobuf;

use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{
    Delivery, Durability, Gap, Message, Position, Publish, StartFrom, SubscribeOptions, Timestamp,
    Topic,
};

pub use delta::MessageDelta;
pub use error::{ErrorCode, InvalidFrame};

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON object a frame.
    Json,
    /// One `ClientFrame` or `ServerFrame` of `client.proto` a frame.
    Proto,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// Chosen by the client, repeated in the answer. Not zero.
    pub id: Option<u64>,
    /// What it asks for.
    pub command: ClientCommand,
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// Begin to send a topic.
    Subscribe {
        /// Which.
        topic: Topic,
        /// Where to begin.
        from: StartFrom,
        /// What else it wants.
        options: SubscribeOptions,
    },
    /// Send a topic no more.
    Unsubscribe {
        /// Which.
        topic: Topic,
    },
    /// Publish a message. Decoded, not checked: the namespace's limit is the server's to know.
    Publish(Publish),
    /// Use this token from now on.
    Authenticate {
        /// As the issuer wrote it.
        token: String,
    },
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// A subscription begins.
    Subscribed {
        /// Of the request.
        id: Option<u64>,
        /// Which topic.
        topic: Topic,
        /// The newest position at this moment; [`Position::ZERO`] when the topic has none yet.
        position: Position,
        /// Whether everything that was asked for follows without a gap.
        recovered: bool,
        /// What the subscription gets: what was asked for, within what the namespace gives.
        delivery: Delivery,
    },
    /// A subscription has ended; nothing of the topic follows.
    Unsubscribed {
        /// Of the request.
        id: Option<u64>,
        /// Which topic.
        topic: Topic,
    },
    /// A publish is acknowledged.
    Published {
        /// Of the request.
        id: Option<u64>,
        /// Where it stands.
        position: Position,
        /// What it survives.
        durability: Durability,
    },
    /// A token is taken.
    Authenticated {
        /// Of the request.
        id: Option<u64>,
        /// When it ends.
        expires: Timestamp,
    },
    /// A message of a subscription.
    Message {
        /// Which topic.
        topic: Topic,
        /// The message.
        message: Arc<Message>,
    },
    /// The same, to one who asked for deltas and was sent the message right before it.
    MessageDelta {
        /// Which topic.
        topic: Topic,
        /// The message.
        message_delta: MessageDelta,
    },
    /// Messages of a subscription that will not be shown.
    Gap {
        /// Which topic.
        topic: Topic,
        /// Which messages, and why.
        gap: Gap,
    },
    /// The server has lost touch with the topic's owner, and cannot say whether there is more.
    Stale {
        /// Which topic.
        topic: Topic,
        /// Everything up to here was sent.
        since: Position,
    },
    /// The server receives the topic again; the missed messages follow.
    Live {
        /// Which topic.
        topic: Topic,
        /// Everything up to here was sent.
        position: Position,
    },
    /// How many watch a topic, to one who asked for that.
    Audience {
        /// Which topic.
        topic: Topic,
        /// Sessions of the whole cluster, as far as is known; seconds old at most.
        count: u64,
    },
    /// A request was refused.
    Error {
        /// Of the request, if it could be read.
        id: Option<u64>,
        /// A word to branch on.
        code: ErrorCode,
        /// What to change.
        message: String,
        /// Whether the same request may succeed later.
        retry: bool,
    },
    /// The server lives, and this is what it has sent so far.
    Heartbeat {
        /// The position up to which everything was sent before; a stale topic is left out.
        positions: Vec<(Topic, Position)>,
    },
    /// The session will be closed: connect to another server.
    Goaway {
        /// In how many milliseconds at most.
        after_ms: u32,
        /// For how many milliseconds this server is not to be troubled; 0: not at all.
        retry_after_ms: u32,
        /// Why.
        reason: String,
    },
    /// First on each stream of a QUIC subscription: whose stream it is. Not in JSON.
    Stream {
        /// Which topic.
        topic: Topic,
    },
}

impl Encoding {
    /// Both.
    pub const ALL: [Encoding; 2] = [Encoding::Json, Encoding::Proto];

    /// The WebSocket subprotocol that asks for it.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Encoding::Json => "pushonce.v1.json",
            Encoding::Proto => "pushonce.v1.proto",
        }
    }

    /// What a WebSocket subprotocol asks for, if it is one of ours.
    pub fn from_subprotocol(name: &str) -> Option<Encoding> {
        Encoding::ALL.into_iter().find(|encoding| encoding.subprotocol() == name)
    }

    /// Reads what a client sent.
    ///
    /// # Errors
    /// [`InvalidFrame`], to be answered as [`InvalidFrame::to_event`]; when it is `broken` the session
    /// ends as well.
    pub fn decode_request(self, frame: &Bytes) -> Result<ClientRequest, InvalidFrame> {
        match self {
            Encoding::Json => json::decode_request(frame),
            Encoding::Proto => protobuf::decode_request(frame),
        }
    }

    /// Writes what a server says. JSON has no [`ServerEvent::Stream`]: it gives an empty object, which a
    /// client passes over.
    pub fn encode_event(self, event: &ServerEvent) -> Bytes {
        match self {
            Encoding::Json => json::encode_event(event),
            Encoding::Proto => protobuf::encode_event(event),
        }
    }

    /// Writes what a client asks for.
    pub fn encode_request(self, request: &ClientRequest) -> Bytes {
        match self {
            Encoding::Json => json::encode_request(request),
            Encoding::Proto => protobuf::encode_request(request),
        }
    }

    /// Reads what a server sent.
    ///
    /// # Errors
    /// [`InvalidFrame`]: one that is not `broken` comes from a newer server and is to be passed over.
    pub fn decode_event(self, frame: &Bytes) -> Result<ServerEvent, InvalidFrame> {
        match self {
            Encoding::Json => json::decode_event(frame),
            Encoding::Proto => protobuf::decode_event(frame),
        }
    }
}

/// The frame of a message: the same for every subscriber of the topic. The payload of JSON content
/// goes in as it is, so it must be JSON ([`Publish::validate`]).
pub fn encode_message(encoding: Encoding, topic: &Topic, message: &Message) -> Bytes {
    match encoding {
        Encoding::Json => json::encode_message(topic, message),
        Encoding::Proto => protobuf::encode_message(topic, message),
    }
}

/// The frame of a message that goes as its difference from the one before.
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

/// Whether a frame that was written here in [`Encoding::Proto`] is of a message, whole or as a
/// difference.
pub fn is_message(frame: &[u8]) -> bool {
    protobuf::is_message(frame)
}

/// The frame of a gap: the same for every subscriber of the topic.
pub fn encode_gap(encoding: Encoding, topic: &Topic, gap: &Gap) -> Bytes {
    match encoding {
        Encoding::Json => json::encode_gap(topic, gap),
        Encoding::Proto => protobuf::encode_gap(topic, gap),
    }
}

#[cfg(test)]
mod tests;

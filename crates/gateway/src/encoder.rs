//! Frames as they go onto a wire, whole, for everybody the same.

use bytes::Bytes;
use pushonce_core::{Gap, Message, Position, Topic};
use pushonce_fanout::{Encode, Standing, Wire};
use pushonce_proto::client::{self, Difference, Encoding, Event};
use pushonce_proto::delimited;

use crate::delta;
use crate::ws::frame;

/// JSON in WebSocket text messages.
pub(crate) const WS_JSON: Wire = Wire(0);
/// Protobuf in WebSocket binary messages.
pub(crate) const WS_PROTO: Wire = Wire(1);
/// Protobuf behind its length, on QUIC streams.
pub(crate) const QUIC_PROTO: Wire = Wire(2);
/// [`WS_JSON`] where permessage-deflate was agreed on.
pub(crate) const WS_JSON_DEFLATE: Wire = Wire(3);
/// [`WS_PROTO`] where permessage-deflate was agreed on.
pub(crate) const WS_PROTO_DEFLATE: Wire = Wire(4);

/// Makes the frames of every wire the gateway speaks. Hand it to the hub.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoder;

impl Encode for Encoder {
    fn message(&self, wire: Wire, topic: &Topic, message: &Message) -> Bytes {
        small(wire, &client::encode_message(encoding(wire), topic, message))
    }

    fn delta(&self, before: &Message, message: &Message) -> Option<Bytes> {
        delta::between(before, message)
    }

    fn difference(&self, wire: Wire, topic: &Topic, message: &Message, delta: Bytes) -> Bytes {
        let Message { position, time, key, .. } = message;
        let difference = Difference { position: *position, time: *time, key: key.clone(), delta };
        small(wire, &client::encode_difference(encoding(wire), topic, &difference))
    }

    fn gap(&self, wire: Wire, topic: &Topic, gap: &Gap) -> Bytes {
        whole(wire, &client::encode_gap(encoding(wire), topic, gap))
    }

    fn standing(&self, wire: Wire, topic: &Topic, standing: Standing, reached: Position) -> Bytes {
        let topic = topic.clone();
        let event = match standing {
            Standing::Stale => Event::Stale { topic, since: reached },
            Standing::Live => Event::Live { topic, position: reached },
        };
        whole(wire, &encoding(wire).encode_event(&event))
    }

    fn audience(&self, wire: Wire, topic: &Topic, sessions: u64) -> Bytes {
        let event = Event::Audience { topic: topic.clone(), count: sessions };
        whole(wire, &encoding(wire).encode_event(&event))
    }
}

/// How a frame of the client protocol is written on `wire`.
pub(crate) fn encoding(wire: Wire) -> Encoding {
    match wire {
        WS_JSON | WS_JSON_DEFLATE => Encoding::Json,
        _ => Encoding::Proto,
    }
}

/// Wraps a frame of the client protocol into what `wire` carries. Deflates nothing: what one session
/// is told is short, and for it alone.
pub(crate) fn whole(wire: Wire, payload: &[u8]) -> Bytes {
    match wire {
        WS_JSON | WS_JSON_DEFLATE => frame::text(payload),
        WS_PROTO | WS_PROTO_DEFLATE => frame::binary(payload),
        _ => delimited::encode(payload),
    }
}

/// The same for what many are sent: where it may be deflated, it is.
fn small(wire: Wire, payload: &[u8]) -> Bytes {
    match wire {
        WS_JSON_DEFLATE => frame::small_text(payload),
        WS_PROTO_DEFLATE => frame::small_binary(payload),
        _ => whole(wire, payload),
    }
}

/// What of a frame of [`QUIC_PROTO`] goes as a datagram: a message, without its length, for a datagram
/// has an end of its own.
pub(crate) fn datagram(frame: &Bytes) -> Option<Bytes> {
    let payload = delimited::payload(frame);
    client::is_message(&payload).then_some(payload)
}

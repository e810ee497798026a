//! Encodes complete wire frames, once for all subscribers of one format.

use bytes::Bytes;
use pushonce_core::{Gap, Message, Position, Topic};
use pushonce_fanout::{FrameEncoder, TopicHealth, WireFormat};
use pushonce_proto::client::{self, Encoding, MessageDelta, ServerEvent};
use pushonce_proto::delimited;
use pushonce_websocket::frame;

use crate::delta;
use crate::metrics::TransportKind;

/// JSON in WebSocket text messages.
pub(crate) const WS_JSON: WireFormat = WireFormat(0);
/// Protobuf in WebSocket binary messages.
pub(crate) const WS_PROTO: WireFormat = WireFormat(1);
/// Length-delimited protobuf on QUIC streams.
pub(crate) const QUIC_PROTO: WireFormat = WireFormat(2);
/// [`WS_JSON`] with permessage-deflate.
pub(crate) const WS_JSON_DEFLATE: WireFormat = WireFormat(3);
/// [`WS_PROTO`] with permessage-deflate.
pub(crate) const WS_PROTO_DEFLATE: WireFormat = WireFormat(4);

const WIRE_FORMATS: &[(WireFormat, &str)] = &[
    (WS_JSON, TransportKind::WebSocket.as_str()),
    (WS_PROTO, TransportKind::WebSocket.as_str()),
    (QUIC_PROTO, TransportKind::Quic.as_str()),
    (WS_JSON_DEFLATE, TransportKind::WebSocket.as_str()),
    (WS_PROTO_DEFLATE, TransportKind::WebSocket.as_str()),
];

/// Encodes frames for every wire format of the gateway. The hub needs an instance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoder;

impl FrameEncoder for Encoder {
    fn wire_formats(&self) -> &'static [(WireFormat, &'static str)] {
        WIRE_FORMATS
    }

    fn encode_message(&self, wire: WireFormat, topic: &Topic, message: &Message) -> Bytes {
        wrap_compressed(wire, &client::encode_message(encoding(wire), topic, message))
    }

    fn compute_delta(&self, base: &Message, message: &Message) -> Option<Bytes> {
        delta::between(base, message)
    }

    fn encode_delta(
        &self,
        wire: WireFormat,
        topic: &Topic,
        message: &Message,
        delta: Bytes,
    ) -> Bytes {
        let Message { position, time, key, .. } = message;
        let delta = MessageDelta { position: *position, time: *time, key: key.clone(), delta };
        wrap_compressed(wire, &client::encode_message_delta(encoding(wire), topic, &delta))
    }

    fn encode_gap(&self, wire: WireFormat, topic: &Topic, gap: &Gap) -> Bytes {
        wrap(wire, &client::encode_gap(encoding(wire), topic, gap))
    }

    fn encode_health(
        &self,
        wire: WireFormat,
        topic: &Topic,
        health: TopicHealth,
        reached: Position,
    ) -> Bytes {
        let topic = topic.clone();
        let event = match health {
            TopicHealth::Stale => ServerEvent::Stale { topic, since: reached },
            TopicHealth::Live => ServerEvent::Live { topic, position: reached },
        };
        wrap(wire, &encoding(wire).encode_event(&event))
    }

    fn encode_audience(&self, wire: WireFormat, topic: &Topic, sessions: u64) -> Bytes {
        let event = ServerEvent::Audience { topic: topic.clone(), count: sessions };
        wrap(wire, &encoding(wire).encode_event(&event))
    }
}

/// The encoding of client frames in the format `wire`.
pub(crate) fn encoding(wire: WireFormat) -> Encoding {
    match wire {
        WS_JSON | WS_JSON_DEFLATE => Encoding::Json,
        _ => Encoding::Proto,
    }
}

/// Wraps a client frame in the framing of `wire`, uncompressed: frames for a single session are short and not
/// shared.
pub(crate) fn wrap(wire: WireFormat, payload: &[u8]) -> Bytes {
    match wire {
        WS_JSON | WS_JSON_DEFLATE => frame::text(payload),
        WS_PROTO | WS_PROTO_DEFLATE => frame::binary(payload),
        _ => delimited::encode(payload),
    }
}

/// Wraps a client frame that many sessions receive, compressed if `wire` allows it.
fn wrap_compressed(wire: WireFormat, payload: &[u8]) -> Bytes {
    match wire {
        WS_JSON_DEFLATE => frame::compressed_text(payload),
        WS_PROTO_DEFLATE => frame::compressed_binary(payload),
        _ => wrap(wire, payload),
    }
}

/// The datagram for a frame of [`QUIC_PROTO`]: the message without its length prefix, which a datagram does
/// not need. `None` if the frame is not a message.
pub(crate) fn datagram_payload(frame: &Bytes) -> Option<Bytes> {
    let payload = delimited::strip_length(frame);
    client::is_message(&payload).then_some(payload)
}

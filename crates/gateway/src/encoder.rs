//! Encodes complete wire frames, once for all subscribers of one format.

use bytes::Bytes;
use pushonce_core::{Gap, Message, Position, Topic};
use pushonce_fanout::{FrameEncoder, TopicHealth, WireFormat};
use pushonce_proto::client::{self, Encoding, MessageDelta, ServerEvent};
use pushonce_proto::delimited;
use pushonce_websocket::frame;

use crate::metrics::TransportKind;
use crate::{delta, sse};

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

/// Events with the payloads of one topic.
pub(crate) const SSE_PAYLOAD: WireFormat = WireFormat(5);
/// Events with JSON frames, of several topics.
pub(crate) const SSE_FRAMES: WireFormat = WireFormat(6);

/// Length-delimited JSON on WebTransport streams.
pub(crate) const WT_JSON: WireFormat = WireFormat(7);
/// Length-delimited protobuf on WebTransport streams. The bytes are those of [`QUIC_PROTO`], counted apart.
pub(crate) const WT_PROTO: WireFormat = WireFormat(8);

const WIRE_FORMATS: &[(WireFormat, &str)] = &[
    (WS_JSON, TransportKind::WebSocket.as_str()),
    (WS_PROTO, TransportKind::WebSocket.as_str()),
    (QUIC_PROTO, TransportKind::Quic.as_str()),
    (WS_JSON_DEFLATE, TransportKind::WebSocket.as_str()),
    (WS_PROTO_DEFLATE, TransportKind::WebSocket.as_str()),
    (SSE_PAYLOAD, TransportKind::EventStream.as_str()),
    (SSE_FRAMES, TransportKind::EventStream.as_str()),
    (WT_JSON, TransportKind::WebTransport.as_str()),
    (WT_PROTO, TransportKind::WebTransport.as_str()),
];

/// Encodes frames for every wire format of the gateway. The hub needs an instance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoder;

impl FrameEncoder for Encoder {
    fn wire_formats(&self) -> &'static [(WireFormat, &'static str)] {
        WIRE_FORMATS
    }

    fn encode_message(&self, wire: WireFormat, topic: &Topic, message: &Message) -> Bytes {
        if wire == SSE_PAYLOAD {
            return sse::encode_message(message);
        }
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
        let frame = client::encode_gap(encoding(wire), topic, gap);
        wrap_named(wire, "gap", Some(gap.to), &frame)
    }

    fn encode_health(
        &self,
        wire: WireFormat,
        topic: &Topic,
        health: TopicHealth,
        reached: Position,
    ) -> Bytes {
        let topic = topic.clone();
        let (name, event) = match health {
            TopicHealth::Stale => ("stale", ServerEvent::Stale { topic, since: reached }),
            TopicHealth::Live => ("live", ServerEvent::Live { topic, position: reached }),
        };
        wrap_named(wire, name, None, &encoding(wire).encode_event(&event))
    }

    fn encode_audience(&self, wire: WireFormat, topic: &Topic, sessions: u64) -> Bytes {
        let event = ServerEvent::Audience { topic: topic.clone(), count: sessions };
        wrap_named(wire, "audience", None, &encoding(wire).encode_event(&event))
    }
}

/// The encoding of client frames in the format `wire`.
pub(crate) fn encoding(wire: WireFormat) -> Encoding {
    match wire {
        WS_JSON | WS_JSON_DEFLATE | SSE_PAYLOAD | SSE_FRAMES | WT_JSON => Encoding::Json,
        _ => Encoding::Proto,
    }
}

/// Wraps a client frame in the framing of `wire`, uncompressed: frames for a single session are short and not
/// shared.
pub(crate) fn wrap(wire: WireFormat, payload: &[u8]) -> Bytes {
    match wire {
        WS_JSON | WS_JSON_DEFLATE => frame::text(payload),
        WS_PROTO | WS_PROTO_DEFLATE => frame::binary(payload),
        SSE_PAYLOAD | SSE_FRAMES => sse::encode_frame(None, None, payload),
        _ => delimited::encode(payload),
    }
}

/// Wraps a client frame that is no message. In an event stream it has a name, and the position that it reaches: the
/// id of a stream of several topics holds all of them, and is sent with each write.
fn wrap_named(
    wire: WireFormat,
    name: &'static str,
    position: Option<Position>,
    payload: &[u8],
) -> Bytes {
    match wire {
        SSE_PAYLOAD => sse::encode_frame(Some(name), position, payload),
        SSE_FRAMES => sse::encode_frame(Some(name), None, payload),
        _ => wrap(wire, payload),
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

/// The datagram for a length-delimited frame: the message without its length prefix, which a datagram does
/// not need. `None` if the frame is not a message.
pub(crate) fn datagram_payload(wire: WireFormat, frame: &Bytes) -> Option<Bytes> {
    let payload = delimited::strip_length(frame);
    client::is_message(encoding(wire), &payload).then_some(payload)
}

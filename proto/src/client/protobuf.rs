//! The protobuf encoding: each frame is one `ClientFrame` or `ServerFrame` of `client.proto`. The frames of
//! messages and gaps are encoded by hand, since the generated types would first copy each part to a string.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use pushonce_core::{
    AccessToken, ContentType, Delivery, Gap, Message, MessageKey, Position, Publish, StartFrom,
    SubscribeOptions, Timestamp, Topic,
};

use super::delta::{FOSSIL, is_fossil};
use super::{ClientCommand, ClientRequest, ErrorCode, InvalidFrame, MessageDelta, ServerEvent};
use crate::InvalidField;
use crate::field;
use crate::pb::client::v1 as pb;
use pb::client_frame::Request as WireRequest;
use pb::server_frame::Event as WireEvent;
use pb::start_from::Kind as StartKind;

// === requests ===

pub(super) fn decode_request(frame: &Bytes) -> Result<ClientRequest, InvalidFrame> {
    let frame = pb::ClientFrame::decode(frame.clone());
    let frame = frame
        .map_err(|error| InvalidFrame::fatal(format!("the frame is not a ClientFrame: {error}")))?;
    let id = decode_id(frame.id);
    let Some(request) = frame.request else {
        let message = "the frame has no request that this version knows";
        return Err(InvalidFrame::new(ErrorCode::UnknownField, message).with_id(id));
    };
    decode_command(request)
        .map(|command| ClientRequest { id, command })
        .map_err(|error| error.with_id(id))
}

fn decode_command(request: WireRequest) -> Result<ClientCommand, InvalidFrame> {
    Ok(match request {
        WireRequest::Subscribe(subscribe) => ClientCommand::Subscribe {
            topic: decode_topic(&subscribe.topic)?,
            options: decode_options(&subscribe)?,
            from: decode_start_from(subscribe.start_from)?,
        },
        WireRequest::Unsubscribe(unsubscribe) => {
            ClientCommand::Unsubscribe { topic: decode_topic(&unsubscribe.topic)? }
        }
        WireRequest::Publish(publish) => ClientCommand::Publish(decode_publish(publish)?),
        WireRequest::Authenticate(authenticate) => {
            ClientCommand::Authenticate { token: AccessToken::new(authenticate.token) }
        }
    })
}

fn decode_publish(publish: pb::Publish) -> Result<Publish, InvalidFrame> {
    let bad_request = |error| InvalidFrame::new(ErrorCode::BadRequest, error);
    Ok(Publish {
        topic: decode_topic(&publish.topic)?,
        content_type: match publish.content_type.as_str() {
            "" => ContentType::detect(&publish.data),
            content_type => ContentType::parse(content_type).map_err(bad_request)?,
        },
        key: (!publish.key.is_empty())
            .then(|| MessageKey::new(&publish.key))
            .transpose()
            .map_err(bad_request)?,
        publish_id: None,
        payload: publish.data,
    })
}

fn decode_start_from(start_from: Option<pb::StartFrom>) -> Result<StartFrom, InvalidFrame> {
    Ok(match start_from.and_then(|start_from| start_from.kind) {
        None | Some(StartKind::Now(_)) => StartFrom::Now,
        Some(StartKind::Last(count)) => StartFrom::Last(count),
        Some(StartKind::Position(text)) => StartFrom::Position(
            text.parse().map_err(|error| InvalidFrame::new(ErrorCode::BadPosition, error))?,
        ),
        Some(StartKind::Start(_)) => StartFrom::Start,
    })
}

fn decode_options(subscribe: &pb::Subscribe) -> Result<SubscribeOptions, InvalidFrame> {
    let bad_request = |error| InvalidFrame::new(ErrorCode::BadRequest, error);
    let delivery = Some(subscribe.delivery.as_str()).filter(|word| !word.is_empty());
    Ok(SubscribeOptions {
        delivery: delivery.map(str::parse).transpose().map_err(bad_request)?,
        report_conflated: subscribe.conflated,
        report_audience: subscribe.audience,
        accept_deltas: match subscribe.delta.as_str() {
            "" => false,
            kind => is_fossil(kind)?,
        },
        use_datagrams: subscribe.datagrams,
    })
}

fn decode_topic(name: &str) -> Result<Topic, InvalidFrame> {
    Topic::new(name).map_err(|error| InvalidFrame::new(ErrorCode::BadTopic, error))
}

/// Decodes a request id; zero means none.
fn decode_id(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

pub(super) fn encode_request(request: &ClientRequest) -> Bytes {
    let wire = match &request.command {
        ClientCommand::Subscribe { topic, from, options } => {
            WireRequest::Subscribe(pb::Subscribe {
                topic: topic.to_string(),
                start_from: Some(encode_start_from(*from)),
                delivery: options
                    .delivery
                    .map_or_else(String::new, |delivery| delivery.to_string()),
                conflated: options.report_conflated,
                audience: options.report_audience,
                delta: if options.accept_deltas { FOSSIL.to_owned() } else { String::new() },
                datagrams: options.use_datagrams,
            })
        }
        ClientCommand::Unsubscribe { topic } => {
            WireRequest::Unsubscribe(pb::Unsubscribe { topic: topic.to_string() })
        }
        ClientCommand::Publish(publish) => WireRequest::Publish(pb::Publish {
            topic: publish.topic.to_string(),
            data: publish.payload.clone(),
            content_type: publish.content_type.to_string(),
            key: publish.key.as_ref().map_or_else(String::new, |key| key.as_str().to_owned()),
        }),
        ClientCommand::Authenticate { token } => {
            WireRequest::Authenticate(pb::Authenticate { token: token.secret().to_owned() })
        }
    };
    let frame = pb::ClientFrame { id: request.id.unwrap_or(0), request: Some(wire) };
    frame.encode_to_vec().into()
}

fn encode_start_from(start_from: StartFrom) -> pb::StartFrom {
    let kind = match start_from {
        StartFrom::Now => StartKind::Now(true),
        StartFrom::Last(count) => StartKind::Last(count),
        StartFrom::Position(position) => StartKind::Position(position.to_string()),
        StartFrom::Start => StartKind::Start(true),
    };
    pb::StartFrom { kind: Some(kind) }
}

// === events ===

pub(super) fn decode_event(frame: &Bytes) -> Result<ServerEvent, InvalidFrame> {
    let frame = pb::ServerFrame::decode(frame.clone());
    let frame = frame
        .map_err(|error| InvalidFrame::fatal(format!("the frame is not a ServerFrame: {error}")))?;
    let id = decode_id(frame.id);
    let Some(event) = frame.event else {
        let message = "the frame has no event that this version knows";
        return Err(InvalidFrame::new(ErrorCode::UnknownField, message).with_id(id));
    };
    // A known event that cannot be decoded must not be skipped: it may be a message.
    decode_event_body(id, event).map_err(|error| InvalidFrame::fatal(error).with_id(id))
}

fn decode_event_body(id: Option<u64>, event: WireEvent) -> Result<ServerEvent, InvalidField> {
    Ok(match event {
        WireEvent::Subscribed(subscribed) => ServerEvent::Subscribed {
            id,
            topic: field::decode_topic("subscribed.topic", &subscribed.topic)?,
            position: field::decode_position("subscribed.position", &subscribed.position)?,
            recovered: subscribed.recovered,
            delivery: decode_delivery("subscribed.delivery", &subscribed.delivery)?,
        },
        WireEvent::Unsubscribed(unsubscribed) => ServerEvent::Unsubscribed {
            id,
            topic: field::decode_topic("unsubscribed.topic", &unsubscribed.topic)?,
        },
        WireEvent::Published(published) => ServerEvent::Published {
            id,
            position: field::decode_position("published.position", &published.position)?,
            durability: field::decode_durability("published.durability", published.durability)?,
        },
        WireEvent::Authenticated(authenticated) => {
            ServerEvent::Authenticated { id, expires: Timestamp(authenticated.expires_ms) }
        }
        WireEvent::Message(message) if !message.delta.is_empty() => ServerEvent::MessageDelta {
            topic: field::decode_topic("message.topic", &message.topic)?,
            message_delta: decode_message_delta(message)?,
        },
        WireEvent::Message(message) => ServerEvent::Message {
            topic: field::decode_topic("message.topic", &message.topic)?,
            message: Arc::new(decode_message(message)?),
        },
        WireEvent::Gap(gap) => ServerEvent::Gap {
            topic: field::decode_topic("gap.topic", &gap.topic)?,
            gap: Gap {
                from: field::decode_position("gap.first", &gap.first)?,
                to: field::decode_position("gap.last", &gap.last)?,
                reason: field::decode_gap_reason("gap.reason", &gap.reason)?,
            },
        },
        WireEvent::Stale(stale) => ServerEvent::Stale {
            topic: field::decode_topic("stale.topic", &stale.topic)?,
            since: field::decode_position("stale.since", &stale.since)?,
        },
        WireEvent::Live(live) => ServerEvent::Live {
            topic: field::decode_topic("live.topic", &live.topic)?,
            position: field::decode_position("live.position", &live.position)?,
        },
        WireEvent::Audience(audience) => ServerEvent::Audience {
            topic: field::decode_topic("audience.topic", &audience.topic)?,
            count: audience.count,
        },
        WireEvent::Error(error) => ServerEvent::Error {
            id,
            code: ErrorCode::parse(&error.code, error.retry),
            message: error.message,
            retry: error.retry,
            retry_after_ms: error.back_ms,
        },
        WireEvent::Heartbeat(heartbeat) => {
            ServerEvent::Heartbeat { positions: decode_positions(heartbeat)? }
        }
        WireEvent::Goaway(goaway) => {
            let pb::Goaway { after_ms, reason, back_ms } = goaway;
            ServerEvent::Goaway { after_ms, retry_after_ms: back_ms, reason }
        }
        WireEvent::Stream(stream) => {
            ServerEvent::Stream { topic: field::decode_topic("stream.topic", &stream.topic)? }
        }
    })
}

/// Decodes a delivery; the empty string means `all`.
fn decode_delivery(field: &'static str, word: &str) -> Result<Delivery, InvalidField> {
    match word {
        "" => Ok(Delivery::All),
        word => {
            word.parse().map_err(|error| InvalidField::new(field, format!("is invalid: {error}")))
        }
    }
}

fn decode_message(message: pb::Message) -> Result<Message, InvalidField> {
    Ok(Message {
        position: field::decode_position("message.position", &message.position)?,
        time: Timestamp(message.time_ms),
        content_type: field::decode_content_type("message.content_type", &message.content_type)?,
        key: field::decode_key("message.key", &message.key)?,
        payload: message.data,
    })
}

fn decode_message_delta(message: pb::Message) -> Result<MessageDelta, InvalidField> {
    Ok(MessageDelta {
        position: field::decode_position("message.position", &message.position)?,
        time: Timestamp(message.time_ms),
        key: field::decode_key("message.key", &message.key)?,
        delta: message.delta,
    })
}

fn decode_positions(heartbeat: pb::Heartbeat) -> Result<Vec<(Topic, Position)>, InvalidField> {
    let read = |(name, text): (String, String)| {
        let topic = field::decode_topic("heartbeat.positions", &name)?;
        Ok((topic, field::decode_position("heartbeat.positions", &text)?))
    };
    heartbeat.positions.into_iter().map(read).collect()
}

pub(super) fn encode_event(event: &ServerEvent) -> Bytes {
    let (id, wire) = match event {
        ServerEvent::Subscribed { id, topic, position, recovered, delivery } => {
            let (topic, position, recovered) =
                (topic.to_string(), position.to_string(), *recovered);
            let delivery = match delivery {
                Delivery::All => String::new(),
                other => other.to_string(),
            };
            (*id, WireEvent::Subscribed(pb::Subscribed { topic, position, recovered, delivery }))
        }
        ServerEvent::Unsubscribed { id, topic } => {
            (*id, WireEvent::Unsubscribed(pb::Unsubscribed { topic: topic.to_string() }))
        }
        ServerEvent::Published { id, position, durability } => {
            let durability = field::encode_durability(*durability);
            (
                *id,
                WireEvent::Published(pb::Published { position: position.to_string(), durability }),
            )
        }
        ServerEvent::Authenticated { id, expires } => {
            (*id, WireEvent::Authenticated(pb::Authenticated { expires_ms: expires.0 }))
        }
        ServerEvent::Message { topic, message } => return encode_message(topic, message),
        ServerEvent::MessageDelta { topic, message_delta } => {
            return encode_message_delta(topic, message_delta);
        }
        ServerEvent::Gap { topic, gap } => return encode_gap(topic, gap),
        ServerEvent::Stale { topic, since } => {
            let (topic, since) = (topic.to_string(), since.to_string());
            (None, WireEvent::Stale(pb::Stale { topic, since }))
        }
        ServerEvent::Audience { topic, count } => {
            let audience = pb::Audience { topic: topic.to_string(), count: *count };
            (None, WireEvent::Audience(audience))
        }
        ServerEvent::Live { topic, position } => {
            let (topic, position) = (topic.to_string(), position.to_string());
            (None, WireEvent::Live(pb::Live { topic, position }))
        }
        ServerEvent::Error { id, code, message, retry, retry_after_ms } => {
            let (code, message) = (code.as_str().to_owned(), message.clone());
            let (retry, back_ms) = (*retry, *retry_after_ms);
            (*id, WireEvent::Error(pb::Error { code, message, retry, back_ms }))
        }
        ServerEvent::Heartbeat { positions } => {
            let to_strings =
                |(topic, position): &(Topic, Position)| (topic.to_string(), position.to_string());
            let positions = positions.iter().map(to_strings).collect();
            (None, WireEvent::Heartbeat(pb::Heartbeat { positions }))
        }
        ServerEvent::Goaway { after_ms, retry_after_ms: back_ms, reason } => {
            let (after_ms, back_ms, reason) = (*after_ms, *back_ms, reason.clone());
            (None, WireEvent::Goaway(pb::Goaway { after_ms, reason, back_ms }))
        }
        ServerEvent::Stream { topic } => {
            (None, WireEvent::Stream(pb::Stream { topic: topic.to_string() }))
        }
    };
    pb::ServerFrame { id: id.unwrap_or(0), event: Some(wire) }.encode_to_vec().into()
}

// === messages and gaps, encoded by hand ===

/// The field number of a message in `ServerFrame.event`.
const MESSAGE_TAG: u32 = 6;
/// The field number of a gap in `ServerFrame.event`.
const GAP_TAG: u32 = 7;

pub(super) fn encode_message(topic: &Topic, message: &Message) -> Bytes {
    let position = message.position.to_string();
    let key = message.key.as_ref().map_or("", MessageKey::as_str);
    let parts = [
        (1, topic.as_str().as_bytes()),
        (2, position.as_bytes()),
        (4, message.content_type.as_str().as_bytes()),
        (5, key.as_bytes()),
        (6, &message.payload),
    ];
    encode_event_fields(MESSAGE_TAG, &parts, Some((3, message.time.0)))
}

pub(super) fn encode_message_delta(topic: &Topic, message_delta: &MessageDelta) -> Bytes {
    let position = message_delta.position.to_string();
    let key = message_delta.key.as_ref().map_or("", MessageKey::as_str);
    let parts = [
        (1, topic.as_str().as_bytes()),
        (2, position.as_bytes()),
        (5, key.as_bytes()),
        (7, &message_delta.delta),
    ];
    encode_event_fields(MESSAGE_TAG, &parts, Some((3, message_delta.time.0)))
}

pub(super) fn encode_gap(topic: &Topic, gap: &Gap) -> Bytes {
    let (from, to) = (gap.from.to_string(), gap.to.to_string());
    let parts = [
        (1, topic.as_str().as_bytes()),
        (2, from.as_bytes()),
        (3, to.as_bytes()),
        (4, gap.reason.as_str().as_bytes()),
    ];
    encode_event_fields(GAP_TAG, &parts, None)
}

/// Whether an encoded frame holds a message. The event is the first field of a frame without an id, and the
/// key of a field below 16 is one byte.
pub(super) fn is_message(frame: &[u8]) -> bool {
    frame.first() == Some(&((MESSAGE_TAG << 3 | WireType::LengthDelimited as u32) as u8))
}

/// Encodes a server frame with one event of byte fields and at most one number. Fields may be in any order,
/// and empty fields are omitted.
fn encode_event_fields(
    event_tag: u32,
    parts: &[(u32, &[u8])],
    number: Option<(u32, u64)>,
) -> Bytes {
    let parts = || parts.iter().filter(|(_, bytes)| !bytes.is_empty());
    let number = number.filter(|&(_, value)| value != 0);
    let bytes_len = |len: usize| encoded_len_varint(len as u64) + len;
    let body = parts().map(|(tag, bytes)| key_len(*tag) + bytes_len(bytes.len())).sum::<usize>()
        + number.map_or(0, |(tag, value)| key_len(tag) + encoded_len_varint(value));

    let mut out = BytesMut::with_capacity(key_len(event_tag) + bytes_len(body));
    encode_key(event_tag, WireType::LengthDelimited, &mut out);
    encode_varint(body as u64, &mut out);
    if let Some((tag, value)) = number {
        encode_key(tag, WireType::Varint, &mut out);
        encode_varint(value, &mut out);
    }
    for (tag, bytes) in parts() {
        encode_key(*tag, WireType::LengthDelimited, &mut out);
        encode_varint(bytes.len() as u64, &mut out);
        out.put_slice(bytes);
    }
    out.freeze()
}

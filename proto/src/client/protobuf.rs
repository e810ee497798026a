//! One `ClientFrame` or `ServerFrame` of `client.proto` a frame. The frames of messages and gaps are
//! written by hand: the generated types would copy every part of them into strings first.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use pushonce_core::{
    ContentType, Delivery, From, Gap, Key, Message, Options, Position, Publish, Timestamp, Topic,
};

use super::delta::{FOSSIL, is_fossil};
use super::{Command, Difference, ErrorCode, Event, InvalidFrame, Request};
use crate::InvalidField;
use crate::field;
use crate::pb::client::v1 as pb;
use pb::client_frame::Request as WireRequest;
use pb::server_frame::Event as WireEvent;

// === requests ===

pub(super) fn decode_request(frame: &Bytes) -> Result<Request, InvalidFrame> {
    let frame = pb::ClientFrame::decode(frame.clone());
    let frame = frame.map_err(|why| InvalidFrame::broken(format!("not a ClientFrame: {why}")))?;
    let id = id(frame.id);
    let Some(request) = frame.request else {
        let why = "the frame has no request that this version knows";
        return Err(InvalidFrame::new(ErrorCode::UnknownField, why).of(id));
    };
    command(request).map(|command| Request { id, command }).map_err(|why| why.of(id))
}

fn command(request: WireRequest) -> Result<Command, InvalidFrame> {
    Ok(match request {
        WireRequest::Subscribe(subscribe) => Command::Subscribe {
            topic: topic(&subscribe.topic)?,
            options: options(&subscribe)?,
            from: from(subscribe.from)?,
        },
        WireRequest::Unsubscribe(unsubscribe) => {
            Command::Unsubscribe { topic: topic(&unsubscribe.topic)? }
        }
        WireRequest::Publish(publish) => Command::Publish(read_publish(publish)?),
        WireRequest::Authenticate(authenticate) => {
            Command::Authenticate { token: authenticate.token }
        }
    })
}

fn read_publish(publish: pb::Publish) -> Result<Publish, InvalidFrame> {
    let bad = |why| InvalidFrame::new(ErrorCode::BadRequest, why);
    Ok(Publish {
        topic: topic(&publish.topic)?,
        content_type: match publish.content_type.as_str() {
            "" => ContentType::guess(&publish.data),
            said => ContentType::parse(said).map_err(bad)?,
        },
        key: (!publish.key.is_empty()).then(|| Key::new(&publish.key)).transpose().map_err(bad)?,
        stamp: None,
        payload: publish.data,
    })
}

fn from(from: Option<pb::From>) -> Result<From, InvalidFrame> {
    Ok(match from.and_then(|from| from.from) {
        None | Some(pb::from::From::Now(_)) => From::Now,
        Some(pb::from::From::Last(count)) => From::Last(count),
        Some(pb::from::From::Position(text)) => From::Position(
            text.parse().map_err(|why| InvalidFrame::new(ErrorCode::BadPosition, why))?,
        ),
        Some(pb::from::From::Start(_)) => From::Start,
    })
}

fn options(subscribe: &pb::Subscribe) -> Result<Options, InvalidFrame> {
    let bad = |why| InvalidFrame::new(ErrorCode::BadRequest, why);
    let delivery = Some(subscribe.delivery.as_str()).filter(|word| !word.is_empty());
    Ok(Options {
        delivery: delivery.map(str::parse).transpose().map_err(bad)?,
        conflated: subscribe.conflated,
        audience: subscribe.audience,
        delta: match subscribe.delta.as_str() {
            "" => false,
            kind => is_fossil(kind)?,
        },
        datagrams: subscribe.datagrams,
    })
}

fn topic(name: &str) -> Result<Topic, InvalidFrame> {
    Topic::new(name).map_err(|why| InvalidFrame::new(ErrorCode::BadTopic, why))
}

/// Zero is none.
fn id(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

pub(super) fn encode_request(request: &Request) -> Bytes {
    let wire = match &request.command {
        Command::Subscribe { topic, from, options } => WireRequest::Subscribe(pb::Subscribe {
            topic: topic.to_string(),
            from: Some(written_from(*from)),
            delivery: options.delivery.map_or_else(String::new, |delivery| delivery.to_string()),
            conflated: options.conflated,
            audience: options.audience,
            delta: if options.delta { FOSSIL.to_owned() } else { String::new() },
            datagrams: options.datagrams,
        }),
        Command::Unsubscribe { topic } => {
            WireRequest::Unsubscribe(pb::Unsubscribe { topic: topic.to_string() })
        }
        Command::Publish(publish) => WireRequest::Publish(pb::Publish {
            topic: publish.topic.to_string(),
            data: publish.payload.clone(),
            content_type: publish.content_type.to_string(),
            key: publish.key.as_ref().map_or_else(String::new, |key| key.as_str().to_owned()),
        }),
        Command::Authenticate { token } => {
            WireRequest::Authenticate(pb::Authenticate { token: token.clone() })
        }
    };
    let frame = pb::ClientFrame { id: request.id.unwrap_or(0), request: Some(wire) };
    frame.encode_to_vec().into()
}

fn written_from(from: From) -> pb::From {
    let from = match from {
        From::Now => pb::from::From::Now(true),
        From::Last(count) => pb::from::From::Last(count),
        From::Position(position) => pb::from::From::Position(position.to_string()),
        From::Start => pb::from::From::Start(true),
    };
    pb::From { from: Some(from) }
}

// === events ===

pub(super) fn decode_event(frame: &Bytes) -> Result<Event, InvalidFrame> {
    let frame = pb::ServerFrame::decode(frame.clone());
    let frame = frame.map_err(|why| InvalidFrame::broken(format!("not a ServerFrame: {why}")))?;
    let id = id(frame.id);
    let Some(event) = frame.event else {
        let why = "the frame has no event that this version knows";
        return Err(InvalidFrame::new(ErrorCode::UnknownField, why).of(id));
    };
    // An event that is known and cannot be read must not be passed over: it may be a message.
    read_event(id, event).map_err(|why| InvalidFrame::broken(why).of(id))
}

fn read_event(id: Option<u64>, event: WireEvent) -> Result<Event, InvalidField> {
    Ok(match event {
        WireEvent::Subscribed(subscribed) => Event::Subscribed {
            id,
            topic: field::topic("subscribed.topic", &subscribed.topic)?,
            position: field::position("subscribed.position", &subscribed.position)?,
            recovered: subscribed.recovered,
            delivery: read_delivery("subscribed.delivery", &subscribed.delivery)?,
        },
        WireEvent::Unsubscribed(unsubscribed) => Event::Unsubscribed {
            id,
            topic: field::topic("unsubscribed.topic", &unsubscribed.topic)?,
        },
        WireEvent::Published(published) => Event::Published {
            id,
            position: field::position("published.position", &published.position)?,
            durability: field::durability("published.durability", published.durability)?,
        },
        WireEvent::Authenticated(authenticated) => {
            Event::Authenticated { id, expires: Timestamp(authenticated.expires_ms) }
        }
        WireEvent::Message(message) if !message.delta.is_empty() => Event::Difference {
            topic: field::topic("message.topic", &message.topic)?,
            difference: read_difference(message)?,
        },
        WireEvent::Message(message) => Event::Message {
            topic: field::topic("message.topic", &message.topic)?,
            message: Arc::new(read_message(message)?),
        },
        WireEvent::Gap(gap) => Event::Gap {
            topic: field::topic("gap.topic", &gap.topic)?,
            gap: Gap {
                from: field::position("gap.from", &gap.from)?,
                to: field::position("gap.to", &gap.to)?,
                reason: field::reason("gap.reason", &gap.reason)?,
            },
        },
        WireEvent::Stale(stale) => Event::Stale {
            topic: field::topic("stale.topic", &stale.topic)?,
            since: field::position("stale.since", &stale.since)?,
        },
        WireEvent::Live(live) => Event::Live {
            topic: field::topic("live.topic", &live.topic)?,
            position: field::position("live.position", &live.position)?,
        },
        WireEvent::Audience(audience) => Event::Audience {
            topic: field::topic("audience.topic", &audience.topic)?,
            count: audience.count,
        },
        WireEvent::Error(error) => Event::Error {
            id,
            code: ErrorCode::read(&error.code, error.retry),
            message: error.message,
            retry: error.retry,
        },
        WireEvent::Heartbeat(heartbeat) => {
            Event::Heartbeat { positions: read_positions(heartbeat)? }
        }
        WireEvent::Goaway(goaway) => {
            let pb::Goaway { after_ms, reason, back_ms } = goaway;
            Event::Goaway { after_ms, back_ms, reason }
        }
        WireEvent::Stream(stream) => {
            Event::Stream { topic: field::topic("stream.topic", &stream.topic)? }
        }
    })
}

/// Absent is `all`.
fn read_delivery(field: &'static str, word: &str) -> Result<Delivery, InvalidField> {
    match word {
        "" => Ok(Delivery::All),
        word => word.parse().map_err(|why| InvalidField::new(field, format!("is wrong: {why}"))),
    }
}

fn read_message(message: pb::Message) -> Result<Message, InvalidField> {
    Ok(Message {
        position: field::position("message.position", &message.position)?,
        time: Timestamp(message.time_ms),
        content_type: field::content_type("message.content_type", &message.content_type)?,
        key: field::key("message.key", &message.key)?,
        payload: message.data,
    })
}

fn read_difference(message: pb::Message) -> Result<Difference, InvalidField> {
    Ok(Difference {
        position: field::position("message.position", &message.position)?,
        time: Timestamp(message.time_ms),
        key: field::key("message.key", &message.key)?,
        delta: message.delta,
    })
}

fn read_positions(heartbeat: pb::Heartbeat) -> Result<Vec<(Topic, Position)>, InvalidField> {
    let read = |(name, text): (String, String)| {
        let topic = field::topic("heartbeat.positions", &name)?;
        Ok((topic, field::position("heartbeat.positions", &text)?))
    };
    heartbeat.positions.into_iter().map(read).collect()
}

pub(super) fn encode_event(event: &Event) -> Bytes {
    let (id, wire) = match event {
        Event::Subscribed { id, topic, position, recovered, delivery } => {
            let (topic, position, recovered) =
                (topic.to_string(), position.to_string(), *recovered);
            let delivery = match delivery {
                Delivery::All => String::new(),
                other => other.to_string(),
            };
            (*id, WireEvent::Subscribed(pb::Subscribed { topic, position, recovered, delivery }))
        }
        Event::Unsubscribed { id, topic } => {
            (*id, WireEvent::Unsubscribed(pb::Unsubscribed { topic: topic.to_string() }))
        }
        Event::Published { id, position, durability } => {
            let durability = field::durability_number(*durability);
            (
                *id,
                WireEvent::Published(pb::Published { position: position.to_string(), durability }),
            )
        }
        Event::Authenticated { id, expires } => {
            (*id, WireEvent::Authenticated(pb::Authenticated { expires_ms: expires.0 }))
        }
        Event::Message { topic, message } => return encode_message(topic, message),
        Event::Difference { topic, difference } => return encode_difference(topic, difference),
        Event::Gap { topic, gap } => return encode_gap(topic, gap),
        Event::Stale { topic, since } => {
            let (topic, since) = (topic.to_string(), since.to_string());
            (None, WireEvent::Stale(pb::Stale { topic, since }))
        }
        Event::Audience { topic, count } => {
            let audience = pb::Audience { topic: topic.to_string(), count: *count };
            (None, WireEvent::Audience(audience))
        }
        Event::Live { topic, position } => {
            let (topic, position) = (topic.to_string(), position.to_string());
            (None, WireEvent::Live(pb::Live { topic, position }))
        }
        Event::Error { id, code, message, retry } => {
            let (code, message) = (code.as_str().to_owned(), message.clone());
            (*id, WireEvent::Error(pb::Error { code, message, retry: *retry }))
        }
        Event::Heartbeat { positions } => {
            let written =
                |(topic, position): &(Topic, Position)| (topic.to_string(), position.to_string());
            let positions = positions.iter().map(written).collect();
            (None, WireEvent::Heartbeat(pb::Heartbeat { positions }))
        }
        Event::Goaway { after_ms, back_ms, reason } => {
            let (after_ms, back_ms, reason) = (*after_ms, *back_ms, reason.clone());
            (None, WireEvent::Goaway(pb::Goaway { after_ms, reason, back_ms }))
        }
        Event::Stream { topic } => {
            (None, WireEvent::Stream(pb::Stream { topic: topic.to_string() }))
        }
    };
    pb::ServerFrame { id: id.unwrap_or(0), event: Some(wire) }.encode_to_vec().into()
}

// === by hand ===

/// The numbers of `ServerFrame.event`.
const MESSAGE: u32 = 6;
const GAP: u32 = 7;

pub(super) fn encode_message(topic: &Topic, message: &Message) -> Bytes {
    let position = message.position.to_string();
    let key = message.key.as_ref().map_or("", Key::as_str);
    let parts = [
        (1, topic.as_str().as_bytes()),
        (2, position.as_bytes()),
        (4, message.content_type.as_str().as_bytes()),
        (5, key.as_bytes()),
        (6, &message.payload),
    ];
    encode(MESSAGE, &parts, Some((3, message.time.0)))
}

pub(super) fn encode_difference(topic: &Topic, difference: &Difference) -> Bytes {
    let position = difference.position.to_string();
    let key = difference.key.as_ref().map_or("", Key::as_str);
    let parts = [
        (1, topic.as_str().as_bytes()),
        (2, position.as_bytes()),
        (5, key.as_bytes()),
        (7, &difference.delta),
    ];
    encode(MESSAGE, &parts, Some((3, difference.time.0)))
}

pub(super) fn encode_gap(topic: &Topic, gap: &Gap) -> Bytes {
    let (from, to) = (gap.from.to_string(), gap.to.to_string());
    let parts = [
        (1, topic.as_str().as_bytes()),
        (2, from.as_bytes()),
        (3, to.as_bytes()),
        (4, gap.reason.as_str().as_bytes()),
    ];
    encode(GAP, &parts, None)
}

/// The event is the first field of a frame that answers nothing, and a key below 16 is one byte.
pub(super) fn is_message(frame: &[u8]) -> bool {
    frame.first() == Some(&((MESSAGE << 3 | WireType::LengthDelimited as u32) as u8))
}

/// A server frame with one event: fields of bytes, and at most one number. Fields may stand in any
/// order, and an empty one is left out.
fn encode(event: u32, parts: &[(u32, &[u8])], number: Option<(u32, u64)>) -> Bytes {
    let parts = || parts.iter().filter(|(_, bytes)| !bytes.is_empty());
    let number = number.filter(|&(_, value)| value != 0);
    let bytes_len = |len: usize| encoded_len_varint(len as u64) + len;
    let body = parts().map(|(tag, bytes)| key_len(*tag) + bytes_len(bytes.len())).sum::<usize>()
        + number.map_or(0, |(tag, value)| key_len(tag) + encoded_len_varint(value));

    let mut out = BytesMut::with_capacity(key_len(event) + bytes_len(body));
    encode_key(event, WireType::LengthDelimited, &mut out);
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

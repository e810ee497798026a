//! Text to domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{
    Delivery, Durability, From, Gap, Key, Message, Options, Position, Publish, Timestamp, Topic,
};
use serde_json::value::RawValue;

use super::data;
use super::fields::{Fields, unknown};
use crate::client::delta::is_fossil;
use crate::client::{Command, Difference, ErrorCode, Event, InvalidFrame, Request};
use crate::field;

/// Reads what a client sent.
pub(in crate::client) fn decode_request(frame: &Bytes) -> Result<Request, InvalidFrame> {
    let mut fields = object(frame)?;
    let id = id(&mut fields)?;
    command(fields).map(|command| Request { id, command }).map_err(|why| why.of(id))
}

/// Reads what a server sent. Fields that this version does not know are passed over.
pub(in crate::client) fn decode_event(frame: &Bytes) -> Result<Event, InvalidFrame> {
    let mut fields = object(frame)?;
    let id = id(&mut fields)?;
    event(id, fields).map_err(|why| why.of(id))
}

fn object(frame: &Bytes) -> Result<Fields<'_>, InvalidFrame> {
    let text = std::str::from_utf8(frame);
    let text =
        text.map_err(|why| InvalidFrame::broken(format!("the frame is not UTF-8: {why}")))?;
    let no_object = |why| InvalidFrame::broken(format!("a frame is one JSON object: {why}"));
    Fields::of(text).map_err(no_object)
}

fn id(fields: &mut Fields<'_>) -> Result<Option<u64>, InvalidFrame> {
    match fields.take("id", "a whole number from 1")? {
        Some(0) => {
            Err(InvalidFrame::new(ErrorCode::BadRequest, "`id` must be a whole number from 1"))
        }
        id => Ok(id),
    }
}

// === requests ===

type ReadCommand = fn(&mut Fields<'_>) -> Result<Command, InvalidFrame>;

const COMMANDS: [(&str, ReadCommand); 4] = [
    ("subscribe", subscribe),
    ("unsubscribe", unsubscribe),
    ("publish", publish),
    ("authenticate", authenticate),
];

fn command(mut fields: Fields<'_>) -> Result<Command, InvalidFrame> {
    COMMANDS.iter().for_each(|(name, _)| fields.drop_null(name));
    let Some((name, value)) = fields.first().map(|(name, value)| (name.to_owned(), value)) else {
        let why = "the frame asks for nothing; say subscribe, unsubscribe, publish or authenticate";
        return Err(InvalidFrame::new(ErrorCode::BadRequest, why));
    };
    let Some((_, read)) = COMMANDS.iter().find(|(command, _)| *command == name) else {
        return Err(unknown(&name));
    };
    fields.raw(&name);
    fields.finish()?;
    let mut body = Fields::inside(&name, value)?;
    let command = read(&mut body)?;
    body.finish()?;
    Ok(command)
}

fn subscribe(body: &mut Fields<'_>) -> Result<Command, InvalidFrame> {
    Ok(Command::Subscribe {
        topic: topic(body)?,
        from: body.optional("from").map(from).transpose()?.unwrap_or_default(),
        options: options(body)?,
    })
}

fn options(body: &mut Fields<'_>) -> Result<Options, InvalidFrame> {
    Ok(Options {
        delivery: body.optional("delivery").map(delivery).transpose()?,
        conflated: body.take("conflated", "true or false")?.unwrap_or(false),
        audience: body.take("audience", "true or false")?.unwrap_or(false),
        delta: match body.take::<String>("delta", "a string")? {
            None => false,
            Some(kind) => is_fossil(&kind)?,
        },
        datagrams: body.take("datagrams", "true or false")?.unwrap_or(false),
    })
}

fn unsubscribe(body: &mut Fields<'_>) -> Result<Command, InvalidFrame> {
    Ok(Command::Unsubscribe { topic: topic(body)? })
}

fn publish(body: &mut Fields<'_>) -> Result<Command, InvalidFrame> {
    let topic = topic(body)?;
    let (content_type, payload) = data::read(body)?;
    let key = key(body)?;
    Ok(Command::Publish(Publish { topic, content_type, key, stamp: None, payload }))
}

fn authenticate(body: &mut Fields<'_>) -> Result<Command, InvalidFrame> {
    Ok(Command::Authenticate { token: body.need("token", "a string")? })
}

fn from(value: &RawValue) -> Result<From, InvalidFrame> {
    let why = r#"`from` is "now", "start", {"last":10} or {"position":"12:4051"}"#;
    let wrong = || InvalidFrame::new(ErrorCode::BadRequest, why);
    match value.get() {
        r#""now""# => return Ok(From::Now),
        r#""start""# => return Ok(From::Start),
        _ => {}
    }
    let mut body = Fields::of(value.get()).map_err(|_| wrong())?;
    let last = body.take("last", "a whole number below 4294967296")?;
    let position = body.take::<String>("position", "a string")?;
    body.finish()?;
    match (last, position) {
        (Some(count), None) => Ok(From::Last(count)),
        (None, Some(text)) => {
            let position = text.parse();
            let bad = |why| InvalidFrame::new(ErrorCode::BadPosition, why);
            position.map(From::Position).map_err(bad)
        }
        _ => Err(wrong()),
    }
}

fn delivery(value: &RawValue) -> Result<Delivery, InvalidFrame> {
    let why = r#"`delivery` is "all", "latest" or {"rate":N}, N messages a second, 1 to 65535"#;
    let wrong = || InvalidFrame::new(ErrorCode::BadRequest, why);
    match value.get() {
        r#""all""# => return Ok(Delivery::All),
        r#""latest""# => return Ok(Delivery::Latest),
        _ => {}
    }
    let mut body = Fields::of(value.get()).map_err(|_| wrong())?;
    let rate = body.take("rate", "a whole number from 1 to 65535")?;
    body.finish()?;
    rate.map(Delivery::Rate).ok_or_else(wrong)
}

// === events ===

type ReadEvent = fn(Option<u64>, &mut Fields<'_>) -> Result<Event, InvalidFrame>;

const EVENTS: [(&str, ReadEvent); 12] = [
    ("message", message),
    ("gap", gap),
    ("heartbeat", heartbeat),
    ("stale", stale),
    ("live", live),
    ("audience", audience),
    ("subscribed", subscribed),
    ("unsubscribed", unsubscribed),
    ("published", published),
    ("error", error),
    ("goaway", goaway),
    ("authenticated", authenticated),
];

fn event(id: Option<u64>, mut fields: Fields<'_>) -> Result<Event, InvalidFrame> {
    let known = EVENTS.iter().find_map(|(name, read)| Some((name, read, fields.raw(name)?)));
    let Some((name, read, value)) = known else {
        return Err(unknown(fields.first().map_or("", |(name, _)| name)));
    };
    // An event that is known and cannot be read must not be passed over: it may be a message.
    Fields::inside(name, value)
        .and_then(|mut body| read(id, &mut body))
        .map_err(|why| InvalidFrame::broken(format!("{name}: {why}")))
}

fn subscribed(id: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    Ok(Event::Subscribed {
        id,
        topic: topic(body)?,
        position: position(body, "position")?,
        recovered: body.need("recovered", "true or false")?,
        delivery: body.optional("delivery").map(delivery).transpose()?.unwrap_or_default(),
    })
}

fn unsubscribed(id: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    Ok(Event::Unsubscribed { id, topic: topic(body)? })
}

fn published(id: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    let kind = "replicated or memory";
    let durability = match body.take::<String>("durability", kind)? {
        None => Durability::Replicated,
        Some(word) => Durability::parse(&word).ok_or_else(|| {
            InvalidFrame::new(ErrorCode::BadRequest, format!("`durability` must be {kind}"))
        })?,
    };
    Ok(Event::Published { id, position: position(body, "position")?, durability })
}

fn authenticated(id: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    Ok(Event::Authenticated { id, expires: Timestamp(body.need("expires", "a time")?) })
}

fn message(_: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    let topic = topic(body)?;
    let position = position(body, "position")?;
    let time = Timestamp(body.need("time", "a time")?);
    let key = key(body)?;
    if let Some(delta) = data::read_delta(body)? {
        let difference = Difference { position, time, key, delta };
        return Ok(Event::Difference { topic, difference });
    }
    let (content_type, payload) = data::read(body)?;
    let message = Arc::new(Message { position, time, content_type, key, payload });
    Ok(Event::Message { topic, message })
}

fn gap(_: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    let reason = body.need::<String>("reason", "a string")?;
    let reason = field::gap_reason(&reason)
        .ok_or_else(|| InvalidFrame::new(ErrorCode::BadRequest, "`reason` is unknown"))?;
    let (from, to) = (position(body, "from")?, position(body, "to")?);
    Ok(Event::Gap { topic: topic(body)?, gap: Gap { from, to, reason } })
}

fn stale(_: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    Ok(Event::Stale { topic: topic(body)?, since: position(body, "since")? })
}

fn live(_: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    Ok(Event::Live { topic: topic(body)?, position: position(body, "position")? })
}

fn audience(_: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    Ok(Event::Audience { topic: topic(body)?, count: body.need("count", "a whole number")? })
}

fn error(id: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    let retry = body.take("retry", "true or false")?.unwrap_or(false);
    let code = ErrorCode::read(&body.need::<String>("code", "a string")?, retry);
    Ok(Event::Error { id, code, message: body.need("message", "a string")?, retry })
}

fn heartbeat(_: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    let positions: BTreeMap<String, String> = body.need("positions", "an object")?;
    let read = |(name, text): (String, String)| Ok((new_topic(&name)?, new_position(&text)?));
    Ok(Event::Heartbeat { positions: positions.into_iter().map(read).collect::<Result<_, _>>()? })
}

fn goaway(_: Option<u64>, body: &mut Fields<'_>) -> Result<Event, InvalidFrame> {
    Ok(Event::Goaway {
        after_ms: body.need("after_ms", "a whole number")?,
        back_ms: body.take("back_ms", "a whole number")?.unwrap_or(0),
        reason: body.take("reason", "a string")?.unwrap_or_default(),
    })
}

// === fields ===

fn topic(body: &mut Fields<'_>) -> Result<Topic, InvalidFrame> {
    new_topic(&body.need::<String>("topic", "a string")?)
}

fn new_topic(name: &str) -> Result<Topic, InvalidFrame> {
    Topic::new(name).map_err(|why| InvalidFrame::new(ErrorCode::BadTopic, why))
}

fn position(body: &mut Fields<'_>, name: &str) -> Result<Position, InvalidFrame> {
    new_position(&body.need::<String>(name, "a string")?)
}

fn new_position(text: &str) -> Result<Position, InvalidFrame> {
    text.parse().map_err(|why| InvalidFrame::new(ErrorCode::BadPosition, why))
}

fn key(body: &mut Fields<'_>) -> Result<Option<Key>, InvalidFrame> {
    let key = body.take::<String>("key", "a string")?.map(|text| Key::new(&text)).transpose();
    key.map_err(|why| InvalidFrame::new(ErrorCode::BadRequest, why))
}

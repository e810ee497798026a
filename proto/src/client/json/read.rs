//! Decoding of JSON frames to domain types.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{
    AccessToken, Delivery, Durability, Gap, Message, MessageKey, Position, Publish, StartFrom,
    SubscribeOptions, Timestamp, Topic,
};
use serde_json::value::RawValue;

use super::data;
use super::fields::{JsonFields, unknown_field};
use crate::client::delta::is_fossil;
use crate::client::{
    ClientCommand, ClientRequest, ErrorCode, InvalidFrame, MessageDelta, ServerEvent,
};
use crate::field;

/// Decodes a frame of a client.
pub(in crate::client) fn decode_request(frame: &Bytes) -> Result<ClientRequest, InvalidFrame> {
    let mut fields = parse_object(frame)?;
    let id = take_id(&mut fields)?;
    parse_command(fields)
        .map(|command| ClientRequest { id, command })
        .map_err(|error| error.with_id(id))
}

/// Decodes a frame of a server. Fields that this version does not know are skipped.
pub(in crate::client) fn decode_event(frame: &Bytes) -> Result<ServerEvent, InvalidFrame> {
    let mut fields = parse_object(frame)?;
    let id = take_id(&mut fields)?;
    parse_event(id, fields).map_err(|error| error.with_id(id))
}

fn parse_object(frame: &Bytes) -> Result<JsonFields<'_>, InvalidFrame> {
    let text = std::str::from_utf8(frame);
    let text =
        text.map_err(|error| InvalidFrame::fatal(format!("the frame is not UTF-8: {error}")))?;
    let not_an_object =
        |error| InvalidFrame::fatal(format!("the frame is not a JSON object: {error}"));
    JsonFields::parse(text).map_err(not_an_object)
}

fn take_id(fields: &mut JsonFields<'_>) -> Result<Option<u64>, InvalidFrame> {
    match fields.take("id", "a whole number from 1")? {
        Some(0) => {
            Err(InvalidFrame::new(ErrorCode::BadRequest, "`id` must be a whole number from 1"))
        }
        id => Ok(id),
    }
}

// === requests ===

type CommandParser = fn(&mut JsonFields<'_>) -> Result<ClientCommand, InvalidFrame>;

const COMMANDS: [(&str, CommandParser); 4] = [
    ("subscribe", parse_subscribe),
    ("unsubscribe", parse_unsubscribe),
    ("publish", parse_publish),
    ("authenticate", parse_authenticate),
];

fn parse_command(mut fields: JsonFields<'_>) -> Result<ClientCommand, InvalidFrame> {
    COMMANDS.iter().for_each(|(name, _)| fields.remove_null(name));
    let Some((name, value)) =
        fields.first_remaining().map(|(name, value)| (name.to_owned(), value))
    else {
        let message =
            "the frame has no request; add subscribe, unsubscribe, publish or authenticate";
        return Err(InvalidFrame::new(ErrorCode::BadRequest, message));
    };
    let Some((_, read)) = COMMANDS.iter().find(|(command, _)| *command == name) else {
        return Err(unknown_field(&name));
    };
    fields.take_raw(&name);
    fields.reject_remaining()?;
    let mut body = JsonFields::parse_nested(&name, value)?;
    let command = read(&mut body)?;
    body.reject_remaining()?;
    Ok(command)
}

fn parse_subscribe(body: &mut JsonFields<'_>) -> Result<ClientCommand, InvalidFrame> {
    Ok(ClientCommand::Subscribe {
        topic: take_topic(body)?,
        from: body.take_optional("from").map(parse_from).transpose()?.unwrap_or_default(),
        options: parse_options(body)?,
    })
}

fn parse_options(body: &mut JsonFields<'_>) -> Result<SubscribeOptions, InvalidFrame> {
    Ok(SubscribeOptions {
        delivery: body.take_optional("delivery").map(parse_delivery).transpose()?,
        report_conflated: body.take("conflated", "true or false")?.unwrap_or(false),
        report_audience: body.take("audience", "true or false")?.unwrap_or(false),
        accept_deltas: match body.take::<String>("delta", "a string")? {
            None => false,
            Some(kind) => is_fossil(&kind)?,
        },
        use_datagrams: body.take("datagrams", "true or false")?.unwrap_or(false),
    })
}

fn parse_unsubscribe(body: &mut JsonFields<'_>) -> Result<ClientCommand, InvalidFrame> {
    Ok(ClientCommand::Unsubscribe { topic: take_topic(body)? })
}

fn parse_publish(body: &mut JsonFields<'_>) -> Result<ClientCommand, InvalidFrame> {
    let topic = take_topic(body)?;
    let (content_type, payload) = data::read(body)?;
    let key = take_key(body)?;
    Ok(ClientCommand::Publish(Publish { topic, content_type, key, publish_id: None, payload }))
}

fn parse_authenticate(body: &mut JsonFields<'_>) -> Result<ClientCommand, InvalidFrame> {
    let token: String = body.take_required("token", "a string")?;
    Ok(ClientCommand::Authenticate { token: AccessToken::new(token) })
}

fn parse_from(value: &RawValue) -> Result<StartFrom, InvalidFrame> {
    let message = r#"`from` must be "now", "start", {"last":10} or {"position":"12:4051"}"#;
    let invalid = || InvalidFrame::new(ErrorCode::BadRequest, message);
    match value.get() {
        r#""now""# => return Ok(StartFrom::Now),
        r#""start""# => return Ok(StartFrom::Start),
        _ => {}
    }
    let mut body = JsonFields::parse(value.get()).map_err(|_| invalid())?;
    let last = body.take("last", "a whole number below 4294967296")?;
    let position = body.take::<String>("position", "a string")?;
    body.reject_remaining()?;
    match (last, position) {
        (Some(count), None) => Ok(StartFrom::Last(count)),
        (None, Some(text)) => {
            let position = text.parse();
            let bad_position = |error| InvalidFrame::new(ErrorCode::BadPosition, error);
            position.map(StartFrom::Position).map_err(bad_position)
        }
        _ => Err(invalid()),
    }
}

fn parse_delivery(value: &RawValue) -> Result<Delivery, InvalidFrame> {
    let message =
        r#"`delivery` must be "all", "latest" or {"rate":N} with 1 to 65535 messages per second"#;
    let invalid = || InvalidFrame::new(ErrorCode::BadRequest, message);
    match value.get() {
        r#""all""# => return Ok(Delivery::All),
        r#""latest""# => return Ok(Delivery::Latest),
        _ => {}
    }
    let mut body = JsonFields::parse(value.get()).map_err(|_| invalid())?;
    let rate = body.take("rate", "a whole number from 1 to 65535")?;
    body.reject_remaining()?;
    rate.map(Delivery::Rate).ok_or_else(invalid)
}

// === events ===

type EventParser = fn(Option<u64>, &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame>;

const EVENTS: [(&str, EventParser); 13] = [
    ("message", parse_message),
    ("gap", parse_gap),
    ("heartbeat", parse_heartbeat),
    ("stale", parse_stale),
    ("live", parse_live),
    ("audience", parse_audience),
    ("subscribed", parse_subscribed),
    ("unsubscribed", parse_unsubscribed),
    ("published", parse_published),
    ("error", parse_error),
    ("goaway", parse_goaway),
    ("authenticated", parse_authenticated),
    ("stream", parse_stream),
];

fn parse_event(id: Option<u64>, mut fields: JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    let known = EVENTS.iter().find_map(|(name, read)| Some((name, read, fields.take_raw(name)?)));
    let Some((name, read, value)) = known else {
        return Err(unknown_field(fields.first_remaining().map_or("", |(name, _)| name)));
    };
    // A known event that cannot be decoded must not be skipped: it may be a message.
    JsonFields::parse_nested(name, value)
        .and_then(|mut body| read(id, &mut body))
        .map_err(|error| InvalidFrame::fatal(format!("{name}: {error}")))
}

fn parse_subscribed(
    id: Option<u64>,
    body: &mut JsonFields<'_>,
) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Subscribed {
        id,
        topic: take_topic(body)?,
        position: take_position(body, "position")?,
        recovered: body.take_required("recovered", "true or false")?,
        delivery: body
            .take_optional("delivery")
            .map(parse_delivery)
            .transpose()?
            .unwrap_or_default(),
    })
}

fn parse_unsubscribed(
    id: Option<u64>,
    body: &mut JsonFields<'_>,
) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Unsubscribed { id, topic: take_topic(body)? })
}

fn parse_published(
    id: Option<u64>,
    body: &mut JsonFields<'_>,
) -> Result<ServerEvent, InvalidFrame> {
    let kind = "replicated or memory";
    let word: String = body.take_required("durability", kind)?;
    let durability = Durability::parse(&word).ok_or_else(|| {
        InvalidFrame::new(ErrorCode::BadRequest, format!("`durability` must be {kind}"))
    })?;
    Ok(ServerEvent::Published { id, position: take_position(body, "position")?, durability })
}

fn parse_authenticated(
    id: Option<u64>,
    body: &mut JsonFields<'_>,
) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Authenticated {
        id,
        expires: Timestamp(body.take_required("expires", "a time")?),
    })
}

fn parse_message(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    let topic = take_topic(body)?;
    let position = take_position(body, "position")?;
    let time = Timestamp(body.take_required("time", "a time")?);
    let key = take_key(body)?;
    if let Some(delta) = data::read_delta(body)? {
        let message_delta = MessageDelta { position, time, key, delta };
        return Ok(ServerEvent::MessageDelta { topic, message_delta });
    }
    let (content_type, payload) = data::read(body)?;
    let message = Arc::new(Message { position, time, content_type, key, payload });
    Ok(ServerEvent::Message { topic, message })
}

fn parse_gap(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    let reason = body.take_required::<String>("reason", "a string")?;
    let reason = field::parse_gap_reason(&reason)
        .ok_or_else(|| InvalidFrame::new(ErrorCode::BadRequest, "`reason` is unknown"))?;
    let (from, to) = (take_position(body, "from")?, take_position(body, "to")?);
    Ok(ServerEvent::Gap { topic: take_topic(body)?, gap: Gap { from, to, reason } })
}

fn parse_stream(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Stream { topic: take_topic(body)? })
}

fn parse_stale(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Stale { topic: take_topic(body)?, since: take_position(body, "since")? })
}

fn parse_live(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Live { topic: take_topic(body)?, position: take_position(body, "position")? })
}

fn parse_audience(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Audience {
        topic: take_topic(body)?,
        count: body.take_required("count", "a whole number")?,
    })
}

fn parse_error(id: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    let retry = body.take("retry", "true or false")?.unwrap_or(false);
    let code = ErrorCode::parse(&body.take_required::<String>("code", "a string")?, retry);
    Ok(ServerEvent::Error {
        id,
        code,
        message: body.take_required("message", "a string")?,
        retry,
        retry_after_ms: body.take("back_ms", "a whole number")?.unwrap_or(0),
    })
}

fn parse_heartbeat(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    let positions: BTreeMap<String, String> = body.take_required("positions", "an object")?;
    let read = |(name, text): (String, String)| Ok((parse_topic(&name)?, parse_position(&text)?));
    Ok(ServerEvent::Heartbeat {
        positions: positions.into_iter().map(read).collect::<Result<_, _>>()?,
    })
}

fn parse_goaway(_: Option<u64>, body: &mut JsonFields<'_>) -> Result<ServerEvent, InvalidFrame> {
    Ok(ServerEvent::Goaway {
        after_ms: body.take_required("after_ms", "a whole number")?,
        retry_after_ms: body.take("back_ms", "a whole number")?.unwrap_or(0),
        reason: body.take("reason", "a string")?.unwrap_or_default(),
    })
}

// === fields ===

fn take_topic(body: &mut JsonFields<'_>) -> Result<Topic, InvalidFrame> {
    parse_topic(&body.take_required::<String>("topic", "a string")?)
}

fn parse_topic(name: &str) -> Result<Topic, InvalidFrame> {
    Topic::new(name).map_err(|error| InvalidFrame::new(ErrorCode::BadTopic, error))
}

fn take_position(body: &mut JsonFields<'_>, name: &str) -> Result<Position, InvalidFrame> {
    parse_position(&body.take_required::<String>(name, "a string")?)
}

fn parse_position(text: &str) -> Result<Position, InvalidFrame> {
    text.parse().map_err(|error| InvalidFrame::new(ErrorCode::BadPosition, error))
}

fn take_key(body: &mut JsonFields<'_>) -> Result<Option<MessageKey>, InvalidFrame> {
    let key =
        body.take::<String>("key", "a string")?.map(|text| MessageKey::new(&text)).transpose();
    key.map_err(|error| InvalidFrame::new(ErrorCode::BadRequest, error))
}

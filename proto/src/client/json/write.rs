//! Encoding of domain types to JSON frames.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use pushonce_core::{
    Delivery, Gap, Message, MessageKey, Position, StartFrom, SubscribeOptions, Timestamp, Topic,
};

use super::data;
use crate::client::delta::FOSSIL;
use crate::client::{ClientCommand, ClientRequest, MessageDelta, ServerEvent};

/// Writes a frame: `{"id":1,"subscribed":{` and then the fields of the inner object.
pub(super) struct JsonFrameWriter {
    out: BytesMut,
    is_empty: bool,
}

/// Expected length of a frame without a payload: a topic of the usual length and some numbers.
const FRAME_BYTES_HINT: usize = 160;

pub(in crate::client) fn encode_message(topic: &Topic, message: &Message) -> Bytes {
    // Base64 adds a third; JSON adds nothing, and text a little for escapes.
    let payload_capacity = message.payload.len() + message.payload.len() / 2;
    let Message { position, time, content_type, key, payload: data } = message;
    let mut object = begin_message(topic, *position, *time, key.as_ref(), payload_capacity);
    data::write(&mut object, content_type, data);
    object.finish()
}

/// Whether an encoded frame holds a message: the event is the first member of a frame without an id.
pub(in crate::client) fn is_message(frame: &[u8]) -> bool {
    frame.starts_with(b"{\"message\":")
}

pub(in crate::client) fn encode_message_delta(
    topic: &Topic,
    message_delta: &MessageDelta,
) -> Bytes {
    let MessageDelta { position, time, key, delta } = message_delta;
    let delta_capacity = delta.len() + delta.len() / 2;
    let mut object = begin_message(topic, *position, *time, key.as_ref(), delta_capacity);
    object.string("delta", &STANDARD.encode(delta));
    object.finish()
}

/// Writes the fields before the payload, which comes last so that a client finds its bytes in the text.
fn begin_message(
    topic: &Topic,
    position: Position,
    time: Timestamp,
    key: Option<&MessageKey>,
    payload_capacity: usize,
) -> JsonFrameWriter {
    let mut object = JsonFrameWriter::new(None, "message", FRAME_BYTES_HINT + payload_capacity);
    object.string("topic", topic.as_str());
    object.quoted("position", position);
    object.plain("time", time.0);
    if let Some(key) = key {
        object.string("key", key.as_str());
    }
    object
}

pub(in crate::client) fn encode_gap(topic: &Topic, gap: &Gap) -> Bytes {
    let mut object = JsonFrameWriter::new(None, "gap", FRAME_BYTES_HINT);
    object.string("topic", topic.as_str());
    object.quoted("from", gap.from);
    object.quoted("to", gap.to);
    object.string("reason", gap.reason.as_str());
    object.finish()
}

pub(in crate::client) fn encode_event(event: &ServerEvent) -> Bytes {
    match event {
        ServerEvent::Subscribed { id, topic, position, recovered, delivery } => {
            let mut object = JsonFrameWriter::new(*id, "subscribed", FRAME_BYTES_HINT);
            object.string("topic", topic.as_str());
            object.quoted("position", position);
            object.plain("recovered", recovered);
            if *delivery != Delivery::All {
                put_delivery(&mut object, *delivery);
            }
            object.finish()
        }
        ServerEvent::Unsubscribed { id, topic } => {
            let mut object = JsonFrameWriter::new(*id, "unsubscribed", FRAME_BYTES_HINT);
            object.string("topic", topic.as_str());
            object.finish()
        }
        ServerEvent::Published { id, position, durability } => {
            let mut object = JsonFrameWriter::new(*id, "published", FRAME_BYTES_HINT);
            object.quoted("position", position);
            object.string("durability", durability.as_str());
            object.finish()
        }
        ServerEvent::Authenticated { id, expires } => {
            let mut object = JsonFrameWriter::new(*id, "authenticated", FRAME_BYTES_HINT);
            object.plain("expires", expires.0);
            object.finish()
        }
        ServerEvent::Message { topic, message } => encode_message(topic, message),
        ServerEvent::MessageDelta { topic, message_delta } => {
            encode_message_delta(topic, message_delta)
        }
        ServerEvent::Gap { topic, gap } => encode_gap(topic, gap),
        ServerEvent::Stale { topic, since } => {
            encode_topic_position("stale", topic, "since", since)
        }
        ServerEvent::Live { topic, position } => {
            encode_topic_position("live", topic, "position", position)
        }
        ServerEvent::Audience { topic, count } => {
            let mut object = JsonFrameWriter::new(None, "audience", FRAME_BYTES_HINT);
            object.string("topic", topic.as_str());
            object.plain("count", count);
            object.finish()
        }
        ServerEvent::Error { id, code, message, retry, retry_after_ms: back_ms } => {
            let mut object = JsonFrameWriter::new(*id, "error", FRAME_BYTES_HINT + message.len());
            object.string("code", code.as_str());
            object.string("message", message);
            object.plain("retry", retry);
            if *back_ms > 0 {
                object.plain("back_ms", back_ms);
            }
            object.finish()
        }
        ServerEvent::Heartbeat { positions } => {
            let mut object =
                JsonFrameWriter::new(None, "heartbeat", FRAME_BYTES_HINT * (1 + positions.len()));
            object.open("positions");
            for (topic, position) in positions {
                object.quoted(topic.as_str(), position);
            }
            object.close();
            object.finish()
        }
        ServerEvent::Goaway { after_ms, retry_after_ms: back_ms, reason } => {
            let mut object = JsonFrameWriter::new(None, "goaway", FRAME_BYTES_HINT);
            object.plain("after_ms", after_ms);
            if *back_ms > 0 {
                object.plain("back_ms", back_ms);
            }
            object.string("reason", reason);
            object.finish()
        }
        ServerEvent::Stream { topic } => {
            let mut object = JsonFrameWriter::new(None, "stream", FRAME_BYTES_HINT);
            object.string("topic", topic.as_str());
            object.finish()
        }
    }
}

fn encode_topic_position(name: &str, topic: &Topic, field: &str, position: &Position) -> Bytes {
    let mut object = JsonFrameWriter::new(None, name, FRAME_BYTES_HINT);
    object.string("topic", topic.as_str());
    object.quoted(field, position);
    object.finish()
}

pub(in crate::client) fn encode_request(request: &ClientRequest) -> Bytes {
    match &request.command {
        ClientCommand::Subscribe { topic, from, options } => {
            let mut object = JsonFrameWriter::new(request.id, "subscribe", FRAME_BYTES_HINT);
            object.string("topic", topic.as_str());
            put_from(&mut object, *from);
            put_options(&mut object, options);
            object.finish()
        }
        ClientCommand::Unsubscribe { topic } => {
            let mut object = JsonFrameWriter::new(request.id, "unsubscribe", FRAME_BYTES_HINT);
            object.string("topic", topic.as_str());
            object.finish()
        }
        ClientCommand::Publish(publish) => {
            let capacity = FRAME_BYTES_HINT + 2 * publish.payload.len();
            let mut object = JsonFrameWriter::new(request.id, "publish", capacity);
            object.string("topic", publish.topic.as_str());
            if let Some(key) = &publish.key {
                object.string("key", key.as_str());
            }
            data::write_unchecked(&mut object, publish);
            object.finish()
        }
        ClientCommand::Authenticate { token } => {
            let token = token.secret();
            let mut object =
                JsonFrameWriter::new(request.id, "authenticate", FRAME_BYTES_HINT + token.len());
            object.string("token", token);
            object.finish()
        }
    }
}

/// Writes the start of a subscription. `now` is omitted, since it is the server's default.
fn put_from(object: &mut JsonFrameWriter, from: StartFrom) {
    match from {
        StartFrom::Now => {}
        StartFrom::Start => object.string("from", "start"),
        StartFrom::Last(count) => {
            object.open("from");
            object.plain("last", count);
            object.close();
        }
        StartFrom::Position(position) => {
            object.open("from");
            object.quoted("position", position);
            object.close();
        }
    }
}

fn put_options(object: &mut JsonFrameWriter, options: &SubscribeOptions) {
    if let Some(delivery) = options.delivery {
        put_delivery(object, delivery);
    }
    if options.report_conflated {
        object.plain("conflated", true);
    }
    if options.report_audience {
        object.plain("audience", true);
    }
    if options.accept_deltas {
        object.string("delta", FOSSIL);
    }
    if options.use_datagrams {
        object.plain("datagrams", true);
    }
}

fn put_delivery(object: &mut JsonFrameWriter, delivery: Delivery) {
    match delivery {
        Delivery::Rate(rate) => {
            object.open("delivery");
            object.plain("rate", rate);
            object.close();
        }
        word => object.quoted("delivery", word),
    }
}

// === impl JsonFrameWriter ===

impl JsonFrameWriter {
    fn new(id: Option<u64>, name: &str, capacity: usize) -> JsonFrameWriter {
        let mut object = JsonFrameWriter { out: BytesMut::with_capacity(capacity), is_empty: true };
        object.out.put_u8(b'{');
        if let Some(id) = id {
            object.plain("id", id);
        }
        object.open(name);
        object
    }

    /// Begins an object in the field `name`.
    fn open(&mut self, name: &str) {
        self.begin_member(name);
        self.out.put_u8(b'{');
        self.is_empty = true;
    }

    /// Ends the object that [`JsonFrameWriter::open`] began.
    fn close(&mut self) {
        self.out.put_u8(b'}');
        self.is_empty = false;
    }

    fn finish(mut self) -> Bytes {
        self.out.put_slice(b"}}");
        self.out.freeze()
    }

    /// Writes a string with escapes.
    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.begin_member(name);
        put_string(&mut self.out, value);
    }

    /// Writes JSON as it is.
    pub(super) fn raw(&mut self, name: &str, json: &str) {
        self.begin_member(name);
        self.out.put_slice(json.as_bytes());
    }

    /// Writes a number or a boolean.
    fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.begin_member(name);
        self.put(format_args!("{value}"));
    }

    /// Writes a value in quotes, without escapes: its text must not need any.
    fn quoted(&mut self, name: &str, value: impl fmt::Display) {
        self.begin_member(name);
        self.put(format_args!("\"{value}\""));
    }

    fn begin_member(&mut self, name: &str) {
        if !self.is_empty {
            self.out.put_u8(b',');
        }
        self.is_empty = false;
        put_string(&mut self.out, name);
        self.out.put_u8(b':');
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a growable buffer does not fail.
        let _ = self.out.write_fmt(text);
    }
}

/// Writes a string, and copies runs of plain bytes at once: only quotes, backslashes and control characters
/// need an escape.
fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let mut remaining = text.as_bytes();
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    let split =
        |bytes| <[u8]>::iter(bytes).position(special).and_then(|at| bytes.split_at_checked(at));
    while let Some((plain, [byte, rest @ ..])) = split(remaining) {
        out.put_slice(plain);
        put_escape(out, *byte);
        remaining = rest;
    }
    out.put_slice(remaining);
    out.put_u8(b'"');
}

fn put_escape(out: &mut BytesMut, byte: u8) {
    let hex = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
    match byte {
        b'"' | b'\\' => out.put_slice(&[b'\\', byte]),
        b'\n' => out.put_slice(b"\\n"),
        b'\r' => out.put_slice(b"\\r"),
        b'\t' => out.put_slice(b"\\t"),
        _ => {
            out.put_slice(b"\\u00");
            out.put_slice(&[hex(byte >> 4), hex(byte & 15)]);
        }
    }
}

//! Messages before and after they are ordered.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Durability, InvalidPublishId, InvalidTopic, Position, PublishId, Topic};

/// Milliseconds since the Unix epoch, UTC. The time of a message is log time: the time that a majority of
/// the clocks of its shard's voters had reached when the owner accepted the message. Within a topic it
/// never decreases, and message age is measured in it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

/// The content type of a payload as in HTTP. The three common types need no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "UncheckedContentType")]
pub enum ContentType {
    /// `application/json`: embedded unchanged in JSON frames, so it is validated on publish.
    Json,
    /// `text/plain; charset=utf-8`: a string in JSON frames, validated as UTF-8 on publish.
    Text,
    /// `application/octet-stream`: base64 in JSON frames.
    #[default]
    Binary,
    /// Any other media type, at most [`ContentType::BYTES_MAX`] visible ASCII characters; base64 in JSON frames.
    Other(Arc<str>),
}

/// A content type in an entry or a snapshot, which a peer may have made.
#[derive(Deserialize)]
enum UncheckedContentType {
    Json,
    Text,
    Binary,
    Other(Arc<str>),
}

/// An idempotency key that travels with the message: 1 to 128 bytes of UTF-8. A publish that repeats a key
/// within the idempotency window of its topic's shard is treated as the same publish.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Arc<str>")]
pub struct MessageKey(Arc<str>);

/// A message before it is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The topic it is published to.
    pub topic: Topic,
    /// Content type of the payload.
    pub content_type: ContentType,
    /// The publisher's idempotency key, if it gave one.
    pub key: Option<MessageKey>,
    /// Beside the key, distinguishes a retry from a new message. Not sent to subscribers.
    pub publish_id: Option<PublishId>,
    /// The payload.
    pub payload: Bytes,
}

/// An ordered message. Immutable, and shared by all its readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Position in the topic.
    pub position: Position,
    /// Log time at which the owner accepted the message.
    pub time: Timestamp,
    /// Content type of the payload.
    pub content_type: ContentType,
    /// The publisher's idempotency key, if it gave one.
    pub key: Option<MessageKey>,
    /// The payload.
    pub payload: Bytes,
}

/// The acknowledgement of a publish. The position never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Position in the topic.
    pub position: Position,
    /// Log time at which the owner accepted the message.
    pub time: Timestamp,
    /// Which failures the message survives.
    pub durability: Durability,
}

/// Why a publish is rejected before it has any effect. Each text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublish {
    /// The topic name breaks a rule.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// The topic has a segment that begins with `$`; these are reserved for the system.
    #[error(
        "topics with a segment that begins with '$' are reserved for the system; choose another name"
    )]
    SystemTopic,
    /// The payload is larger than the limit of the namespace.
    #[error("the payload has {len} bytes; this namespace allows at most {max}")]
    PayloadTooLarge {
        /// Length in bytes.
        len: usize,
        /// Limit in bytes.
        max: usize,
    },
    /// The content type is JSON and the payload is not.
    #[error("the content type is application/json but the payload is not JSON: {0}")]
    NotJson(String),
    /// The content type is text and the payload is not UTF-8.
    #[error("the content type is text/plain but the payload is not UTF-8")]
    NotUtf8,
    /// The content type is no media type, too long, or has characters that are not allowed in a header.
    #[error(
        "a content type is a media type such as image/png, of at most {max} visible ASCII characters",
        max = ContentType::BYTES_MAX
    )]
    ContentType,
    /// The key is empty or too long.
    #[error("a key is 1 to {max} bytes of UTF-8", max = MessageKey::BYTES_MAX)]
    Key,
    /// The nonce or the producer sequence is malformed.
    #[error("{0}")]
    PublishId(InvalidPublishId),
    /// A different message of the topic had the same key or nonce within the idempotency window.
    #[error(
        "the topic has a message with this key and a different payload or content type; give every \
             message its own key, and retry a publish unchanged"
    )]
    KeyReused,
    /// A different message of the producer had the same sequence number.
    #[error(
        "the producer's message with this number had a different payload or content type; number \
             every message once, and retry one unchanged"
    )]
    SequenceReused,
}

impl Publish {
    /// Maximum payload that a namespace can allow: 1 MiB.
    pub const PAYLOAD_BYTES_CAP: usize = 1 << 20;
    /// Default maximum payload of a namespace: 64 KiB.
    pub const PAYLOAD_BYTES_DEFAULT: usize = 64 << 10;

    /// A message without a key and a publish id. It is not validated: [`Publish::validate`].
    pub fn new(topic: Topic, content_type: ContentType, payload: impl Into<Bytes>) -> Publish {
        Publish { topic, content_type, key: None, publish_id: None, payload: payload.into() }
    }

    /// Whether the shard recognises the same publish when it is sent again, so that a retry stores nothing
    /// twice.
    pub fn is_idempotent(&self) -> bool {
        self.key.is_some() || self.publish_id.is_some()
    }

    /// Validates everything that does not depend on the caller's permissions.
    ///
    /// `payload_bytes_max` is the limit of the namespace, in bytes.
    ///
    /// # Errors
    /// [`InvalidPublish`] for the first rule that is broken.
    pub fn validate(&self, payload_bytes_max: usize) -> Result<(), InvalidPublish> {
        if self.topic.is_system() {
            return Err(InvalidPublish::SystemTopic);
        }
        let max = payload_bytes_max.min(Self::PAYLOAD_BYTES_CAP);
        if self.payload.len() > max {
            return Err(InvalidPublish::PayloadTooLarge { len: self.payload.len(), max });
        }
        match self.content_type {
            ContentType::Json => check_json(&self.payload),
            ContentType::Text if std::str::from_utf8(&self.payload).is_err() => {
                Err(InvalidPublish::NotUtf8)
            }
            _ => Ok(()),
        }
    }
}

/// JSON is embedded unchanged in frames, so it must be complete and valid UTF-8. `IgnoredAny` does not
/// check the UTF-8 of skipped strings, so UTF-8 is checked first.
fn check_json(payload: &[u8]) -> Result<(), InvalidPublish> {
    let text =
        std::str::from_utf8(payload).map_err(|error| InvalidPublish::NotJson(error.to_string()))?;
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| InvalidPublish::NotJson(error.to_string()))
}

/// Whether the text is `type/subtype`, each a token (RFC 9110, 5.6.2).
fn is_media_type(text: &str) -> bool {
    let is_token_byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    text.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

impl ContentType {
    /// The longest content type, in bytes.
    pub const BYTES_MAX: usize = 127;

    /// Parses a `Content-Type` value. JSON and text are UTF-8, so `charset=utf-8` is dropped. With another
    /// charset the type is [`ContentType::Other`], and so is text with any other parameter: both are kept
    /// verbatim.
    ///
    /// # Errors
    /// [`InvalidPublish::ContentType`] when it is no media type, too long, or not visible ASCII.
    pub fn parse(text: &str) -> Result<ContentType, InvalidPublish> {
        let is_visible = |c: char| c.is_ascii_graphic() || c == ' ';
        if text.is_empty() || text.len() > Self::BYTES_MAX || !text.chars().all(is_visible) {
            return Err(InvalidPublish::ContentType);
        }
        let lower = text.to_ascii_lowercase();
        let mut parts = lower.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        if !is_media_type(essence) {
            return Err(InvalidPublish::ContentType);
        }
        let parameters: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        let is_utf8 = |part: &&str| matches!(*part, "charset=utf-8" | "charset=\"utf-8\"");
        let has_other_charset = |part: &&str| part.starts_with("charset=") && !is_utf8(part);
        Ok(match essence {
            "application/json" if !parameters.iter().any(has_other_charset) => ContentType::Json,
            "text/plain" if parameters.iter().all(is_utf8) => ContentType::Text,
            "application/octet-stream" if parameters.is_empty() => ContentType::Binary,
            _ => ContentType::Other(text.into()),
        })
    }

    /// Detects the type of a payload without content type: JSON if it parses as JSON, else text if it is
    /// UTF-8, else binary.
    pub fn detect(payload: &[u8]) -> ContentType {
        if check_json(payload).is_ok() {
            ContentType::Json
        } else if std::str::from_utf8(payload).is_ok() {
            ContentType::Text
        } else {
            ContentType::Binary
        }
    }

    /// The value of a `Content-Type` header.
    pub fn as_str(&self) -> &str {
        match self {
            ContentType::Json => "application/json",
            ContentType::Text => "text/plain; charset=utf-8",
            ContentType::Binary => "application/octet-stream",
            ContentType::Other(text) => text,
        }
    }
}

impl TryFrom<UncheckedContentType> for ContentType {
    type Error = InvalidPublish;

    fn try_from(unchecked: UncheckedContentType) -> Result<ContentType, InvalidPublish> {
        Ok(match unchecked {
            UncheckedContentType::Json => ContentType::Json,
            UncheckedContentType::Text => ContentType::Text,
            UncheckedContentType::Binary => ContentType::Binary,
            UncheckedContentType::Other(text) => {
                ContentType::parse(&text)?;
                ContentType::Other(text)
            }
        })
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<Arc<str>> for MessageKey {
    type Error = InvalidPublish;

    fn try_from(text: Arc<str>) -> Result<MessageKey, InvalidPublish> {
        check_key(&text)?;
        Ok(MessageKey(text))
    }
}

fn check_key(text: &str) -> Result<(), InvalidPublish> {
    match text.len() {
        1..=MessageKey::BYTES_MAX => Ok(()),
        _ => Err(InvalidPublish::Key),
    }
}

impl MessageKey {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Validates a key.
    ///
    /// # Errors
    /// [`InvalidPublish::Key`] when it is empty or too long.
    pub fn new(text: &str) -> Result<MessageKey, InvalidPublish> {
        check_key(text)?;
        Ok(MessageKey(text.into()))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util;

    fn publish(topic: &str, content_type: ContentType, payload: &'static [u8]) -> Publish {
        Publish { content_type, ..test_util::publish(topic, payload) }
    }

    #[test]
    fn payload_at_the_limit_is_accepted_and_one_byte_more_is_rejected() {
        let publish = publish("a", ContentType::Binary, b"12345");
        assert_eq!(publish.validate(5), Ok(()));
        assert_eq!(publish.validate(4), Err(InvalidPublish::PayloadTooLarge { len: 5, max: 4 }));
    }

    #[test]
    fn malformed_json_is_rejected() {
        assert_eq!(publish("a", ContentType::Json, b"{\"a\":1}").validate(64), Ok(()));
        let broken = publish("a", ContentType::Json, b"{\"a\":1}{").validate(64);
        assert!(matches!(broken, Err(InvalidPublish::NotJson(_))));
        let not_utf8 = publish("a", ContentType::Json, b"\"\xff\"").validate(64);
        assert!(matches!(not_utf8, Err(InvalidPublish::NotJson(_))));
    }

    #[test]
    fn text_that_is_not_utf8_is_rejected() {
        assert_eq!(
            publish("a", ContentType::Text, b"\xff").validate(64),
            Err(InvalidPublish::NotUtf8)
        );
    }

    #[test]
    fn publish_to_a_system_topic_is_rejected() {
        let result = publish("$sys/a", ContentType::Binary, b"").validate(64);
        assert_eq!(result, Err(InvalidPublish::SystemTopic));
    }

    #[test]
    fn content_types_are_parsed_by_http_rules() {
        let parse = |text| ContentType::parse(text);
        assert_eq!(parse("Application/JSON; charset=utf-8"), Ok(ContentType::Json));
        assert_eq!(parse("text/plain"), Ok(ContentType::Text));
        assert_eq!(parse("text/plain;charset=UTF-8"), Ok(ContentType::Text));
        assert_eq!(parse("text/plain; charset=\"utf-8\";"), Ok(ContentType::Text));
        assert_eq!(parse("image/png"), Ok(ContentType::Other("image/png".into())));
    }

    #[test]
    fn content_type_that_could_break_out_of_a_header_is_rejected() {
        let long = format!("a/{}", "b".repeat(ContentType::BYTES_MAX));
        for text in [
            "",
            "a",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            "a/b\r\nset-cookie: a=1",
            "text/plain\r\n\r\n<script>",
            "text/plain; a=\"b\nc\"",
            "a/b\0",
            "a/\u{e9}",
            &long,
        ] {
            assert_eq!(ContentType::parse(text), Err(InvalidPublish::ContentType), "{text:?}");
        }
    }

    #[test]
    fn content_type_with_other_charset_or_parameter_is_kept_verbatim() {
        for text in [
            "text/plain; charset=iso-8859-1",
            "text/plain; charset=utf-8; format=flowed",
            "application/json; charset=utf-16",
            "application/octet-stream; padding=2",
        ] {
            assert_eq!(ContentType::parse(text), Ok(ContentType::Other(text.into())));
        }
        assert_eq!(ContentType::parse("application/json; odata=full"), Ok(ContentType::Json));
    }

    /// Both are sent to clients, in headers and in frames.
    #[test]
    fn invalid_content_type_or_key_of_a_peer_is_not_decoded() {
        let decode = |bytes: &[u8]| postcard::from_bytes::<(ContentType, MessageKey)>(bytes);
        let valid = (ContentType::Other("image/png".into()), MessageKey::new("k1").unwrap());
        let encoded = postcard::to_stdvec(&valid).unwrap();
        assert_eq!(decode(&encoded), Ok(valid));
        for (content_type, key) in
            [("a/b\r\nSet-Cookie: c", "k1"), ("a/b", ""), ("a/b", &"k".repeat(129))]
        {
            // The same form as that of the valid value: the variant, then both texts.
            let forged = postcard::to_stdvec(&(encoded[0], content_type, key)).unwrap();
            assert!(decode(&forged).is_err(), "{content_type:?} {key:?}");
        }
    }

    #[test]
    fn missing_content_type_is_detected_from_the_payload() {
        assert_eq!(ContentType::detect(b"{\"a\":1}"), ContentType::Json);
        assert_eq!(ContentType::detect(b"goal!"), ContentType::Text);
        assert_eq!(ContentType::detect(b"\xff\xfe"), ContentType::Binary);
        assert_eq!(ContentType::detect(b"\"\xff\""), ContentType::Binary);
    }
}

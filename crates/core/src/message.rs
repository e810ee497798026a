//! What is published, and what it becomes once it has a place.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Durability, InvalidPublishId, InvalidTopic, Position, PublishId, Topic};

/// Milliseconds since the Unix epoch, UTC. The time of a message is log time: what a majority of the clocks
/// of its shard's voters had reached when the owner took it. It never falls from message to message of a
/// topic, and the age of a message is measured in it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

/// What the payload is, in the words of HTTP. The common three cost nothing to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContentType {
    /// `application/json`: sent on in JSON frames as it is, so it is checked when it comes in.
    Json,
    /// `text/plain; charset=utf-8`: a string in JSON frames, checked to be UTF-8.
    Text,
    /// `application/octet-stream`: base64 in JSON frames.
    #[default]
    Binary,
    /// Anything else, at most [`ContentType::BYTES_MAX`] visible ASCII characters; base64 in JSON frames.
    Other(Arc<str>),
}

/// The publisher's own name for a message, which travels with it: 1 to 128 bytes of UTF-8. A publish
/// that repeats it within the window of its topic's shard is taken for the same publish.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageKey(Arc<str>);

/// A message on its way in: checked, not yet ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Where it goes.
    pub topic: Topic,
    /// What the payload is.
    pub content_type: ContentType,
    /// The publisher's name for it, if it gave one.
    pub key: Option<MessageKey>,
    /// What tells a repeat of it from a new message, beside the key. No subscriber sees it.
    pub publish_id: Option<PublishId>,
    /// The payload.
    pub payload: Bytes,
}

/// A message that has its place. Immutable; shared by everyone who shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its place in the topic.
    pub position: Position,
    /// When its owner took it, in log time.
    pub time: Timestamp,
    /// What the payload is.
    pub content_type: ContentType,
    /// The publisher's name for it.
    pub key: Option<MessageKey>,
    /// The payload.
    pub payload: Bytes,
}

/// The acknowledgement of a publish: where the message stands, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Its place in the topic.
    pub position: Position,
    /// When its owner took it, in log time.
    pub time: Timestamp,
    /// What it survives.
    pub durability: Durability,
}

/// Why a publish is refused before anything happens. Each says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublish {
    /// The topic breaks a rule.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// Segments that begin with `$` are the system's.
    #[error("topics with a segment that begins with '$' are the system's; choose another name")]
    SystemTopic,
    /// The payload is over the namespace's limit.
    #[error("the payload has {len} bytes; this namespace takes at most {max}")]
    PayloadTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The content type says JSON and the payload is none.
    #[error("the content type is application/json but the payload is not JSON: {0}")]
    NotJson(String),
    /// The content type says text and the payload is not UTF-8.
    #[error("the content type is text/plain but the payload is not UTF-8")]
    NotUtf8,
    /// Too long, empty, or with characters that no header may have.
    #[error("a content type is 1 to {max} visible ASCII characters", max = ContentType::BYTES_MAX)]
    ContentType,
    /// Empty or too long.
    #[error("a key is 1 to {max} bytes of UTF-8", max = MessageKey::BYTES_MAX)]
    Key,
    /// Not of the form that the contract says.
    #[error("{0}")]
    PublishId(InvalidPublishId),
    /// Another message of the topic had the key or the nonce, not long ago.
    #[error(
        "the topic has a message with this key and another payload or content type; give every \
             message a key of its own, and repeat a publish as it was"
    )]
    KeyReused,
    /// Another message had this number of its producer.
    #[error(
        "the producer's message of this number had another payload or content type; number \
             every message once, and repeat one as it was"
    )]
    SequenceReused,
}

impl Publish {
    /// No namespace may allow a larger payload: 1 MiB.
    pub const PAYLOAD_BYTES_CAP: usize = 1 << 20;
    /// What a namespace allows unless it says otherwise: 64 KiB.
    pub const PAYLOAD_BYTES_DEFAULT: usize = 64 << 10;

    /// Whether the same publish, sent again, is recognised, so that a retry places nothing twice.
    pub fn is_idempotent(&self) -> bool {
        self.key.is_some() || self.publish_id.is_some()
    }

    /// Checks everything that can be checked without knowing the caller.
    ///
    /// `payload_bytes_max` is the namespace's limit.
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

/// JSON goes into other people's frames as it came, so it must be whole, and UTF-8: what is passed
/// over is not looked at closely, so that is checked first.
fn check_json(payload: &[u8]) -> Result<(), InvalidPublish> {
    let text =
        std::str::from_utf8(payload).map_err(|error| InvalidPublish::NotJson(error.to_string()))?;
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| InvalidPublish::NotJson(error.to_string()))
}

impl ContentType {
    /// The longest content type, in bytes.
    pub const BYTES_MAX: usize = 127;

    /// Reads a `Content-Type` value. JSON and text are UTF-8 here, so their `charset=utf-8` is dropped;
    /// with another charset they are neither, and text with any other parameter is kept as it was
    /// written.
    ///
    /// # Errors
    /// [`InvalidPublish::ContentType`] when it is empty, too long, or not visible ASCII.
    pub fn parse(text: &str) -> Result<ContentType, InvalidPublish> {
        let is_visible = |c: char| c.is_ascii_graphic() || c == ' ';
        if text.is_empty() || text.len() > Self::BYTES_MAX || !text.chars().all(is_visible) {
            return Err(InvalidPublish::ContentType);
        }
        let lower = text.to_ascii_lowercase();
        let mut parts = lower.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
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

    /// What a payload is when nobody said: JSON if it is JSON, else text if it is UTF-8, else bytes.
    pub fn detect(payload: &[u8]) -> ContentType {
        if check_json(payload).is_ok() {
            ContentType::Json
        } else if std::str::from_utf8(payload).is_ok() {
            ContentType::Text
        } else {
            ContentType::Binary
        }
    }

    /// As it stands in a `Content-Type` header.
    pub fn as_str(&self) -> &str {
        match self {
            ContentType::Json => "application/json",
            ContentType::Text => "text/plain; charset=utf-8",
            ContentType::Binary => "application/octet-stream",
            ContentType::Other(text) => text,
        }
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl MessageKey {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks and takes a key.
    ///
    /// # Errors
    /// [`InvalidPublish::Key`] when it is empty or too long.
    pub fn new(text: &str) -> Result<MessageKey, InvalidPublish> {
        if text.is_empty() || text.len() > Self::BYTES_MAX {
            return Err(InvalidPublish::Key);
        }
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
        assert_eq!(parse("a\nb"), Err(InvalidPublish::ContentType));
        assert_eq!(parse(""), Err(InvalidPublish::ContentType));
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

    #[test]
    fn missing_content_type_is_detected_from_the_payload() {
        assert_eq!(ContentType::detect(b"{\"a\":1}"), ContentType::Json);
        assert_eq!(ContentType::detect(b"goal!"), ContentType::Text);
        assert_eq!(ContentType::detect(b"\xff\xfe"), ContentType::Binary);
        assert_eq!(ContentType::detect(b"\"\xff\""), ContentType::Binary);
    }
}

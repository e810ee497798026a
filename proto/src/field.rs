//! Conversion of the fields that several contracts share, and the error for an invalid field in a message
//! from another Pushonce program.

use pushonce_core::{
    ClusterVersion, ContentType, Durability, GapReason, InvalidPublishId, MessageKey, Position,
    Topic,
};

/// The error for a field that is missing or invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {reason}")]
pub struct InvalidField {
    /// The name of the field in the `.proto` file.
    pub field: &'static str,
    /// Why the field is invalid, as the end of the sentence "field `x` …".
    pub reason: String,
}

impl InvalidField {
    /// Creates an error. `reason` completes the sentence "field `x` …".
    pub(crate) fn new(field: &'static str, reason: impl std::fmt::Display) -> InvalidField {
        InvalidField { field, reason: reason.to_string() }
    }

    pub(crate) fn missing(field: &'static str) -> InvalidField {
        InvalidField::new(field, "is missing")
    }

    fn invalid(field: &'static str, reason: impl std::fmt::Display) -> InvalidField {
        InvalidField::new(field, format!("is invalid: {reason}"))
    }
}

pub(crate) fn decode_topic(field: &'static str, name: &str) -> Result<Topic, InvalidField> {
    Topic::new(name).map_err(|error| InvalidField::invalid(field, error))
}

pub(crate) fn decode_version(
    field: &'static str,
    number: u32,
) -> Result<ClusterVersion, InvalidField> {
    u16::try_from(number).map(ClusterVersion).map_err(|error| InvalidField::invalid(field, error))
}

pub(crate) fn decode_position(field: &'static str, text: &str) -> Result<Position, InvalidField> {
    text.parse().map_err(|error| InvalidField::invalid(field, error))
}

pub(crate) fn decode_gap_reason(
    field: &'static str,
    name: &str,
) -> Result<GapReason, InvalidField> {
    parse_gap_reason(name)
        .ok_or_else(|| InvalidField::invalid(field, format!("unknown gap reason {name:?}")))
}

/// Decodes the content type of a message that has a position: such a message always has one, and the empty
/// string means binary.
pub(crate) fn decode_content_type(
    field: &'static str,
    text: &str,
) -> Result<ContentType, InvalidField> {
    known_content_type(text).map_or_else(
        || ContentType::parse(text).map_err(|error| InvalidField::invalid(field, error)),
        Ok,
    )
}

/// Decodes a message key; the empty string means no key.
pub(crate) fn decode_key(
    field: &'static str,
    text: &str,
) -> Result<Option<MessageKey>, InvalidField> {
    let key = (!text.is_empty()).then(|| MessageKey::new(text)).transpose();
    key.map_err(|error| InvalidField::invalid(field, error))
}

/// Decodes a random id of 16 bytes.
pub(crate) fn decode_random_id(
    field: &'static str,
    bytes: &[u8],
) -> Result<u128, InvalidPublishId> {
    let id_bytes =
        bytes.try_into().map_err(|_| InvalidPublishId::Length { field, len: bytes.len() });
    id_bytes.map(u128::from_be_bytes)
}

pub(crate) fn encode_random_id(id: u128) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&id.to_be_bytes())
}

/// Decodes a durability; the numbers are the same in every contract. Zero means that the sender did not set
/// the field: it is an error, since no durability may be assumed.
pub(crate) fn decode_durability(
    field: &'static str,
    number: i32,
) -> Result<Durability, InvalidField> {
    match number {
        0 => Err(InvalidField::missing(field)),
        1 => Ok(Durability::Replicated),
        2 => Ok(Durability::Memory),
        _ => Err(InvalidField::invalid(field, format!("unknown durability {number}"))),
    }
}

pub(crate) fn encode_durability(durability: Durability) -> i32 {
    match durability {
        Durability::Replicated => 1,
        Durability::Memory => 2,
    }
}

pub(crate) fn parse_gap_reason(name: &str) -> Option<GapReason> {
    [GapReason::Expired, GapReason::Epoch, GapReason::Slow, GapReason::Conflated]
        .into_iter()
        .find(|reason| reason.as_str() == name)
}

/// Recognizes the spellings that Pushonce writes, so that a link does not parse a media type per message.
fn known_content_type(text: &str) -> Option<ContentType> {
    if text.is_empty() {
        return Some(ContentType::Binary);
    }
    [ContentType::Json, ContentType::Text, ContentType::Binary]
        .into_iter()
        .find(|known| known.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn durability_numbers_are_the_same_in_every_contract() {
        use pb::{client::v1 as client, peer::v1 as peer, publisher::v1 as publisher};
        for (durability, numbers) in [
            (
                Durability::Replicated,
                [
                    publisher::Durability::Replicated as i32,
                    client::Durability::Replicated as i32,
                    peer::Durability::Replicated as i32,
                ],
            ),
            (
                Durability::Memory,
                [
                    publisher::Durability::Memory as i32,
                    client::Durability::Memory as i32,
                    peer::Durability::Memory as i32,
                ],
            ),
        ] {
            assert_eq!(numbers, [encode_durability(durability); 3]);
            assert_eq!(decode_durability("d", numbers[0]), Ok(durability));
        }
    }

    #[test]
    fn unset_or_unknown_durability_is_an_error() {
        assert_eq!(decode_durability("d", 0), Err(InvalidField::missing("d")));
        assert!(decode_durability("d", 9).is_err());
    }
}

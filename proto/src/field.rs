//! Fields that several contracts share, and the one error of reading a frame that another of our
//! own programs wrote.

use pushonce_core::{
    ClusterVersion, ContentType, Durability, GapReason, InvalidStamp, Key, Position, Topic,
};

/// A field of a frame is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {why}")]
pub struct InvalidField {
    /// Its name in the `.proto` file.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl InvalidField {
    /// `why` completes the sentence "field x …".
    pub(crate) fn new(field: &'static str, why: impl std::fmt::Display) -> InvalidField {
        InvalidField { field, why: why.to_string() }
    }

    pub(crate) fn missing(field: &'static str) -> InvalidField {
        InvalidField::new(field, "is missing")
    }

    fn wrong(field: &'static str, why: impl std::fmt::Display) -> InvalidField {
        InvalidField::new(field, format!("is wrong: {why}"))
    }
}

pub(crate) fn topic(field: &'static str, name: &str) -> Result<Topic, InvalidField> {
    Topic::new(name).map_err(|why| InvalidField::wrong(field, why))
}

pub(crate) fn version(field: &'static str, number: u32) -> Result<ClusterVersion, InvalidField> {
    u16::try_from(number).map(ClusterVersion).map_err(|why| InvalidField::wrong(field, why))
}

pub(crate) fn position(field: &'static str, text: &str) -> Result<Position, InvalidField> {
    text.parse().map_err(|why| InvalidField::wrong(field, why))
}

pub(crate) fn reason(field: &'static str, word: &str) -> Result<GapReason, InvalidField> {
    gap_reason(word).ok_or_else(|| InvalidField::wrong(field, format!("no reason is {word:?}")))
}

/// The empty content type is bytes: an ordered message always has one.
pub(crate) fn content_type(field: &'static str, text: &str) -> Result<ContentType, InvalidField> {
    written_content_type(text)
        .map_or_else(|| ContentType::parse(text).map_err(|why| InvalidField::wrong(field, why)), Ok)
}

/// Empty is none.
pub(crate) fn key(field: &'static str, text: &str) -> Result<Option<Key>, InvalidField> {
    let key = (!text.is_empty()).then(|| Key::new(text)).transpose();
    key.map_err(|why| InvalidField::wrong(field, why))
}

/// An id that was drawn at random.
pub(crate) fn drawn(field: &'static str, bytes: &[u8]) -> Result<u128, InvalidStamp> {
    let sixteen = bytes.try_into().map_err(|_| InvalidStamp::Length { field, len: bytes.len() });
    sixteen.map(u128::from_be_bytes)
}

pub(crate) fn written_drawn(id: u128) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&id.to_be_bytes())
}

/// The numbers are the same in every contract.
pub(crate) fn durability(field: &'static str, number: i32) -> Result<Durability, InvalidField> {
    [Durability::Replicated, Durability::Memory]
        .into_iter()
        .find(|&durability| durability_number(durability) == number)
        .ok_or_else(|| InvalidField::wrong(field, format!("no durability is {number}")))
}

pub(crate) fn durability_number(durability: Durability) -> i32 {
    match durability {
        Durability::Replicated => 0,
        Durability::Memory => 1,
    }
}

pub(crate) fn gap_reason(word: &str) -> Option<GapReason> {
    [GapReason::Expired, GapReason::Epoch, GapReason::Slow, GapReason::Conflated]
        .into_iter()
        .find(|reason| reason.as_str() == word)
}

/// The spellings that we write ourselves, so that a link does not parse a header a message.
fn written_content_type(text: &str) -> Option<ContentType> {
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
    fn every_contract_has_the_same_numbers() {
        let memory = durability_number(Durability::Memory);
        assert_eq!(memory, pb::publisher::v1::Durability::Memory as i32);
        assert_eq!(memory, pb::client::v1::Durability::Memory as i32);
        assert_eq!(memory, pb::peer::v1::Durability::Memory as i32);
        assert_eq!(durability("d", memory), Ok(Durability::Memory));
        assert_eq!(durability("d", 0), Ok(Durability::Replicated));
        assert!(durability("d", 9).is_err());
    }
}

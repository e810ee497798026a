//! A forwarded publish and how it ended.

use pushonce_core::{
    InvalidPublish, InvalidStamp, Placed, ProducerId, Publish, PublishError, Refusal, Sequence,
    Stamp, Timestamp,
};

use super::read::{at, node};
use crate::InvalidField;
use crate::field::{content_type, drawn, durability, durability_number, key, topic, written_drawn};
use crate::pb::peer::v1 as pb;
use pb::publish_response::Outcome as Wire;
use pb::refused::Reason;

pub(super) fn request(id: u64, publish: Publish) -> pb::PublishRequest {
    let (nonce, sequence) = match publish.stamp {
        None => Default::default(),
        Some(Stamp::Nonce(nonce)) => (written_drawn(nonce), None),
        Some(Stamp::Sequence(sequence)) => (Default::default(), Some(sequence.into())),
    };
    pb::PublishRequest {
        id,
        topic: publish.topic.into(),
        content_type: publish.content_type.as_str().to_owned(),
        key: publish.key.map_or_else(String::new, |key| key.as_str().to_owned()),
        payload: publish.payload,
        nonce,
        sequence,
    }
}

pub(super) fn publish(request: pb::PublishRequest) -> Result<Publish, InvalidField> {
    Ok(Publish {
        topic: topic("publish.topic", &request.topic)?,
        content_type: content_type("publish.content_type", &request.content_type)?,
        key: key("publish.key", &request.key)?,
        stamp: stamp(&request.nonce, request.sequence)?,
        payload: request.payload,
    })
}

fn stamp(nonce: &[u8], sequence: Option<pb::Sequence>) -> Result<Option<Stamp>, InvalidField> {
    let wrong = |why: InvalidStamp| InvalidField::new("publish.nonce", why);
    Ok(match sequence {
        Some(sequence) => Some(Stamp::Sequence(read_sequence("publish.sequence", sequence)?)),
        None if nonce.is_empty() => None,
        None => Some(Stamp::Nonce(drawn("nonce", nonce).map_err(wrong)?)),
    })
}

fn read_sequence(field: &'static str, sequence: pb::Sequence) -> Result<Sequence, InvalidField> {
    let pb::Sequence { producer, epoch, number } = sequence;
    let producer = drawn("producer", &producer).map_err(|why| InvalidField::new(field, why))?;
    match number {
        0 => Err(InvalidField::new(field, "has the number 0")),
        number => Ok(Sequence { producer: ProducerId(producer), epoch, number }),
    }
}

impl From<Sequence> for pb::Sequence {
    fn from(Sequence { producer, epoch, number }: Sequence) -> pb::Sequence {
        pb::Sequence { producer: written_drawn(producer.0), epoch, number }
    }
}

pub(super) fn response(id: u64, outcome: Result<Placed, PublishError>) -> pb::PublishResponse {
    let outcome = match outcome {
        Ok(placed) => Wire::Placed(pb::Placed {
            position: Some(placed.position.into()),
            time_ms: placed.time.0,
            durability: durability_number(placed.durability),
        }),
        Err(PublishError::Refused(refusal)) => Wire::Refused(refused(&refusal)),
        Err(PublishError::Unknown { why, .. }) => Wire::Unknown(why),
    };
    pb::PublishResponse { id, outcome: Some(outcome) }
}

pub(super) fn outcome(
    response: pb::PublishResponse,
) -> Result<Result<Placed, PublishError>, InvalidField> {
    Ok(match response.outcome.ok_or_else(|| InvalidField::missing("published.outcome"))? {
        Wire::Placed(placed) => Ok(Placed {
            position: at("published.placed.position", placed.position)?,
            time: Timestamp(placed.time_ms),
            durability: durability("published.placed.durability", placed.durability)?,
        }),
        Wire::Refused(refused) => Err(PublishError::Refused(refusal(refused)?)),
        Wire::Unknown(why) => Err(PublishError::unknown(why)),
    })
}

fn refused(refusal: &Refusal) -> pb::Refused {
    let message = match refusal {
        Refusal::Overloaded(why) | Refusal::Unavailable(why) | Refusal::TooManyTopics(why) => {
            why.clone()
        }
        Refusal::Invalid(InvalidPublish::NotJson(why)) => why.clone(),
        other => other.to_string(),
    };
    let (len, max) = match refusal {
        Refusal::Invalid(InvalidPublish::PayloadTooLarge { len, max }) => {
            (*len as u64, *max as u64)
        }
        _ => (0, 0),
    };
    let owner = match refusal {
        Refusal::NotOwner { owner: Some(owner) } => owner.0,
        _ => 0,
    };
    let (asked, expected) = match refusal {
        Refusal::OutOfSequence { asked, expected } => {
            (Some((*asked).into()), expected.map(pb::Sequence::from))
        }
        _ => (None, None),
    };
    pb::Refused { reason: reason(refusal).into(), message, owner, len, max, asked, expected }
}

fn reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::NotOwner { .. } => Reason::NotOwner,
        Refusal::OutOfSequence { .. } => Reason::OutOfSequence,
        Refusal::Overloaded(_) => Reason::Overloaded,
        Refusal::TooManyTopics(_) => Reason::TooManyTopics,
        Refusal::Unavailable(_) => Reason::Unavailable,
        Refusal::Invalid(invalid) => match invalid {
            // The topic was read off this very link, so it is a valid one.
            InvalidPublish::Topic(_) => Reason::Invalid,
            InvalidPublish::SystemTopic => Reason::SystemTopic,
            InvalidPublish::PayloadTooLarge { .. } => Reason::PayloadTooLarge,
            InvalidPublish::NotJson(_) => Reason::NotJson,
            InvalidPublish::NotText => Reason::NotText,
            InvalidPublish::ContentType => Reason::ContentType,
            InvalidPublish::Key => Reason::Key,
            InvalidPublish::Stamp(_) => Reason::Stamp,
            InvalidPublish::KeyReused => Reason::KeyReused,
            InvalidPublish::SequenceReused => Reason::SequenceReused,
        },
    }
}

fn refusal(refused: pb::Refused) -> Result<Refusal, InvalidField> {
    let bytes = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    Ok(match refused.reason() {
        Reason::NotOwner => Refusal::NotOwner { owner: node(refused.owner) },
        Reason::Overloaded => Refusal::Overloaded(refused.message),
        Reason::TooManyTopics => Refusal::TooManyTopics(refused.message),
        // A reason of a newer node's: that nothing happened is what counts, and its text says why.
        // A stamp was read off this very link, so it is a valid one.
        Reason::Unavailable | Reason::Invalid | Reason::Stamp | Reason::Unspecified => {
            Refusal::Unavailable(refused.message)
        }
        Reason::SystemTopic => InvalidPublish::SystemTopic.into(),
        Reason::PayloadTooLarge => {
            let (len, max) = (bytes(refused.len), bytes(refused.max));
            InvalidPublish::PayloadTooLarge { len, max }.into()
        }
        Reason::NotJson => InvalidPublish::NotJson(refused.message).into(),
        Reason::NotText => InvalidPublish::NotText.into(),
        Reason::ContentType => InvalidPublish::ContentType.into(),
        Reason::Key => InvalidPublish::Key.into(),
        Reason::KeyReused => InvalidPublish::KeyReused.into(),
        Reason::SequenceReused => InvalidPublish::SequenceReused.into(),
        Reason::OutOfSequence => {
            let field = "published.refused.asked";
            let asked = refused.asked.ok_or_else(|| InvalidField::missing(field))?;
            let expected = |known| read_sequence("published.refused.expected", known);
            Refusal::OutOfSequence {
                asked: read_sequence(field, asked)?,
                expected: refused.expected.map(expected).transpose()?,
            }
        }
    })
}

//! A forwarded publish and how it ended.

use pushonce_core::{
    Acknowledgement, InvalidPublish, InvalidPublishId, ProducerId, ProducerSequence, Publish,
    PublishError, PublishId, PublishRejection, Timestamp,
};

use super::read::{decode_node, required_position};
use crate::InvalidField;
use crate::field::{
    decode_content_type, decode_durability, decode_key, decode_random_id, decode_topic,
    encode_durability, encode_random_id,
};
use crate::pb::peer::v1 as pb;
use pb::publish_response::Outcome as Wire;
use pb::refused::Reason;

pub(super) fn encode_publish(id: u64, publish: Publish) -> pb::PublishRequest {
    let (nonce, sequence) = match publish.publish_id {
        None => Default::default(),
        Some(PublishId::Nonce(nonce)) => (encode_random_id(nonce), None),
        Some(PublishId::Sequence(sequence)) => (Default::default(), Some(sequence.into())),
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

pub(super) fn decode_publish(request: pb::PublishRequest) -> Result<Publish, InvalidField> {
    Ok(Publish {
        topic: decode_topic("publish.topic", &request.topic)?,
        content_type: decode_content_type("publish.content_type", &request.content_type)?,
        key: decode_key("publish.key", &request.key)?,
        publish_id: decode_publish_id(&request.nonce, request.sequence)?,
        payload: request.payload,
    })
}

fn decode_publish_id(
    nonce: &[u8],
    sequence: Option<pb::Sequence>,
) -> Result<Option<PublishId>, InvalidField> {
    let invalid_nonce = |error: InvalidPublishId| InvalidField::new("publish.nonce", error);
    Ok(match sequence {
        Some(sequence) => Some(PublishId::Sequence(decode_sequence("publish.sequence", sequence)?)),
        None if nonce.is_empty() => None,
        None => Some(PublishId::Nonce(decode_random_id("nonce", nonce).map_err(invalid_nonce)?)),
    })
}

fn decode_sequence(
    field: &'static str,
    sequence: pb::Sequence,
) -> Result<ProducerSequence, InvalidField> {
    let pb::Sequence { producer, epoch, number } = sequence;
    let producer =
        decode_random_id("producer", &producer).map_err(|error| InvalidField::new(field, error))?;
    match number {
        0 => Err(InvalidField::new(field, "has the number 0")),
        number => Ok(ProducerSequence { producer: ProducerId(producer), epoch, number }),
    }
}

impl From<ProducerSequence> for pb::Sequence {
    fn from(ProducerSequence { producer, epoch, number }: ProducerSequence) -> pb::Sequence {
        pb::Sequence { producer: encode_random_id(producer.0), epoch, number }
    }
}

pub(super) fn encode_outcome(
    id: u64,
    outcome: Result<Acknowledgement, PublishError>,
) -> pb::PublishResponse {
    let outcome = match outcome {
        Ok(placed) => Wire::Placed(pb::Placed {
            position: Some(placed.position.into()),
            time_ms: placed.time.0,
            durability: encode_durability(placed.durability),
        }),
        Err(PublishError::Rejected(rejection)) => Wire::Refused(encode_rejection(&rejection)),
        Err(PublishError::Unknown { reason: why, .. }) => Wire::Unknown(why),
    };
    pb::PublishResponse { id, outcome: Some(outcome) }
}

pub(super) fn decode_outcome(
    response: pb::PublishResponse,
) -> Result<Result<Acknowledgement, PublishError>, InvalidField> {
    Ok(match response.outcome.ok_or_else(|| InvalidField::missing("published.outcome"))? {
        Wire::Placed(placed) => Ok(Acknowledgement {
            position: required_position("published.placed.position", placed.position)?,
            time: Timestamp(placed.time_ms),
            durability: decode_durability("published.placed.durability", placed.durability)?,
        }),
        Wire::Refused(refused) => Err(PublishError::Rejected(decode_rejection(refused)?)),
        Wire::Unknown(why) => Err(PublishError::unknown(why)),
    })
}

fn encode_rejection(rejection: &PublishRejection) -> pb::Refused {
    let message = match rejection {
        PublishRejection::Overloaded(message)
        | PublishRejection::Unavailable(message)
        | PublishRejection::TooManyTopics(message) => message.clone(),
        PublishRejection::Invalid(InvalidPublish::NotJson(message)) => message.clone(),
        other => other.to_string(),
    };
    let (len, max) = match rejection {
        PublishRejection::Invalid(InvalidPublish::PayloadTooLarge { len, max }) => {
            (*len as u64, *max as u64)
        }
        _ => (0, 0),
    };
    let owner = match rejection {
        PublishRejection::NotOwner { owner: Some(owner) } => owner.0,
        _ => 0,
    };
    let (asked, expected) = match rejection {
        PublishRejection::OutOfSequence { received: asked, expected } => {
            (Some((*asked).into()), expected.map(pb::Sequence::from))
        }
        _ => (None, None),
    };
    pb::Refused {
        reason: rejection_reason(rejection).into(),
        message,
        owner,
        len,
        max,
        asked,
        expected,
    }
}

fn rejection_reason(rejection: &PublishRejection) -> Reason {
    match rejection {
        PublishRejection::NotOwner { .. } => Reason::NotOwner,
        PublishRejection::OutOfSequence { .. } => Reason::OutOfSequence,
        PublishRejection::Overloaded(_) => Reason::Overloaded,
        PublishRejection::TooManyTopics(_) => Reason::TooManyTopics,
        PublishRejection::Unavailable(_) => Reason::Unavailable,
        PublishRejection::Invalid(invalid) => match invalid {
            // The topic was read off this very link, so it is a valid one.
            InvalidPublish::Topic(_) => Reason::Invalid,
            InvalidPublish::SystemTopic => Reason::SystemTopic,
            InvalidPublish::PayloadTooLarge { .. } => Reason::PayloadTooLarge,
            InvalidPublish::NotJson(_) => Reason::NotJson,
            InvalidPublish::NotUtf8 => Reason::NotText,
            InvalidPublish::ContentType => Reason::ContentType,
            InvalidPublish::Key => Reason::Key,
            InvalidPublish::PublishId(_) => Reason::Stamp,
            InvalidPublish::KeyReused => Reason::KeyReused,
            InvalidPublish::SequenceReused => Reason::SequenceReused,
        },
    }
}

fn decode_rejection(refused: pb::Refused) -> Result<PublishRejection, InvalidField> {
    let to_usize = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    Ok(match refused.reason() {
        Reason::NotOwner => PublishRejection::NotOwner { owner: decode_node(refused.owner) },
        Reason::Overloaded => PublishRejection::Overloaded(refused.message),
        Reason::TooManyTopics => PublishRejection::TooManyTopics(refused.message),
        // A reason of a newer node's: that nothing happened is what counts, and its text says why.
        // A stamp was read off this very link, so it is a valid one.
        Reason::Unavailable | Reason::Invalid | Reason::Stamp | Reason::Unspecified => {
            PublishRejection::Unavailable(refused.message)
        }
        Reason::SystemTopic => InvalidPublish::SystemTopic.into(),
        Reason::PayloadTooLarge => {
            let (len, max) = (to_usize(refused.len), to_usize(refused.max));
            InvalidPublish::PayloadTooLarge { len, max }.into()
        }
        Reason::NotJson => InvalidPublish::NotJson(refused.message).into(),
        Reason::NotText => InvalidPublish::NotUtf8.into(),
        Reason::ContentType => InvalidPublish::ContentType.into(),
        Reason::Key => InvalidPublish::Key.into(),
        Reason::KeyReused => InvalidPublish::KeyReused.into(),
        Reason::SequenceReused => InvalidPublish::SequenceReused.into(),
        Reason::OutOfSequence => {
            let field = "published.refused.asked";
            let asked = refused.asked.ok_or_else(|| InvalidField::missing(field))?;
            let expected = |known| decode_sequence("published.refused.expected", known);
            PublishRejection::OutOfSequence {
                received: decode_sequence(field, asked)?,
                expected: refused.expected.map(expected).transpose()?,
            }
        }
    })
}

//! Conversion of a forwarded publish and of its outcome.

use pushonce_core::{
    Acknowledgement, InvalidPublish, InvalidPublishId, OverloadReason, ProducerId,
    ProducerSequence, Publish, PublishError, PublishId, PublishRejection, Timestamp, TopicLimit,
    UnavailableReason,
};

use super::read::{decode_node, required_position};
use crate::InvalidField;
use crate::field::{
    decode_content_type, decode_durability, decode_key, decode_random_id, decode_topic,
    encode_durability, encode_random_id,
};
use crate::pb::peer::v1 as pb;
use pb::publish_rejection::Reason;
use pb::publish_response::Outcome as Wire;

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
    sequence: Option<pb::ProducerSequence>,
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
    sequence: pb::ProducerSequence,
) -> Result<ProducerSequence, InvalidField> {
    let pb::ProducerSequence { producer, epoch, number } = sequence;
    let producer =
        decode_random_id("producer", &producer).map_err(|error| InvalidField::new(field, error))?;
    match number {
        0 => Err(InvalidField::new(field, "has the number 0; numbers begin at 1")),
        number => Ok(ProducerSequence { producer: ProducerId(producer), epoch, number }),
    }
}

impl From<ProducerSequence> for pb::ProducerSequence {
    fn from(
        ProducerSequence { producer, epoch, number }: ProducerSequence,
    ) -> pb::ProducerSequence {
        pb::ProducerSequence { producer: encode_random_id(producer.0), epoch, number }
    }
}

pub(super) fn encode_outcome(
    id: u64,
    outcome: Result<Acknowledgement, PublishError>,
) -> pb::PublishResponse {
    let outcome = match outcome {
        Ok(acknowledgement) => Wire::Acknowledged(pb::Acknowledgement {
            position: Some(acknowledgement.position.into()),
            time_ms: acknowledgement.time.0,
            durability: encode_durability(acknowledgement.durability),
        }),
        Err(PublishError::Rejected(rejection)) => Wire::Rejected(encode_rejection(&rejection)),
        Err(PublishError::Unknown { reason, .. }) => Wire::Unknown(reason),
    };
    pb::PublishResponse { id, outcome: Some(outcome) }
}

pub(super) fn decode_outcome(
    response: pb::PublishResponse,
) -> Result<Result<Acknowledgement, PublishError>, InvalidField> {
    Ok(match response.outcome.ok_or_else(|| InvalidField::missing("published.outcome"))? {
        Wire::Acknowledged(acknowledgement) => Ok(Acknowledgement {
            position: required_position(
                "published.acknowledged.position",
                acknowledgement.position,
            )?,
            time: Timestamp(acknowledgement.time_ms),
            durability: decode_durability(
                "published.acknowledged.durability",
                acknowledgement.durability,
            )?,
        }),
        Wire::Rejected(rejection) => Err(PublishError::Rejected(decode_rejection(rejection)?)),
        Wire::Unknown(reason) => Err(PublishError::unknown(reason)),
    })
}

fn encode_rejection(rejection: &PublishRejection) -> pb::PublishRejection {
    let message = match rejection {
        PublishRejection::Overloaded(reason) => reason.to_string(),
        PublishRejection::Unavailable(reason) => reason.to_string(),
        PublishRejection::TooManyTopics(limit) => limit.to_string(),
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
    let (received, expected) = match rejection {
        PublishRejection::OutOfSequence { received, expected } => {
            (Some((*received).into()), expected.map(pb::ProducerSequence::from))
        }
        _ => (None, None),
    };
    pb::PublishRejection {
        reason: rejection_reason(rejection).into(),
        message,
        owner,
        len,
        max,
        received,
        expected,
    }
}

fn rejection_reason(rejection: &PublishRejection) -> Reason {
    match rejection {
        PublishRejection::NotOwner { .. } => Reason::NotOwner,
        PublishRejection::OutOfSequence { .. } => Reason::OutOfSequence,
        PublishRejection::Overloaded(_) => Reason::Overloaded,
        PublishRejection::TooManyTopics(_) => Reason::TooManyTopics,
        // Not expected: the caller's own node has checked it.
        PublishRejection::NotAllowed(_) => Reason::Invalid,
        PublishRejection::Unavailable(_) => Reason::Unavailable,
        PublishRejection::Invalid(invalid) => match invalid {
            // Not expected: the topic was decoded on this link, so it is valid.
            InvalidPublish::Topic(_) => Reason::Invalid,
            InvalidPublish::SystemTopic => Reason::SystemTopic,
            InvalidPublish::PayloadTooLarge { .. } => Reason::PayloadTooLarge,
            InvalidPublish::NotJson(_) => Reason::NotJson,
            InvalidPublish::NotUtf8 => Reason::NotText,
            InvalidPublish::ContentType => Reason::ContentType,
            InvalidPublish::Key => Reason::Key,
            InvalidPublish::PublishId(_) => Reason::PublishId,
            InvalidPublish::KeyReused => Reason::KeyReused,
            InvalidPublish::SequenceReused => Reason::SequenceReused,
        },
    }
}

fn decode_rejection(rejection: pb::PublishRejection) -> Result<PublishRejection, InvalidField> {
    let to_usize = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    Ok(match rejection.reason() {
        Reason::NotOwner => PublishRejection::NotOwner { owner: decode_node(rejection.owner) },
        Reason::Overloaded => OverloadReason::Reported(rejection.message).into(),
        Reason::TooManyTopics => TopicLimit::Reported(rejection.message).into(),
        // The reason is unknown to this build, or none: the publish had no effect, and the text is kept.
        // The publish id was decoded on this link, so a rejection for it is not expected.
        Reason::Unavailable | Reason::Invalid | Reason::PublishId | Reason::Unspecified => {
            UnavailableReason::Reported(rejection.message).into()
        }
        Reason::SystemTopic => InvalidPublish::SystemTopic.into(),
        Reason::PayloadTooLarge => {
            let (len, max) = (to_usize(rejection.len), to_usize(rejection.max));
            InvalidPublish::PayloadTooLarge { len, max }.into()
        }
        Reason::NotJson => InvalidPublish::NotJson(rejection.message).into(),
        Reason::NotText => InvalidPublish::NotUtf8.into(),
        Reason::ContentType => InvalidPublish::ContentType.into(),
        Reason::Key => InvalidPublish::Key.into(),
        Reason::KeyReused => InvalidPublish::KeyReused.into(),
        Reason::SequenceReused => InvalidPublish::SequenceReused.into(),
        Reason::OutOfSequence => {
            let field = "published.rejected.received";
            let received = rejection.received.ok_or_else(|| InvalidField::missing(field))?;
            let expected = |known| decode_sequence("published.rejected.expected", known);
            PublishRejection::OutOfSequence {
                received: decode_sequence(field, received)?,
                expected: rejection.expected.map(expected).transpose()?,
            }
        }
    })
}

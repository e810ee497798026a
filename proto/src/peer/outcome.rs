//! A forwarded publish and how it ended.

use pushonce_core::{InvalidPublish, Placed, Publish, PublishError, Refusal, Timestamp};

use super::read::{at, node};
use crate::InvalidField;
use crate::field::{content_type, key, topic};
use crate::pb::peer::v1 as pb;
use pb::publish_response::Outcome as Wire;
use pb::refused::Reason;

pub(super) fn request(id: u64, publish: Publish) -> pb::PublishRequest {
    pb::PublishRequest {
        id,
        topic: publish.topic.into(),
        content_type: publish.content_type.as_str().to_owned(),
        key: publish.key.map_or_else(String::new, |key| key.as_str().to_owned()),
        payload: publish.payload,
    }
}

pub(super) fn publish(request: pb::PublishRequest) -> Result<Publish, InvalidField> {
    Ok(Publish {
        topic: topic("publish.topic", &request.topic)?,
        content_type: content_type("publish.content_type", &request.content_type)?,
        key: key("publish.key", &request.key)?,
        payload: request.payload,
    })
}

pub(super) fn response(id: u64, outcome: Result<Placed, PublishError>) -> pb::PublishResponse {
    let outcome = match outcome {
        Ok(placed) => Wire::Placed(pb::Placed {
            position: Some(placed.position.into()),
            time_ms: placed.time.0,
        }),
        Err(PublishError::Refused(refusal)) => Wire::Refused(refused(&refusal)),
        Err(PublishError::Unknown(why)) => Wire::Unknown(why),
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
        }),
        Wire::Refused(refused) => Err(PublishError::Refused(refusal(refused))),
        Wire::Unknown(why) => Err(PublishError::Unknown(why)),
    })
}

fn refused(refusal: &Refusal) -> pb::Refused {
    let message = match refusal {
        Refusal::Overloaded(why) | Refusal::Unavailable(why) => why.clone(),
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
    pb::Refused { reason: reason(refusal).into(), message, owner, len, max }
}

fn reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::NotOwner { .. } => Reason::NotOwner,
        Refusal::Overloaded(_) => Reason::Overloaded,
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
        },
    }
}

fn refusal(refused: pb::Refused) -> Refusal {
    let bytes = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    match refused.reason() {
        Reason::NotOwner => Refusal::NotOwner { owner: node(refused.owner) },
        Reason::Overloaded => Refusal::Overloaded(refused.message),
        // A reason of a newer node's: that nothing happened is what counts, and its text says why.
        Reason::Unavailable | Reason::Invalid | Reason::Unspecified => {
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
    }
}

//! The gRPC contract of publishers, as domain.

use std::sync::Arc;

use pushonce_core::{
    ContentType, FetchError, Gap, InvalidPublish, InvalidStamp, Item, Key, Message, Placed,
    Position, ProducerId, Publish, PublishError, Refusal, Sequence, Stamp, Timestamp, Topic,
};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::InvalidField;
use crate::field::{
    content_type, drawn, durability, durability_number, key, position, reason, written_drawn,
};
use crate::pb::publisher::v1 as pb;
use crate::status::describe;

/// In the trailers of a failed `Publish`: `refused` or `unknown`. A status without it was made on
/// the way, not by a node, so it says nothing about the outcome.
pub const OUTCOME_HEADER: &str = "pushonce-outcome";

/// How a publish ends that is not acknowledged, as a publisher sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing happened, and nothing will.
    #[error("refused: {message}")]
    Refused {
        /// The code of the contract.
        code: Code,
        /// What to change.
        message: String,
        /// Whether the same publish may succeed later.
        retry: bool,
    },
    /// It may have happened, or may still. A retry is safe with the same key, and may place it twice
    /// without one.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// What a subscription over gRPC brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// First, once.
    Subscribed {
        /// The newest position at this moment; [`Position::ZERO`] when the topic has none yet.
        position: Position,
        /// Whether everything that was asked for follows without a gap.
        recovered: bool,
    },
    /// What is next.
    Item(Item),
    /// The server lives.
    Heartbeat {
        /// Everything up to here was sent before, if that can be said.
        position: Option<Position>,
    },
}

/// The status that `Publish` ends with.
pub fn publish_status(error: &PublishError) -> Status {
    let outcome = match error {
        PublishError::Refused(_) => "refused",
        PublishError::Unknown { .. } => "unknown",
    };
    let mut status = Status::new(code(error), error.to_string());
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static(outcome));
    status
}

/// The status that `Subscribe` ends with.
pub fn fetch_status(error: &FetchError) -> Status {
    let code = match error {
        FetchError::Future { .. } => Code::OutOfRange,
        FetchError::Unavailable(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

fn code(error: &PublishError) -> Code {
    match error {
        PublishError::Refused(Refusal::Invalid(
            InvalidPublish::KeyReused | InvalidPublish::SequenceReused,
        )) => Code::AlreadyExists,
        PublishError::Refused(Refusal::Invalid(_)) => Code::InvalidArgument,
        PublishError::Refused(Refusal::OutOfSequence { .. }) => Code::Aborted,
        PublishError::Refused(Refusal::Overloaded(_)) => Code::ResourceExhausted,
        PublishError::Refused(Refusal::TooManyTopics(_)) => Code::FailedPrecondition,
        PublishError::Refused(Refusal::NotOwner { .. } | Refusal::Unavailable(_)) => {
            Code::Unavailable
        }
        PublishError::Unknown { .. } => Code::Unknown,
    }
}

// === publish ===

impl TryFrom<pb::PublishRequest> for Publish {
    type Error = InvalidPublish;

    /// Decodes; [`Publish::check`] is the caller's, who knows the namespace's limit.
    fn try_from(request: pb::PublishRequest) -> Result<Publish, InvalidPublish> {
        Ok(Publish {
            topic: Topic::new(&request.topic)?,
            content_type: match request.content_type.as_str() {
                "" => ContentType::guess(&request.payload),
                said => ContentType::parse(said)?,
            },
            key: (!request.key.is_empty()).then(|| Key::new(&request.key)).transpose()?,
            stamp: stamp(&request.nonce, request.producer).map_err(InvalidPublish::Stamp)?,
            payload: request.payload,
        })
    }
}

fn stamp(nonce: &[u8], producer: Option<pb::Producer>) -> Result<Option<Stamp>, InvalidStamp> {
    Ok(match producer {
        Some(_) if !nonce.is_empty() => return Err(InvalidStamp::Both),
        Some(producer) => Some(Stamp::Sequence(producer.try_into()?)),
        None if nonce.is_empty() => None,
        None => Some(Stamp::Nonce(drawn("nonce", nonce)?)),
    })
}

impl TryFrom<pb::Producer> for Sequence {
    type Error = InvalidStamp;

    fn try_from(producer: pb::Producer) -> Result<Sequence, InvalidStamp> {
        let id = ProducerId(drawn("producer.id", &producer.id)?);
        match producer.sequence {
            0 => Err(InvalidStamp::Number),
            number => Ok(Sequence { producer: id, epoch: producer.epoch, number }),
        }
    }
}

impl From<Sequence> for pb::Producer {
    fn from(Sequence { producer, epoch, number }: Sequence) -> pb::Producer {
        pb::Producer { id: written_drawn(producer.0), epoch, sequence: number }
    }
}

impl From<Publish> for pb::PublishRequest {
    fn from(publish: Publish) -> pb::PublishRequest {
        let (nonce, producer) = match publish.stamp {
            None => Default::default(),
            Some(Stamp::Nonce(nonce)) => (written_drawn(nonce), None),
            Some(Stamp::Sequence(sequence)) => (Default::default(), Some(sequence.into())),
        };
        pb::PublishRequest {
            topic: publish.topic.into(),
            payload: publish.payload,
            content_type: publish.content_type.as_str().to_owned(),
            key: publish.key.map_or_else(String::new, |key| key.as_str().to_owned()),
            nonce,
            producer,
        }
    }
}

impl From<Placed> for pb::PublishResponse {
    fn from(placed: Placed) -> pb::PublishResponse {
        pb::PublishResponse {
            position: placed.position.to_string(),
            time_ms: placed.time.0,
            durability: durability_number(placed.durability),
        }
    }
}

impl TryFrom<pb::PublishResponse> for Placed {
    type Error = InvalidField;

    fn try_from(response: pb::PublishResponse) -> Result<Placed, InvalidField> {
        let position = position("position", &response.position)?;
        let durability = durability("durability", response.durability)?;
        Ok(Placed { position, time: Timestamp(response.time_ms), durability })
    }
}

impl From<&PublishError> for pb::PublishFailure {
    fn from(error: &PublishError) -> pb::PublishFailure {
        pb::PublishFailure {
            code: code(error).into(),
            message: error.to_string(),
            retry: error.retryable(),
        }
    }
}

impl From<pb::PublishFailure> for Failure {
    fn from(failure: pb::PublishFailure) -> Failure {
        match Code::from_i32(failure.code) {
            Code::Unknown => Failure::Unknown(failure.message),
            code => Failure::Refused { code, message: failure.message, retry: failure.retry },
        }
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Failure {
        let outcome = status.metadata().get(OUTCOME_HEADER).map(MetadataValue::as_bytes);
        if outcome != Some(b"refused".as_slice()) {
            return Failure::Unknown(describe(status));
        }
        Failure::Refused {
            code: status.code(),
            message: describe(status),
            retry: !matches!(
                status.code(),
                Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition
            ),
        }
    }
}

impl pb::PublishStreamResponse {
    /// The acknowledgement of request number `sequence`, counted from 1.
    pub fn of(sequence: u64, outcome: Result<Placed, PublishError>) -> pb::PublishStreamResponse {
        use pb::publish_stream_response::Outcome;
        let outcome = match outcome {
            Ok(placed) => Outcome::Published(placed.into()),
            Err(error) => Outcome::Failed((&error).into()),
        };
        pb::PublishStreamResponse { sequence, outcome: Some(outcome) }
    }
}

// === subscribe ===

impl TryFrom<pb::From> for pushonce_core::From {
    type Error = InvalidField;

    fn try_from(from: pb::From) -> Result<pushonce_core::From, InvalidField> {
        Ok(match from.from {
            None | Some(pb::from::From::Now(_)) => pushonce_core::From::Now,
            Some(pb::from::From::Last(count)) => pushonce_core::From::Last(count),
            Some(pb::from::From::Position(text)) => {
                pushonce_core::From::Position(position("from.position", &text)?)
            }
            Some(pb::from::From::Start(_)) => pushonce_core::From::Start,
        })
    }
}

impl From<pushonce_core::From> for pb::From {
    fn from(from: pushonce_core::From) -> pb::From {
        let from = match from {
            pushonce_core::From::Now => pb::from::From::Now(true),
            pushonce_core::From::Last(count) => pb::from::From::Last(count),
            pushonce_core::From::Position(at) => pb::from::From::Position(at.to_string()),
            pushonce_core::From::Start => pb::from::From::Start(true),
        };
        pb::From { from: Some(from) }
    }
}

impl From<Event> for pb::SubscribeResponse {
    fn from(event: Event) -> pb::SubscribeResponse {
        use pb::subscribe_response::Event as Wire;
        let event = match event {
            Event::Subscribed { position, recovered } => {
                Wire::Subscribed(pb::Subscribed { position: position.to_string(), recovered })
            }
            Event::Item(Item::Message(message)) => Wire::Message(pb::Message::from(&*message)),
            Event::Item(Item::Gap(gap)) => Wire::Gap(gap.into()),
            Event::Item(Item::Stale(since)) => Wire::Stale(pb::Stale { since: since.to_string() }),
            Event::Item(Item::Live(position)) => {
                Wire::Live(pb::Live { position: position.to_string() })
            }
            Event::Heartbeat { position } => {
                let position = position.map_or_else(String::new, |position| position.to_string());
                Wire::Heartbeat(pb::Heartbeat { position })
            }
        };
        pb::SubscribeResponse { event: Some(event) }
    }
}

impl TryFrom<pb::SubscribeResponse> for Event {
    type Error = InvalidField;

    fn try_from(response: pb::SubscribeResponse) -> Result<Event, InvalidField> {
        use pb::subscribe_response::Event as Wire;
        Ok(match response.event.ok_or_else(|| InvalidField::missing("event"))? {
            Wire::Subscribed(subscribed) => Event::Subscribed {
                position: position("subscribed.position", &subscribed.position)?,
                recovered: subscribed.recovered,
            },
            Wire::Message(message) => Event::Item(Item::Message(Arc::new(message.try_into()?))),
            Wire::Gap(gap) => Event::Item(Item::Gap(gap.try_into()?)),
            Wire::Stale(stale) => Event::Item(Item::Stale(position("stale.since", &stale.since)?)),
            Wire::Live(live) => Event::Item(Item::Live(position("live.position", &live.position)?)),
            Wire::Heartbeat(pb::Heartbeat { position: text }) => {
                let said = (!text.is_empty()).then_some(text);
                let read = |text: String| position("heartbeat.position", &text);
                Event::Heartbeat { position: said.map(read).transpose()? }
            }
        })
    }
}

impl From<&Message> for pb::Message {
    fn from(message: &Message) -> pb::Message {
        pb::Message {
            position: message.position.to_string(),
            time_ms: message.time.0,
            content_type: message.content_type.as_str().to_owned(),
            key: message.key.as_ref().map_or_else(String::new, |key| key.as_str().to_owned()),
            payload: message.payload.clone(),
        }
    }
}

impl TryFrom<pb::Message> for Message {
    type Error = InvalidField;

    fn try_from(message: pb::Message) -> Result<Message, InvalidField> {
        Ok(Message {
            position: position("message.position", &message.position)?,
            time: Timestamp(message.time_ms),
            content_type: content_type("message.content_type", &message.content_type)?,
            key: key("message.key", &message.key)?,
            payload: message.payload,
        })
    }
}

impl From<Gap> for pb::Gap {
    fn from(gap: Gap) -> pb::Gap {
        pb::Gap {
            from: gap.from.to_string(),
            to: gap.to.to_string(),
            reason: gap.reason.as_str().to_owned(),
        }
    }
}

impl TryFrom<pb::Gap> for Gap {
    type Error = InvalidField;

    fn try_from(gap: pb::Gap) -> Result<Gap, InvalidField> {
        Ok(Gap {
            from: position("gap.from", &gap.from)?,
            to: position("gap.to", &gap.to)?,
            reason: reason("gap.reason", &gap.reason)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::arbitrary;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_publish_reads_back_as_it_was_written(publish in arbitrary::publish()) {
            let wire = pb::PublishRequest::from(publish.clone());
            prop_assert_eq!(Publish::try_from(wire), Ok(publish));
        }

        #[test]
        fn what_a_subscriber_gets_reads_back_as_it_was_written(
            message in arbitrary::message(), gap in arbitrary::gap(), recovered in any::<bool>(),
        ) {
            for event in [
                Event::Subscribed { position: message.position, recovered },
                Event::Item(Item::Message(message.clone())),
                Event::Item(Item::Gap(gap)),
                Event::Item(Item::Stale(gap.from)),
                Event::Item(Item::Live(gap.to)),
                Event::Heartbeat { position: recovered.then_some(gap.to) },
            ] {
                let wire = pb::SubscribeResponse::from(event.clone());
                prop_assert_eq!(Event::try_from(wire), Ok(event));
            }
        }
    }

    #[test]
    fn an_unsaid_content_type_is_guessed() {
        let payload = Bytes::from_static(b"[1]");
        let request = pb::PublishRequest { topic: "a".to_owned(), payload, ..Default::default() };
        assert_eq!(Publish::try_from(request).map(|p| p.content_type), Ok(ContentType::Json));
    }

    #[test]
    fn a_publisher_can_tell_refused_from_unknown() {
        let refused =
            |refusal: Refusal| Failure::from(&publish_status(&PublishError::Refused(refusal)));
        assert!(matches!(
            refused(InvalidPublish::SystemTopic.into()),
            Failure::Refused { code: Code::InvalidArgument, retry: false, .. }
        ));
        assert!(matches!(
            refused(Refusal::Overloaded("full".to_owned())),
            Failure::Refused { code: Code::ResourceExhausted, retry: true, .. }
        ));
        assert!(matches!(
            refused(Refusal::TooManyTopics("16".to_owned())),
            Failure::Refused { code: Code::FailedPrecondition, retry: false, .. }
        ));
        assert!(matches!(
            refused(Refusal::Unavailable("no owner".to_owned())),
            Failure::Refused { code: Code::Unavailable, retry: true, .. }
        ));
        assert!(matches!(
            refused(InvalidPublish::KeyReused.into()),
            Failure::Refused { code: Code::AlreadyExists, retry: false, .. }
        ));
        let unknown = publish_status(&PublishError::unknown("deadline"));
        assert_eq!(unknown.code(), Code::Unknown);
        assert!(matches!(Failure::from(&unknown), Failure::Unknown(_)));
    }

    #[test]
    fn a_status_made_on_the_way_says_nothing_about_the_outcome() {
        let broken = Status::unavailable("connection reset");
        assert!(matches!(Failure::from(&broken), Failure::Unknown(_)));
    }

    #[test]
    fn a_failure_in_a_stream_says_what_the_status_would_have_said() {
        for error in [
            PublishError::Refused(Refusal::Overloaded("full".to_owned())),
            PublishError::Refused(InvalidPublish::Key.into()),
            PublishError::Refused(Refusal::TooManyTopics("16".to_owned())),
            PublishError::Refused(InvalidPublish::SequenceReused.into()),
            PublishError::Refused(Refusal::OutOfSequence {
                asked: Sequence { producer: ProducerId(7), epoch: 0, number: 3 },
                expected: None,
            }),
        ] {
            let (unary, stream) = (publish_status(&error), pb::PublishFailure::from(&error));
            assert_eq!(Failure::from(&unary), Failure::from(stream));
        }
    }

    #[test]
    fn an_unknown_outcome_may_be_retried_when_a_repeat_is_recognised() {
        for repeatable in [true, false] {
            let failure = pb::PublishFailure::from(&PublishError::unknown("gone").of(repeatable));
            assert_eq!(failure.retry, repeatable, "{failure:?}");
        }
    }

    #[test]
    fn a_stamp_that_is_none_is_refused_with_what_to_change() {
        let id = Bytes::from_static(&[7; 16]);
        let producer =
            |id: &Bytes, sequence| Some(pb::Producer { id: id.clone(), epoch: 1, sequence });
        for (nonce, producer, why) in [
            (Bytes::from_static(b"short"), None, "`nonce` has 5 bytes"),
            (Bytes::new(), producer(&Bytes::new(), 1), "`producer.id` has 0 bytes"),
            (Bytes::new(), producer(&id, 0), "from 1"),
            (id.clone(), producer(&id, 1), "not both"),
        ] {
            let topic = "a".to_owned();
            let request = pb::PublishRequest { topic, nonce, producer, ..Default::default() };
            let refused = Publish::try_from(request).expect_err("refused").to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_position_of_the_future_is_out_of_range() {
        let (asked, head) = (Position::new(1, 9), Position::new(1, 2));
        assert_eq!(fetch_status(&FetchError::Future { asked, head }).code(), Code::OutOfRange);
    }
}

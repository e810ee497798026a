//! The gRPC contract of publishers as domain types.

use std::sync::Arc;

use pushonce_core::{
    Acknowledgement, ContentType, Delivery, FetchError, Gap, InvalidPublish, InvalidPublishId,
    Message, MessageKey, Position, ProducerId, ProducerSequence, Publish, PublishError, PublishId,
    PublishRejection, StartFrom, Timestamp, Topic, TopicEvent,
};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::InvalidField;
use crate::client::{ErrorCode, ServerEvent};
use crate::error_details::ErrorReason;
use crate::field::{
    decode_content_type, decode_durability, decode_gap_reason, decode_key, decode_position,
    decode_random_id, encode_durability, encode_random_id,
};
use crate::pb::publisher::v1 as pb;
use crate::status::describe;
use pb::start_from::Kind as StartKind;

/// The trailer of a failed `Publish` with its outcome: `refused` or `unknown`. A status without it comes
/// from a proxy or the transport, and the outcome is then unknown.
pub const OUTCOME_HEADER: &str = "pushonce-outcome";

/// The outcome of a publish that is not acknowledged, as a publisher sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishFailure {
    /// The message was not published and will not be.
    #[error("rejected ({reason}): {message}")]
    Rejected {
        /// The gRPC status code.
        code: Code,
        /// The error code.
        reason: ErrorCode,
        /// What failed and what to change.
        message: String,
        /// Whether the same publish may succeed later.
        retry: bool,
    },
    /// The message may have been published, or may still be. A retry is safe with the same key; without a
    /// key it may publish the message twice.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// An event of a subscription over gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeEvent {
    /// The subscription begins: the first event, sent once.
    Subscribed {
        /// The newest position at this moment; [`Position::ZERO`] if the topic has no message yet.
        position: Position,
        /// Whether every requested message follows without a gap.
        recovered: bool,
    },
    /// The next message, gap or change of health of the topic.
    Item(TopicEvent),
    /// A heartbeat of the server.
    Heartbeat {
        /// Everything up to here was sent before; `None` if the server cannot guarantee that.
        position: Option<Position>,
    },
}

impl SubscribeEvent {
    /// The same event on WebSocket and QUIC. `id` is the id of the request there, and `delivery` what the
    /// client requested: gRPC sends neither.
    pub fn into_server_event(self, id: u64, topic: Topic, delivery: Delivery) -> ServerEvent {
        match self {
            SubscribeEvent::Subscribed { position, recovered } => {
                ServerEvent::Subscribed { id: Some(id), topic, position, recovered, delivery }
            }
            SubscribeEvent::Item(TopicEvent::Message(message)) => {
                ServerEvent::Message { topic, message }
            }
            SubscribeEvent::Item(TopicEvent::Gap(gap)) => ServerEvent::Gap { topic, gap },
            SubscribeEvent::Item(TopicEvent::Stale(since)) => ServerEvent::Stale { topic, since },
            SubscribeEvent::Item(TopicEvent::Live(position)) => {
                ServerEvent::Live { topic, position }
            }
            SubscribeEvent::Heartbeat { position } => ServerEvent::Heartbeat {
                positions: position.map(|position| (topic, position)).into_iter().collect(),
            },
        }
    }
}

/// Creates the status of a failed `Publish`.
pub fn publish_status(error: &PublishError) -> Status {
    let outcome = match error {
        PublishError::Rejected(_) => "refused",
        PublishError::Unknown { .. } => "unknown",
    };
    let retry = error.is_retryable();
    let reason = ErrorReason { code: error.into(), retry, retry_delay: None };
    let mut status = reason.to_status(status_code(error), error.to_string());
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static(outcome));
    status
}

/// Creates the status of a failed `Subscribe`.
pub fn fetch_status(error: &FetchError) -> Status {
    let code = match error {
        FetchError::FuturePosition { .. } => Code::OutOfRange,
        FetchError::Unavailable(_) => Code::Unavailable,
    };
    ErrorReason::from(ErrorCode::from(error)).to_status(code, error.to_string())
}

fn status_code(error: &PublishError) -> Code {
    match error {
        PublishError::Rejected(PublishRejection::Invalid(
            InvalidPublish::KeyReused | InvalidPublish::SequenceReused,
        )) => Code::AlreadyExists,
        PublishError::Rejected(PublishRejection::Invalid(_)) => Code::InvalidArgument,
        PublishError::Rejected(PublishRejection::OutOfSequence { .. }) => Code::Aborted,
        PublishError::Rejected(PublishRejection::Overloaded(_)) => Code::ResourceExhausted,
        PublishError::Rejected(PublishRejection::NotAllowed(_)) => Code::PermissionDenied,
        PublishError::Rejected(PublishRejection::TooManyTopics(_)) => Code::FailedPrecondition,
        PublishError::Rejected(
            PublishRejection::NotOwner { .. } | PublishRejection::Unavailable(_),
        ) => Code::Unavailable,
        PublishError::Unknown { .. } => Code::Unknown,
    }
}

// === publish ===

impl TryFrom<pb::PublishRequest> for Publish {
    type Error = InvalidPublish;

    /// Decodes without validation: the caller knows the limit of the namespace and calls
    /// [`Publish::validate`].
    fn try_from(request: pb::PublishRequest) -> Result<Publish, InvalidPublish> {
        Ok(Publish {
            topic: Topic::new(&request.topic)?,
            content_type: match request.content_type.as_str() {
                "" => ContentType::detect(&request.payload),
                content_type => ContentType::parse(content_type)?,
            },
            key: (!request.key.is_empty()).then(|| MessageKey::new(&request.key)).transpose()?,
            publish_id: decode_publish_id(&request.nonce, request.producer)
                .map_err(InvalidPublish::PublishId)?,
            payload: request.payload,
        })
    }
}

fn decode_publish_id(
    nonce: &[u8],
    producer: Option<pb::Producer>,
) -> Result<Option<PublishId>, InvalidPublishId> {
    Ok(match producer {
        Some(_) if !nonce.is_empty() => return Err(InvalidPublishId::NonceAndProducer),
        Some(producer) => Some(PublishId::Sequence(producer.try_into()?)),
        None if nonce.is_empty() => None,
        None => Some(PublishId::Nonce(decode_random_id("nonce", nonce)?)),
    })
}

impl TryFrom<pb::Producer> for ProducerSequence {
    type Error = InvalidPublishId;

    fn try_from(producer: pb::Producer) -> Result<ProducerSequence, InvalidPublishId> {
        let id = ProducerId(decode_random_id("producer.id", &producer.id)?);
        match producer.sequence {
            0 => Err(InvalidPublishId::ZeroSequence),
            number => Ok(ProducerSequence { producer: id, epoch: producer.epoch, number }),
        }
    }
}

impl From<ProducerSequence> for pb::Producer {
    fn from(ProducerSequence { producer, epoch, number }: ProducerSequence) -> pb::Producer {
        pb::Producer { id: encode_random_id(producer.0), epoch, sequence: number }
    }
}

impl From<Publish> for pb::PublishRequest {
    fn from(publish: Publish) -> pb::PublishRequest {
        let (nonce, producer) = match publish.publish_id {
            None => Default::default(),
            Some(PublishId::Nonce(nonce)) => (encode_random_id(nonce), None),
            Some(PublishId::Sequence(sequence)) => (Default::default(), Some(sequence.into())),
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

impl TryFrom<pb::PublishStreamRequest> for Publish {
    type Error = InvalidPublish;

    fn try_from(request: pb::PublishStreamRequest) -> Result<Publish, InvalidPublish> {
        request.publish.unwrap_or_default().try_into()
    }
}

impl From<pb::PublishRequest> for pb::PublishStreamRequest {
    fn from(request: pb::PublishRequest) -> pb::PublishStreamRequest {
        pb::PublishStreamRequest { publish: Some(request) }
    }
}

impl From<Acknowledgement> for pb::PublishResponse {
    fn from(acknowledgement: Acknowledgement) -> pb::PublishResponse {
        pb::PublishResponse {
            position: acknowledgement.position.to_string(),
            time_ms: acknowledgement.time.0,
            durability: encode_durability(acknowledgement.durability),
        }
    }
}

impl TryFrom<pb::PublishResponse> for Acknowledgement {
    type Error = InvalidField;

    fn try_from(response: pb::PublishResponse) -> Result<Acknowledgement, InvalidField> {
        let position = decode_position("position", &response.position)?;
        let durability = decode_durability("durability", response.durability)?;
        Ok(Acknowledgement { position, time: Timestamp(response.time_ms), durability })
    }
}

impl From<&PublishError> for pb::PublishFailure {
    fn from(error: &PublishError) -> pb::PublishFailure {
        pb::PublishFailure {
            code: status_code(error).into(),
            message: error.to_string(),
            retry: error.is_retryable(),
            reason: ErrorCode::from(error).as_str().to_owned(),
        }
    }
}

impl From<pb::PublishFailure> for PublishFailure {
    fn from(failure: pb::PublishFailure) -> PublishFailure {
        match Code::from_i32(failure.code) {
            Code::Unknown => PublishFailure::Unknown(failure.message),
            code => PublishFailure::Rejected {
                code,
                reason: ErrorCode::parse(&failure.reason, failure.retry),
                message: failure.message,
                retry: failure.retry,
            },
        }
    }
}

impl From<&Status> for PublishFailure {
    fn from(status: &Status) -> PublishFailure {
        let outcome = status.metadata().get(OUTCOME_HEADER).map(MetadataValue::as_bytes);
        if outcome != Some(b"refused".as_slice()) {
            return PublishFailure::Unknown(describe(status));
        }
        // A proxy may drop the details: the text remains, and the request is not retried.
        let reason = ErrorReason::from_status(status).unwrap_or(ErrorCode::BadRequest.into());
        PublishFailure::Rejected {
            code: status.code(),
            reason: reason.code,
            message: describe(status),
            retry: reason.retry,
        }
    }
}

impl pb::PublishStreamResponse {
    /// Creates the response to request number `sequence`, counted from 1.
    pub fn from_outcome(
        sequence: u64,
        outcome: Result<Acknowledgement, PublishError>,
    ) -> pb::PublishStreamResponse {
        use pb::publish_stream_response::Outcome;
        let outcome = match outcome {
            Ok(acknowledgement) => Outcome::Published(acknowledgement.into()),
            Err(error) => Outcome::Failed((&error).into()),
        };
        pb::PublishStreamResponse { sequence, outcome: Some(outcome) }
    }
}

// === subscribe ===

impl TryFrom<pb::StartFrom> for StartFrom {
    type Error = InvalidField;

    fn try_from(start_from: pb::StartFrom) -> Result<StartFrom, InvalidField> {
        Ok(match start_from.kind {
            None | Some(StartKind::Now(_)) => StartFrom::Now,
            Some(StartKind::Last(count)) => StartFrom::Last(count),
            Some(StartKind::Position(text)) => {
                StartFrom::Position(decode_position("start_from.position", &text)?)
            }
            Some(StartKind::Start(_)) => StartFrom::Start,
        })
    }
}

impl From<StartFrom> for pb::StartFrom {
    fn from(start_from: StartFrom) -> pb::StartFrom {
        let kind = match start_from {
            StartFrom::Now => StartKind::Now(true),
            StartFrom::Last(count) => StartKind::Last(count),
            StartFrom::Position(position) => StartKind::Position(position.to_string()),
            StartFrom::Start => StartKind::Start(true),
        };
        pb::StartFrom { kind: Some(kind) }
    }
}

impl From<SubscribeEvent> for pb::SubscribeResponse {
    fn from(event: SubscribeEvent) -> pb::SubscribeResponse {
        use pb::subscribe_response::Event as Wire;
        let event = match event {
            SubscribeEvent::Subscribed { position, recovered } => {
                Wire::Subscribed(pb::Subscribed { position: position.to_string(), recovered })
            }
            SubscribeEvent::Item(TopicEvent::Message(message)) => {
                Wire::Message(pb::Message::from(&*message))
            }
            SubscribeEvent::Item(TopicEvent::Gap(gap)) => Wire::Gap(gap.into()),
            SubscribeEvent::Item(TopicEvent::Stale(since)) => {
                Wire::Stale(pb::Stale { since: since.to_string() })
            }
            SubscribeEvent::Item(TopicEvent::Live(position)) => {
                Wire::Live(pb::Live { position: position.to_string() })
            }
            SubscribeEvent::Heartbeat { position } => {
                let position = position.map_or_else(String::new, |position| position.to_string());
                Wire::Heartbeat(pb::Heartbeat { position })
            }
        };
        pb::SubscribeResponse { event: Some(event) }
    }
}

impl TryFrom<pb::SubscribeResponse> for SubscribeEvent {
    type Error = InvalidField;

    fn try_from(response: pb::SubscribeResponse) -> Result<SubscribeEvent, InvalidField> {
        use pb::subscribe_response::Event as Wire;
        Ok(match response.event.ok_or_else(|| InvalidField::missing("event"))? {
            Wire::Subscribed(subscribed) => SubscribeEvent::Subscribed {
                position: decode_position("subscribed.position", &subscribed.position)?,
                recovered: subscribed.recovered,
            },
            Wire::Message(message) => {
                SubscribeEvent::Item(TopicEvent::Message(Arc::new(message.try_into()?)))
            }
            Wire::Gap(gap) => SubscribeEvent::Item(TopicEvent::Gap(gap.try_into()?)),
            Wire::Stale(stale) => SubscribeEvent::Item(TopicEvent::Stale(decode_position(
                "stale.since",
                &stale.since,
            )?)),
            Wire::Live(live) => SubscribeEvent::Item(TopicEvent::Live(decode_position(
                "live.position",
                &live.position,
            )?)),
            Wire::Heartbeat(pb::Heartbeat { position: text }) => {
                let present = (!text.is_empty()).then_some(text);
                let read = |text: String| decode_position("heartbeat.position", &text);
                SubscribeEvent::Heartbeat { position: present.map(read).transpose()? }
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
            position: decode_position("message.position", &message.position)?,
            time: Timestamp(message.time_ms),
            content_type: decode_content_type("message.content_type", &message.content_type)?,
            key: decode_key("message.key", &message.key)?,
            payload: message.payload,
        })
    }
}

impl From<Gap> for pb::Gap {
    fn from(gap: Gap) -> pb::Gap {
        pb::Gap {
            first: gap.from.to_string(),
            last: gap.to.to_string(),
            reason: gap.reason.as_str().to_owned(),
        }
    }
}

impl TryFrom<pb::Gap> for Gap {
    type Error = InvalidField;

    fn try_from(gap: pb::Gap) -> Result<Gap, InvalidField> {
        Ok(Gap {
            from: decode_position("gap.first", &gap.first)?,
            to: decode_position("gap.last", &gap.last)?,
            reason: decode_gap_reason("gap.reason", &gap.reason)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use pushonce_core::{OverloadReason, TopicLimit, UnavailableReason};

    use super::*;
    use crate::arbitrary;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn publish_request_round_trips(publish in arbitrary::publish()) {
            let wire = pb::PublishRequest::from(publish.clone());
            prop_assert_eq!(Publish::try_from(wire), Ok(publish));
        }

        #[test]
        fn subscribe_events_round_trip(
            message in arbitrary::message(), gap in arbitrary::gap(), recovered in any::<bool>(),
        ) {
            for event in [
                SubscribeEvent::Subscribed { position: message.position, recovered },
                SubscribeEvent::Item(TopicEvent::Message(message.clone())),
                SubscribeEvent::Item(TopicEvent::Gap(gap)),
                SubscribeEvent::Item(TopicEvent::Stale(gap.from)),
                SubscribeEvent::Item(TopicEvent::Live(gap.to)),
                SubscribeEvent::Heartbeat { position: recovered.then_some(gap.to) },
            ] {
                let wire = pb::SubscribeResponse::from(event.clone());
                prop_assert_eq!(SubscribeEvent::try_from(wire), Ok(event));
            }
        }
    }

    #[test]
    fn missing_content_type_is_guessed() {
        let payload = Bytes::from_static(b"[1]");
        let request = pb::PublishRequest { topic: "a".to_owned(), payload, ..Default::default() };
        assert_eq!(Publish::try_from(request).map(|p| p.content_type), Ok(ContentType::Json));
    }

    #[test]
    fn status_distinguishes_rejected_from_unknown_outcome() {
        let rejection_failure = |rejection: PublishRejection| {
            PublishFailure::from(&publish_status(&PublishError::Rejected(rejection)))
        };
        assert!(matches!(
            rejection_failure(InvalidPublish::SystemTopic.into()),
            PublishFailure::Rejected { code: Code::InvalidArgument, retry: false, .. }
        ));
        assert!(matches!(
            rejection_failure(PublishRejection::from(OverloadReason::Producers)),
            PublishFailure::Rejected { code: Code::ResourceExhausted, retry: true, .. }
        ));
        assert!(matches!(
            rejection_failure(PublishRejection::from(TopicLimit::Reported("16".to_owned()))),
            PublishFailure::Rejected { code: Code::FailedPrecondition, retry: false, .. }
        ));
        assert!(matches!(
            rejection_failure(PublishRejection::from(UnavailableReason::NoMajority)),
            PublishFailure::Rejected { code: Code::Unavailable, retry: true, .. }
        ));
        assert!(matches!(
            rejection_failure(InvalidPublish::KeyReused.into()),
            PublishFailure::Rejected {
                code: Code::AlreadyExists,
                reason: ErrorCode::KeyReused,
                retry: false,
                ..
            }
        ));
        let unknown = publish_status(&PublishError::unknown("deadline"));
        assert_eq!(unknown.code(), Code::Unknown);
        assert!(matches!(PublishFailure::from(&unknown), PublishFailure::Unknown(_)));
    }

    #[test]
    fn status_made_by_the_transport_means_unknown_outcome() {
        let broken = Status::unavailable("connection reset");
        assert!(matches!(PublishFailure::from(&broken), PublishFailure::Unknown(_)));
    }

    #[test]
    fn stream_failure_equals_the_unary_status() {
        for error in [
            PublishError::Rejected(PublishRejection::from(OverloadReason::Producers)),
            PublishError::Rejected(InvalidPublish::Key.into()),
            PublishError::Rejected(PublishRejection::from(TopicLimit::Reported("16".to_owned()))),
            PublishError::Rejected(InvalidPublish::SequenceReused.into()),
            PublishError::Rejected(PublishRejection::OutOfSequence {
                received: ProducerSequence { producer: ProducerId(7), epoch: 0, number: 3 },
                expected: None,
            }),
        ] {
            let (unary, stream) = (publish_status(&error), pb::PublishFailure::from(&error));
            assert_eq!(PublishFailure::from(&unary), PublishFailure::from(stream));
        }
    }

    #[test]
    fn unknown_outcome_is_retryable_only_when_the_publish_is_idempotent() {
        for idempotent in [true, false] {
            let failure = pb::PublishFailure::from(
                &PublishError::unknown("gone").with_idempotency(idempotent),
            );
            assert_eq!(failure.retry, idempotent, "{failure:?}");
        }
    }

    #[test]
    fn invalid_publish_id_is_rejected_with_instructions() {
        let id = Bytes::from_static(&[7; 16]);
        let producer =
            |id: &Bytes, sequence| Some(pb::Producer { id: id.clone(), epoch: 1, sequence });
        for (nonce, producer, expected) in [
            (Bytes::from_static(b"short"), None, "`nonce` has 5 bytes"),
            (Bytes::new(), producer(&Bytes::new(), 1), "`producer.id` has 0 bytes"),
            (Bytes::new(), producer(&id, 0), "from 1"),
            (id.clone(), producer(&id, 1), "send one of them"),
        ] {
            let topic = "a".to_owned();
            let request = pb::PublishRequest { topic, nonce, producer, ..Default::default() };
            let message = Publish::try_from(request).expect_err("invalid").to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn future_position_maps_to_out_of_range() {
        let (requested, head) = (Position::new(1, 9), Position::new(1, 2));
        assert_eq!(
            fetch_status(&FetchError::FuturePosition { requested, head }).code(),
            Code::OutOfRange
        );
    }
}

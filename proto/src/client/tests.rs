//! Tests of the properties that both encodings share.

use std::num::NonZeroU16;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::arbitrary::{durability, gap, message, position, publish, topic};

fn encoding() -> impl Strategy<Value = Encoding> {
    select(&Encoding::ALL[..])
}

fn id() -> impl Strategy<Value = Option<u64>> {
    option::of(1..=u64::MAX)
}

fn from() -> impl Strategy<Value = StartFrom> {
    prop_oneof![
        Just(StartFrom::Now),
        Just(StartFrom::Start),
        any::<u32>().prop_map(StartFrom::Last),
        position().prop_map(StartFrom::Position),
    ]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        Just(Delivery::All),
        Just(Delivery::Latest),
        any::<NonZeroU16>().prop_map(Delivery::Rate),
    ]
}

fn options() -> impl Strategy<Value = SubscribeOptions> {
    (option::of(delivery()), any::<[bool; 4]>()).prop_map(
        |(delivery, [conflated, audience, delta, datagrams])| SubscribeOptions {
            delivery,
            report_conflated: conflated,
            report_audience: audience,
            accept_deltas: delta,
            use_datagrams: datagrams,
        },
    )
}

fn request() -> impl Strategy<Value = ClientRequest> {
    let command = prop_oneof![
        (topic(), from(), options()).prop_map(|(topic, from, options)| ClientCommand::Subscribe {
            topic,
            from,
            options
        }),
        topic().prop_map(|topic| ClientCommand::Unsubscribe { topic }),
        // A client request has a key but no publish id.
        publish()
            .prop_map(|publish| ClientCommand::Publish(Publish { publish_id: None, ..publish })),
        any::<String>()
            .prop_map(|text| ClientCommand::Authenticate { token: AccessToken::new(text) }),
    ];
    (id(), command).prop_map(|(id, command)| ClientRequest { id, command })
}

fn event() -> impl Strategy<Value = ServerEvent> {
    prop_oneof![
        (id(), topic(), position(), any::<bool>(), delivery()).prop_map(
            |(id, topic, position, recovered, delivery)| {
                ServerEvent::Subscribed { id, topic, position, recovered, delivery }
            }
        ),
        (id(), topic()).prop_map(|(id, topic)| ServerEvent::Unsubscribed { id, topic }),
        (id(), position(), durability()).prop_map(|(id, position, durability)| {
            ServerEvent::Published { id, position, durability }
        }),
        (id(), any::<u64>())
            .prop_map(|(id, ms)| ServerEvent::Authenticated { id, expires: Timestamp(ms) }),
        (topic(), message()).prop_map(|(topic, message)| ServerEvent::Message { topic, message }),
        (topic(), message(), vec(any::<u8>(), 1..40)).prop_map(|(topic, message, delta)| {
            let (position, time, key) = (message.position, message.time, message.key.clone());
            let message_delta = MessageDelta { position, time, key, delta: delta.into() };
            ServerEvent::MessageDelta { topic, message_delta }
        }),
        (topic(), gap()).prop_map(|(topic, gap)| ServerEvent::Gap { topic, gap }),
        (topic(), position()).prop_map(|(topic, since)| ServerEvent::Stale { topic, since }),
        (topic(), position()).prop_map(|(topic, position)| ServerEvent::Live { topic, position }),
        (topic(), any::<u64>()).prop_map(|(topic, count)| ServerEvent::Audience { topic, count }),
        (id(), select(&ErrorCode::ALL[..]), any::<String>())
            .prop_map(|(id, code, message)| ServerEvent::error(id, code, message)),
        (id(), any::<String>(), any::<u32>()).prop_map(|(id, message, millis)| {
            ServerEvent::rate_error(id, message, std::time::Duration::from_millis(millis.into()))
        }),
        vec((topic(), position()), 0..3).prop_map(|mut positions| {
            positions.sort();
            positions.dedup_by(|a, b| a.0 == b.0);
            ServerEvent::Heartbeat { positions }
        }),
        (any::<u32>(), any::<u32>(), any::<String>()).prop_map(
            |(after_ms, retry_after_ms, reason)| ServerEvent::Goaway {
                after_ms,
                retry_after_ms,
                reason
            }
        ),
    ]
}

/// Sorts the positions of a heartbeat, which is a map without an order.
fn sorted(event: ServerEvent) -> ServerEvent {
    match event {
        ServerEvent::Heartbeat { mut positions } => {
            positions.sort();
            ServerEvent::Heartbeat { positions }
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn request_round_trips_in_both_encodings(encoding in encoding(), request in request()) {
        let frame = encoding.encode_request(&request);
        prop_assert_eq!(encoding.decode_request(&frame), Ok(request));
    }

    #[test]
    fn event_round_trips_in_both_encodings(encoding in encoding(), event in event()) {
        let frame = encoding.encode_event(&event);
        prop_assert_eq!(encoding.decode_event(&frame).map(sorted), Ok(event));
    }

    #[test]
    fn message_frame_is_recognized_by_its_first_bytes(event in event()) {
        let message = matches!(event, ServerEvent::Message { .. } | ServerEvent::MessageDelta { .. });
        for encoding in Encoding::ALL {
            prop_assert_eq!(is_message(encoding, &encoding.encode_event(&event)), message);
        }
    }

    #[test]
    fn json_frame_is_valid_json(event in event()) {
        let frame = Encoding::Json.encode_event(&event);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&frame).is_ok());
    }

    /// A client that keeps payloads for deltas relies on this, as README.md shows.
    #[test]
    fn json_payload_is_at_the_end_of_its_frame(topic in topic(), message in message()) {
        let frame = encode_message(Encoding::Json, &topic, &message);
        let frame = std::str::from_utf8(&frame).expect("text");
        if message.content_type == pushonce_core::ContentType::Json {
            let begin = frame.find(r#""data":"#).expect("a data field") + 7;
            prop_assert_eq!(&frame.as_bytes()[begin..frame.len() - 2], &message.payload[..]);
        }
    }


}

#[test]
fn stream_event_round_trips() {
    let event = ServerEvent::Stream { topic: Topic::new("chat/7").expect("valid") };
    for encoding in Encoding::ALL {
        assert_eq!(encoding.decode_event(&encoding.encode_event(&event)), Ok(event.clone()));
    }
}

#[test]
fn subprotocol_maps_to_its_encoding() {
    for encoding in Encoding::ALL {
        assert_eq!(Encoding::from_subprotocol(encoding.subprotocol()), Some(encoding));
    }
    assert_eq!(Encoding::from_subprotocol("pushonce.v2.json"), None);
}

#[test]
fn malformed_frame_is_fatal_and_empty_request_is_not() {
    let error = Encoding::Proto.decode_request(&Bytes::from_static(&[0xff, 0xff]));
    assert!(error.expect_err("malformed").is_fatal);
    let empty = Encoding::Proto.decode_request(&Bytes::new()).expect_err("no request");
    assert!(!empty.is_fatal);
    assert_eq!(empty.code, ErrorCode::UnknownField);
}

#[test]
fn protobuf_publish_without_content_type_gets_a_guessed_one() {
    let publish = crate::pb::client::v1::Publish {
        topic: "chat/7".to_owned(),
        data: Bytes::from_static(b"{}"),
        ..Default::default()
    };
    let request = crate::pb::client::v1::client_frame::Request::Publish(publish);
    let frame = crate::pb::client::v1::ClientFrame { id: 0, request: Some(request) };
    let frame = prost::Message::encode_to_vec(&frame).into();
    let request = Encoding::Proto.decode_request(&frame).expect("valid");
    let ClientCommand::Publish(publish) = request.command else { panic!("expected a publish") };
    assert_eq!(publish.content_type, pushonce_core::ContentType::Json);
}

#[test]
fn unknown_error_code_is_mapped_by_its_retry_flag() {
    let read = |frame: &'static str| match Encoding::Json
        .decode_event(&Bytes::from_static(frame.as_bytes()))
    {
        Ok(ServerEvent::Error { code, retry, .. }) => (code, retry),
        other => panic!("{other:?}"),
    };
    let later = read(r#"{"id":1,"error":{"code":"lunch_break","message":"","retry":true}}"#);
    assert_eq!(later, (ErrorCode::Unavailable, true));
    let never = read(r#"{"id":1,"error":{"code":"no_shoes","message":""}}"#);
    assert_eq!(never, (ErrorCode::BadRequest, false));
}

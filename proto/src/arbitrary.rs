//! Strategies that generate domain values for the property tests.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use pushonce_core::{
    ContentType, Durability, Gap, GapReason, Message, MessageKey, Position, ProducerId,
    ProducerSequence, Publish, PublishId, Timestamp, Topic,
};

pub(crate) fn topic() -> impl Strategy<Value = Topic> {
    "[a-zA-Zäß\"\\\\$日 .-]{1,12}(/[a-z0-9\"\\\\]{1,8}){0,3}"
        .prop_filter_map("a valid topic", |name| Topic::new(&name).ok())
}

pub(crate) fn position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<u64>()).prop_map(|(epoch, offset)| Position::new(epoch, offset))
}

pub(crate) fn durability() -> impl Strategy<Value = Durability> {
    proptest::sample::select(vec![Durability::Replicated, Durability::Memory])
}

pub(crate) fn gap() -> impl Strategy<Value = Gap> {
    let reasons = vec![GapReason::Expired, GapReason::Epoch, GapReason::Slow, GapReason::Conflated];
    (position(), position(), proptest::sample::select(reasons)).prop_map(|(from, to, reason)| Gap {
        from,
        to,
        reason,
    })
}

fn key() -> impl Strategy<Value = Option<MessageKey>> {
    option::of("[^\\x00]{1,20}".prop_map(|text| MessageKey::new(&text).expect("short enough")))
}

/// A content type with a payload that is valid for it.
fn content() -> impl Strategy<Value = (ContentType, Bytes)> {
    let json = prop_oneof![
        Just("{\"gb\":21,\n \"usa\":20}".to_owned()),
        Just("[1,2.5e3,null,\"\\u00e9 \\\" é\"]".to_owned()),
        Just("\"a string\"".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
    ];
    prop_oneof![
        json.prop_map(|text| (ContentType::Json, text.into())),
        any::<String>().prop_map(|text| (ContentType::Text, text.into())),
        vec(any::<u8>(), 0..64).prop_map(|bytes| (ContentType::Binary, bytes.into())),
        vec(any::<u8>(), 0..64)
            .prop_map(|bytes| (ContentType::Other("image/png".into()), bytes.into())),
    ]
}

pub(crate) fn message() -> impl Strategy<Value = Arc<Message>> {
    (position(), any::<u64>(), content(), key()).prop_map(|(position, time, content, key)| {
        let (content_type, payload) = content;
        Arc::new(Message { position, time: Timestamp(time), content_type, key, payload })
    })
}

pub(crate) fn sequence() -> impl Strategy<Value = ProducerSequence> {
    (any::<u128>(), any::<u32>(), 1..=u64::MAX).prop_map(|(producer, epoch, number)| {
        ProducerSequence { producer: ProducerId(producer), epoch, number }
    })
}

fn publish_id() -> impl Strategy<Value = Option<PublishId>> {
    option::of(prop_oneof![
        any::<u128>().prop_map(PublishId::Nonce),
        sequence().prop_map(PublishId::Sequence),
    ])
}

pub(crate) fn publish() -> impl Strategy<Value = Publish> {
    (topic(), content(), key(), publish_id()).prop_map(
        |(topic, (content_type, payload), key, publish_id)| Publish {
            topic,
            content_type,
            key,
            publish_id,
            payload,
        },
    )
}

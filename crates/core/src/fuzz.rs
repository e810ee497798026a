//! Names and texts of clients: what is accepted has one spelling, and keeps the rules of its type.

use std::fmt::Display;
use std::str::FromStr;

use unicode_normalization::is_nfc;

use crate::{
    ClusterId, ContentType, Delivery, HostPort, MessageKey, NodeId, Position, Roles, SpiffeId,
    Topic, VersionOffer,
};

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn accepted_topic_is_parsed_and_displayed_to_itself() {
    let names = ["chat/7", "match/57/score", "é/日本/a b", "$sys/nodes", "a/../b", "e\u{301}/x"];
    pushonce_fuzz::check!("topics", seeds(&names), |input| {
        let Ok(name) = std::str::from_utf8(input) else { return };
        let Ok(topic) = Topic::new(name) else { return };
        assert_eq!(topic.to_string(), name);
        assert_eq!(name.parse(), Ok(topic.clone()));
        assert!(name.len() <= Topic::BYTES_MAX && is_nfc(name));
        assert!(!name.chars().any(char::is_control));
        let segments: Vec<_> = name.split('/').collect();
        assert!(segments.len() <= Topic::SEGMENTS_MAX);
        assert!(segments.iter().all(|segment| !matches!(*segment, "" | "." | "..")));
        assert_eq!(topic.namespace(), segments[0]);
        let json = serde_json::to_vec(&topic).unwrap();
        assert_eq!(serde_json::from_slice::<Topic>(&json).unwrap(), topic);
    });
}

#[test]
fn accepted_position_has_one_spelling_and_a_next_one() {
    let texts = ["12:4051", "0:0", "18446744073709551615:18446744073709551615", "01:2", "+1:2"];
    pushonce_fuzz::check!("positions", seeds(&texts), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(position) = text.parse::<Position>() else { return };
        assert_eq!(position.to_string(), text);
        assert!(position.next() >= position);
        assert!(position.next().follows(position));
    });
}

/// Fails if `text` is accepted and then displayed as a text that is not the same value.
fn round_trips<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let displayed = value.to_string();
        assert!(displayed.parse::<T>().is_ok_and(|again| again == value), "{displayed}");
    }
}

#[test]
fn accepted_text_is_displayed_as_the_same_value() {
    let texts = [
        "rate:10",
        "[::1]:7091",
        "n-1.eu_west.example.:7091",
        "spiffe://000000000000000000000000000000ab/node/3",
        "1 2 1",
        "n3",
        "core,edge",
        "text/plain; charset=utf-8",
        "text/html; Charset=latin1",
    ];
    pushonce_fuzz::check!("texts", seeds(&texts), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        round_trips::<Delivery>(text);
        round_trips::<HostPort>(text);
        round_trips::<SpiffeId>(text);
        round_trips::<VersionOffer>(text);
        round_trips::<ClusterId>(text);
        round_trips::<NodeId>(text);
        round_trips::<Roles>(text);
        if let Ok(content_type) = ContentType::parse(text) {
            assert_eq!(ContentType::parse(content_type.as_str()), Ok(content_type.clone()));
            // It is a header of a response.
            assert!(content_type.as_str().bytes().all(|byte| (b' '..0x7f).contains(&byte)));
        }
        if let Ok(key) = MessageKey::new(text) {
            assert_eq!(key.as_str(), text);
        }
        assert!(
            crate::Publish {
                topic: Topic::new("chat/7").unwrap(),
                content_type: ContentType::detect(input),
                key: None,
                publish_id: None,
                payload: input.to_vec().into(),
            }
            .validate(input.len())
            .is_ok()
        );
    });
}

type Record = (u64, String, Option<(Position, Vec<Topic>)>);

#[test]
fn decoded_record_is_encoded_to_a_record_that_decodes_alike() {
    use crate::{ClusterVersion, versioned};
    let record: Record =
        (7, "goal".to_owned(), Some((Position::new(1, 2), vec![Topic::new("chat/7").unwrap()])));
    let seed = versioned::encode(ClusterVersion::FIRST, &record);
    pushonce_fuzz::check!("records", vec![seed], |input| {
        let Ok((version, record)) = versioned::decode::<Record>(input) else { return };
        let encoded = versioned::encode(version, &record);
        assert_eq!(versioned::decode::<Record>(&encoded), Ok((version, record)));
        // Postcard reads numbers with leading zeros; nothing else makes the input longer.
        assert!(encoded.len() <= input.len());
    });
}

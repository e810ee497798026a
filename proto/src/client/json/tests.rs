//! Tests of the documented frames byte for byte, and of the errors for invalid frames.

use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::test_util::{self, topic};
use pushonce_core::{
    AccessToken, ContentType, Delivery, Durability, Gap, GapReason, Message, MessageKey, Position,
    Publish, StartFrom, SubscribeOptions, Timestamp,
};

use super::*;
use crate::client::{ClientCommand, ClientRequest, ErrorCode, InvalidFrame, ServerEvent};

fn decode(text: &str) -> Result<ClientRequest, InvalidFrame> {
    decode_request(&Bytes::copy_from_slice(text.as_bytes()))
}

fn decode_error(text: &str) -> (Option<u64>, ErrorCode, bool) {
    let error = decode(text).expect_err(text);
    assert!(!error.message.is_empty());
    (error.id, error.code, error.is_fatal)
}

fn decode_publish(text: &str) -> Publish {
    match decode(text).expect(text).command {
        ClientCommand::Publish(publish) => publish,
        other => panic!("{other:?}"),
    }
}

fn message(content_type: ContentType, payload: &'static [u8]) -> Message {
    let payload = Bytes::from_static(payload);
    let position = Position::new(12, 4052);
    Message { position, time: Timestamp(1_790_000_000_000), content_type, key: None, payload }
}

fn encode(event: &ServerEvent) -> String {
    String::from_utf8(encode_event(event).to_vec()).expect("UTF-8")
}

// === requests of a client ===

#[test]
fn subscribe_is_decoded_with_every_start_position() {
    let options = SubscribeOptions { delivery: Some(Delivery::All), ..SubscribeOptions::default() };
    let subscribe = |from| {
        let topic = topic("multiball/gb-usa/score");
        ClientRequest { id: Some(1), command: ClientCommand::Subscribe { topic, from, options } }
    };
    let frame = |from: &str| {
        format!(
            r#"{{"id":1,"subscribe":{{"topic":"multiball/gb-usa/score"{from},"delivery":"all"}}}}"#
        )
    };
    assert_eq!(decode(&frame("")), Ok(subscribe(StartFrom::Now)));
    assert_eq!(decode(&frame(r#","from":"now""#)), Ok(subscribe(StartFrom::Now)));
    assert_eq!(decode(&frame(r#","from":"start""#)), Ok(subscribe(StartFrom::Start)));
    assert_eq!(decode(&frame(r#","from":{"last":1}"#)), Ok(subscribe(StartFrom::Last(1))));
    assert_eq!(
        decode(&frame(r#","from":{"position":"12:4051"}"#)),
        Ok(subscribe(StartFrom::Position(Position::new(12, 4051))))
    );
}

#[test]
fn publish_data_is_text_for_a_string_and_json_for_anything_else() {
    let text = decode_publish(r#"{"id":2,"publish":{"topic":"chat/7","data":"goal!","key":"a1"}}"#);
    assert_eq!(text.content_type, ContentType::Text);
    assert_eq!(text.payload, "goal!");
    assert_eq!(text.key, Some(MessageKey::new("a1").expect("valid")));
    for json in [r#"{ "gb": 21 }"#, "[1,2]", "1.50", "null", "true"] {
        let publish = decode_publish(&format!(r#"{{"publish":{{"topic":"a","data":{json} }}}}"#));
        assert_eq!(publish.content_type, ContentType::Json);
        assert_eq!(publish.payload, json, "byte for byte");
    }
}

#[test]
fn null_in_an_optional_field_equals_absence() {
    let with_nulls = r#"{"id":null,"publish":null,"subscribe":{"topic":"a","from":null,
        "delivery":null,"conflated":null,"audience":null,"delta":null,"datagrams":null}}"#;
    let without = decode(r#"{"subscribe":{"topic":"a"}}"#).expect("valid");
    assert_eq!(decode(with_nulls).expect("valid"), without);
    let publish =
        r#"{"publish":{"topic":"a","data":"x","encoding":null,"content_type":null,"key":null}}"#;
    assert_eq!(decode_publish(publish), decode_publish(r#"{"publish":{"topic":"a","data":"x"}}"#));
    assert!(decode(r#"{"subscribe":{"topic":null}}"#).is_err(), "a topic is required");
    assert!(
        decode(r#"{"subscribe":{"topic":"a","form":null}}"#).is_err(),
        "an unknown field is rejected even if it is null"
    );
}

#[test]
fn publish_data_is_decoded_by_its_encoding_and_content_type() {
    let binary = decode_publish(r#"{"publish":{"topic":"a","data":"//4=","encoding":"base64"}}"#);
    assert_eq!((binary.content_type, &binary.payload[..]), (ContentType::Binary, &b"\xff\xfe"[..]));
    let html =
        decode_publish(r#"{"publish":{"topic":"a","data":"<b>","content_type":"text/html"}}"#);
    assert_eq!((html.content_type.as_str(), &html.payload[..]), ("text/html", &b"<b>"[..]));
    let string =
        decode_publish(r#"{"publish":{"topic":"a","data":"x","content_type":"application/json"}}"#);
    assert_eq!((string.content_type, &string.payload[..]), (ContentType::Json, &b"\"x\""[..]));
}

#[test]
fn unsubscribe_and_authenticate_are_decoded() {
    let unsubscribe = decode(r#"{"id":3,"unsubscribe":{"topic":"a"}}"#).expect("valid");
    assert_eq!(unsubscribe.command, ClientCommand::Unsubscribe { topic: topic("a") });
    let authenticate = decode(r#"{"id":4,"authenticate":{"token":"t"}}"#).expect("valid");
    assert_eq!(authenticate.command, ClientCommand::Authenticate { token: AccessToken::new("t") });
}

#[test]
fn requests_are_encoded_as_documented() {
    let encode = |command| {
        let frame = encode_request(&ClientRequest { id: Some(1), command });
        String::from_utf8(frame.to_vec()).expect("UTF-8")
    };
    let (from, options) = (StartFrom::Last(1), SubscribeOptions::default());
    assert_eq!(
        encode(ClientCommand::Subscribe { topic: topic("a"), from, options }),
        r#"{"id":1,"subscribe":{"topic":"a","from":{"last":1}}}"#
    );
    assert_eq!(
        encode(ClientCommand::Publish(Publish {
            topic: topic("chat/7"),
            content_type: ContentType::Text,
            key: Some(MessageKey::new("a1").expect("valid")),
            publish_id: None,
            payload: Bytes::from_static(b"goal!"),
        })),
        r#"{"id":1,"publish":{"topic":"chat/7","key":"a1","data":"goal!"}}"#
    );
}

#[test]
fn publish_with_an_invalid_json_payload_is_encoded_as_base64() {
    let publish = Publish {
        topic: topic("a"),
        content_type: ContentType::Json,
        key: None,
        publish_id: None,
        payload: Bytes::from_static(b"1},\"id\":7"),
    };
    let frame = encode_request(&ClientRequest {
        id: None,
        command: ClientCommand::Publish(publish.clone()),
    });
    assert_eq!(
        decode_request(&frame).map(|request| request.command),
        Ok(ClientCommand::Publish(publish))
    );
}

// === invalid frames ===

#[test]
fn frame_that_is_not_a_json_object_is_fatal() {
    for text in ["", "{", "subscribe", "[]", "1", r#""x""#, r#"{"id":1}{"#, r#"{"id":1,}"#] {
        assert_eq!(decode_error(text), (None, ErrorCode::BadFrame, true), "{text}");
    }
    assert!(decode_request(&Bytes::from_static(b"{\"\xff\":1}")).expect_err("not UTF-8").is_fatal);
}

#[test]
fn unknown_field_is_named_in_the_error() {
    for (text, name) in [
        (r#"{"id":5,"dance":{}}"#, "dance"),
        (r#"{"id":5,"subscribe":{"topic":"a"},"then":1}"#, "then"),
        (r#"{"id":5,"subscribe":{"topic":"a","form":"now"}}"#, "form"),
        (r#"{"id":5,"subscribe":{"topic":"a","from":{"last":1,"first":2}}}"#, "first"),
        (r#"{"id":5,"subscribe":{"topic":"a"},"subscribe":{"topic":"b"}}"#, "subscribe"),
    ] {
        let error = decode(text).expect_err(text);
        assert_eq!(
            (error.id, error.code, error.is_fatal),
            (Some(5), ErrorCode::UnknownField, false)
        );
        assert!(error.message.contains(name), "{}", error.message);
    }
}

#[test]
fn invalid_requests_get_specific_error_codes() {
    for (text, code) in [
        (r#"{"id":6}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":1}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":7}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a//b"}}"#, ErrorCode::BadTopic),
        (r#"{"id":6,"subscribe":{"topic":"a","from":"then"}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a","from":{}}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a","from":{"last":-1}}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a","from":{"position":"12"}}}"#, ErrorCode::BadPosition),
        (r#"{"id":6,"subscribe":{"topic":"a","delivery":"newest"}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a","delivery":{"rate":0}}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a","delivery":{}}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a","audience":1}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"subscribe":{"topic":"a","delta":"vcdiff"}}"#, ErrorCode::NotSupported),
        (r#"{"id":6,"subscribe":{"topic":"a","datagrams":"yes"}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"publish":{"topic":"a"}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"publish":{"topic":"a","data":1,"key":""}}"#, ErrorCode::BadRequest),
        (r#"{"id":6,"publish":{"topic":"a","data":1,"encoding":"hex"}}"#, ErrorCode::BadRequest),
        (
            r#"{"id":6,"publish":{"topic":"a","data":"?","encoding":"base64"}}"#,
            ErrorCode::BadRequest,
        ),
        (
            r#"{"id":6,"publish":{"topic":"a","data":1,"content_type":"text/plain"}}"#,
            ErrorCode::BadRequest,
        ),
    ] {
        assert_eq!(decode_error(text), (Some(6), code, false), "{text}");
    }
    for id in ["0", "-1", "1.5", r#""1""#] {
        let text = format!(r#"{{"id":{id},"unsubscribe":{{"topic":"a"}}}}"#);
        assert_eq!(decode_error(&text), (None, ErrorCode::BadRequest, false), "{text}");
    }
}

// === events of a server ===

#[test]
fn responses_are_encoded_as_documented() {
    let (id, topic) = (Some(1), topic("multiball/gb-usa/score"));
    let position = Position::new(12, 4051);
    assert_eq!(
        encode(&ServerEvent::Subscribed {
            id,
            topic: topic.clone(),
            position,
            recovered: true,
            delivery: Delivery::All,
        }),
        r#"{"id":1,"subscribed":{"topic":"multiball/gb-usa/score","position":"12:4051","recovered":true}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Published {
            id: Some(2),
            position: Position::new(3, 17),
            durability: Durability::Memory
        }),
        r#"{"id":2,"published":{"position":"3:17","durability":"memory"}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Unsubscribed { id: Some(3), topic }),
        r#"{"id":3,"unsubscribed":{"topic":"multiball/gb-usa/score"}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Authenticated { id: Some(4), expires: Timestamp(1_790_000_000_000) }),
        r#"{"id":4,"authenticated":{"expires":1790000000000}}"#
    );
    assert_eq!(
        encode(&ServerEvent::error(Some(2), ErrorCode::NotAllowed, "say \"please\"")),
        r#"{"id":2,"error":{"code":"not_allowed","message":"say \"please\"","retry":false}}"#
    );
}

#[test]
fn json_payload_is_encoded_verbatim() {
    let message = message(ContentType::Json, br#"{"gb":21,"usa":20}"#);
    let event =
        ServerEvent::Message { topic: topic("multiball/gb-usa/score"), message: Arc::new(message) };
    assert_eq!(
        encode(&event),
        r#"{"message":{"topic":"multiball/gb-usa/score","position":"12:4052","time":1790000000000,"data":{"gb":21,"usa":20}}}"#
    );
}

#[test]
fn content_type_and_encoding_are_written_only_when_needed() {
    let tail = |content_type, payload| {
        let frame = encode_message(&topic("a"), &message(content_type, payload));
        let frame = String::from_utf8(frame.to_vec()).expect("UTF-8");
        frame.split_once("1790000000000,").expect("a time").1.to_owned()
    };
    assert_eq!(tail(ContentType::Text, b"goal!\n\x01"), r#""data":"goal!\n\u0001"}}"#);
    assert_eq!(tail(ContentType::Binary, b"\xff\xfe"), r#""encoding":"base64","data":"//4="}}"#);
    assert_eq!(
        tail(ContentType::Other("image/png".into()), b"\x89"),
        r#""content_type":"image/png","encoding":"base64","data":"iQ=="}}"#
    );
    assert_eq!(
        tail(ContentType::Json, br#""a string""#),
        r#""content_type":"application/json","data":"a string"}}"#
    );
    // A text frame that is not UTF-8 would close every subscriber's socket.
    assert_eq!(
        tail(ContentType::Json, b"\"\xff\""),
        r#""content_type":"application/json","encoding":"base64","data":"Iv8i"}}"#
    );
}

#[test]
fn unsolicited_events_are_encoded_as_documented() {
    let topic = topic("a\"b");
    let (from, to) = (Position::new(12, 4053), Position::new(12, 4090));
    let gap = Gap { from, to, reason: GapReason::Conflated };
    assert_eq!(
        encode(&ServerEvent::Gap { topic: topic.clone(), gap }),
        r#"{"gap":{"topic":"a\"b","from":"12:4053","to":"12:4090","reason":"conflated"}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Stale { topic: topic.clone(), since: from }),
        r#"{"stale":{"topic":"a\"b","since":"12:4053"}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Live { topic: topic.clone(), position: to }),
        r#"{"live":{"topic":"a\"b","position":"12:4090"}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Heartbeat {
            positions: vec![(topic, from), (test_util::topic("b"), to)]
        }),
        r#"{"heartbeat":{"positions":{"a\"b":"12:4053","b":"12:4090"}}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Heartbeat { positions: vec![] }),
        r#"{"heartbeat":{"positions":{}}}"#
    );
    assert_eq!(
        encode(&ServerEvent::Goaway {
            after_ms: 800,
            retry_after_ms: 0,
            reason: "draining".to_owned()
        }),
        r#"{"goaway":{"after_ms":800,"reason":"draining"}}"#
    );
}

#[test]
fn client_skips_unknown_events_and_fails_on_malformed_known_events() {
    let event = |text: &'static str| decode_event(&Bytes::from_static(text.as_bytes()));
    let event_with_new_fields = event(
        r#"{"published":{"position":"1:1","durability":"replicated","shard":3},"trace":"x"}"#,
    );
    let (position, durability) = (Position::new(1, 1), Durability::Replicated);
    assert_eq!(
        event_with_new_fields,
        Ok(ServerEvent::Published { id: None, position, durability })
    );
    let without_durability = event(r#"{"published":{"position":"1:1"}}"#);
    assert!(without_durability.expect_err("a durability is required").is_fatal);
    assert!(!event(r#"{"weather":{"rain":true}}"#).expect_err("unknown").is_fatal);
    assert!(!event("{}").expect_err("empty").is_fatal);
    assert!(event(r#"{"message":{"topic":"a","position":"1"}}"#).expect_err("invalid").is_fatal);
}

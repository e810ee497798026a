//! Payloads and queries of event streams.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pushonce_core::{ContentType, Message, test_util};
use pushonce_fuzz::Input;

use super::encode_message;
use super::event::tests::parse;
use super::positions::StreamPositions;

#[test]
fn any_payload_is_one_event_with_the_payload_as_its_data() {
    let seeds = [
        "tgoal\n\nid: 9:9\ndata: x",
        "t\r\n\r\r\nevent: rotate",
        "j{\n\"a\": [1,\r2]}",
        "b\0\x01: data",
        "t\u{feff}: comment",
    ];
    pushonce_fuzz::check!("event_blocks", seeds.map(Into::into).to_vec(), |input| {
        let mut input = Input::new(input);
        let content_type = match input.byte() % 4 {
            0 => ContentType::Text,
            1 => ContentType::Json,
            2 => ContentType::Binary,
            _ => ContentType::parse("text/csv; charset=utf-8").expect("valid"),
        };
        let payload = input.bytes(usize::MAX);
        let message = Message {
            content_type: content_type.clone(),
            payload: Bytes::copy_from_slice(payload),
            ..test_util::message(12, 4_051)
        };
        let block = encode_message(&message);
        let stream = std::str::from_utf8(&block).expect("an event stream is UTF-8");
        let events = parse(stream);
        assert_eq!(events.len(), 1, "{stream:?}");
        let event = &events[0];
        assert_eq!(event.id, "12:4051");
        match event.name.as_str() {
            "base64" => assert_eq!(STANDARD.decode(&event.data).expect("base64"), payload),
            "" => {
                let text = std::str::from_utf8(payload).expect("text");
                let expected = match content_type {
                    ContentType::Json => text.replace(['\r', '\n'], " "),
                    _ => text.replace("\r\n", "\n").replace('\r', "\n"),
                };
                assert_eq!(event.data, expected);
            }
            other => panic!("a payload named its event {other:?}"),
        }
    });
}

#[test]
fn accepted_positions_are_written_as_they_were_read() {
    let seeds = ["12:4051,3:17,-", "-", "1:1,,2:2"];
    pushonce_fuzz::check!("stream_positions", seeds.map(Into::into).to_vec(), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let topics = text.split(',').count();
        if let Some(positions) = StreamPositions::parse(text, topics) {
            let written = positions.to_string();
            assert_eq!(StreamPositions::parse(&written, topics), Some(positions));
        }
    });
}

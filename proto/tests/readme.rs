//! Compares the tables and the frames of `README.md` with the code.

use bytes::Bytes;
use pushonce_core::{
    FetchError, InvalidPublish, OverloadReason, Position, ProducerId, ProducerSequence,
    PublishError, PublishRejection, TopicLimit, UnavailableReason,
};
use pushonce_proto::client::{Encoding, ErrorCode};
use pushonce_proto::close;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::publisher::{fetch_status, publish_status};

const README: &str = include_str!("../README.md");

/// The cells of every table row whose first cell is `first`.
fn rows(first: &str) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
    };
    README
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(cells)
        .filter(|cells| cells[0] == first)
        .collect()
}

#[test]
fn readme_lists_every_close_code_with_its_properties() {
    for close in close::TABLE {
        let rows = rows(&close.code.to_string());
        let [row] = &rows[..] else { panic!("{} is listed {} times", close.code, rows.len()) };
        assert_eq!((row[1], row[3]), (close.reason, close.reconnect.as_str()), "{}", close.code);
    }
}

#[test]
fn readme_lists_only_close_codes_in_use() {
    let published = README.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    for code in published.filter_map(|(first, _)| first.parse().ok()) {
        assert!(close::from_code(code).is_some(), "{code}");
    }
}

#[test]
fn readme_lists_every_error_code_with_its_retry_flag() {
    for code in ErrorCode::ALL {
        // Other tables have rows such as `slow` too: in the table of errors the third cell is true or false.
        let rows = rows(code.as_str());
        let retry =
            rows.iter().filter(|row| row.get(2) == Some(&code.is_retryable().to_string().as_str()));
        assert_eq!(retry.count(), 1, "{code}");
    }
}

#[test]
fn readme_lists_the_grpc_code_of_every_error() {
    let sequence = ProducerSequence { producer: ProducerId(7), epoch: 0, number: 3 };
    let (requested, head) = (Position::new(1, 9), Position::new(1, 2));
    let rejections = [
        InvalidPublish::SystemTopic.into(),
        InvalidPublish::KeyReused.into(),
        InvalidPublish::PayloadTooLarge { len: 2, max: 1 }.into(),
        PublishRejection::OutOfSequence { received: sequence, expected: None },
        OverloadReason::Producers.into(),
        TopicLimit::Reported("text".to_owned()).into(),
        UnavailableReason::NoMajority.into(),
    ];
    let errors = rejections.into_iter().map(PublishError::Rejected);
    let publishes = errors.chain([PublishError::unknown("text")]);
    let fetches =
        [FetchError::FuturePosition { requested, head }, UnavailableReason::NoMajority.into()];
    let statuses = publishes.map(|error| publish_status(&error));
    for status in statuses.chain(fetches.map(|error| fetch_status(&error))) {
        let reason = ErrorReason::from_status(&status).expect("a node's status has a reason").code;
        let code = upper_snake(&format!("{:?}", status.code()));
        let is_published =
            rows(reason.as_str()).iter().any(|row| row.get(3).is_some_and(|c| c.contains(&code)));
        assert!(is_published, "{reason}: {code}");
    }
}

/// `OutOfRange` as `OUT_OF_RANGE`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

#[test]
fn example_frames_of_the_readme_are_decoded() {
    // A transcript also has frames that a node refuses; a cluster test replays it.
    let (before, rest) = README.split_once("```transcript\n").expect("a transcript");
    let (_, after) = rest.split_once("```\n").expect("its end");
    let lines = || before.lines().chain(after.lines());
    let frames = |arrow| lines().filter_map(move |line| line.strip_prefix(arrow));
    let bytes = |frame: &str| Bytes::copy_from_slice(frame.trim().as_bytes());
    for frame in frames("→") {
        assert!(Encoding::Json.decode_request(&bytes(frame)).is_ok(), "{frame}");
    }
    for frame in frames("←") {
        assert!(Encoding::Json.decode_event(&bytes(frame)).is_ok(), "{frame}");
    }
    assert_eq!((frames("→").count(), frames("←").count()), (6, 16));
}

//! Splits a heartbeat into frames.
//!
//! A session may have thousands of subscriptions. One frame with all their positions would exceed the limits
//! of clients and delay the messages that follow.

use pushonce_core::{Position, Topic};

/// Maximum bytes of one frame in either encoding.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// Bytes of an entry besides the topic name: the two numbers of the position and the syntax around them.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Splits the positions into frames. There is at least one frame, and each topic is in exactly one.
pub(super) fn split_into_frames(
    positions: Vec<(u32, Topic, Position)>,
) -> impl Iterator<Item = Vec<(Topic, Position)>> {
    let mut remaining = positions.into_iter().map(|(_, topic, at)| (topic, at)).peekable();
    let mut first = true;
    std::iter::from_fn(move || {
        if !std::mem::take(&mut first) {
            remaining.peek()?;
        }
        let mut bytes = 0;
        let mut frame = Vec::new();
        while let Some(next) = remaining.next_if(|(topic, _)| {
            // A byte of a name may need two in JSON.
            bytes += 2 * topic.as_str().len() + ENTRY_OVERHEAD_BYTES;
            bytes <= FRAME_BYTES_MAX
        }) {
            frame.push(next);
        }
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Epoch, Offset};
    use pushonce_proto::client::{Encoding, ServerEvent};

    use super::*;

    #[test]
    fn heartbeat_of_any_number_of_topics_fits_frames_that_clients_accept() {
        let at = Position { epoch: Epoch(u64::MAX), offset: Offset(u64::MAX) };
        let name = |n: u32| format!("{}/{n:06}", "\"".repeat(Topic::BYTES_MAX - 7));
        let topics: Vec<Topic> = (0..5_000).map(|n| name(n).parse().unwrap()).collect();
        let positions = topics.iter().map(|topic| (7, topic.clone(), at)).collect();
        let mut sent_topics = Vec::new();
        for positions in split_into_frames(positions) {
            sent_topics.extend(positions.iter().map(|(topic, _)| topic.clone()));
            for encoding in [Encoding::Json, Encoding::Proto] {
                let event = ServerEvent::Heartbeat { positions: positions.clone() };
                let bytes = encoding.encode_event(&event).len();
                assert!(bytes <= FRAME_BYTES_MAX + 64, "{encoding:?}: {bytes} bytes");
            }
        }
        assert!(sent_topics == topics, "a topic is missing or repeated");
    }

    #[test]
    fn heartbeat_without_positions_is_one_empty_frame() {
        assert_eq!(split_into_frames(Vec::new()).collect::<Vec<_>>(), [vec![]]);
    }
}

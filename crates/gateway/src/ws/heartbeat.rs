//! The frames of one heartbeat.
//!
//! A session may have thousands of subscriptions. The positions of all of them in one frame would
//! exceed what clients accept, and would hold up the messages behind it.

use pushonce_core::{Position, Topic};

/// The most one frame has, in either encoding.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// What a topic costs beside its name: a position of two numbers, and what stands around both.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// Divides the positions into frames; there is at least one frame, and no topic is in two.
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
            // Each byte of a name may need a second one in JSON.
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
        assert!(sent_topics == topics, "some topic was lost or told twice");
    }

    #[test]
    fn heartbeat_without_positions_is_one_empty_frame() {
        assert_eq!(split_into_frames(Vec::new()).collect::<Vec<_>>(), [vec![]]);
    }
}

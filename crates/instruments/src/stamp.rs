//! A stamp in each message, with its number and its due time.
//!
//! Text of fixed length at the start of the payload, which no encoding changes, so that a reader finds it
//! without decoding the frame.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// The stamp of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageStamp {
    /// Number of the message in its topic, from 0.
    pub sequence: u64,
    /// The time at which the message was due.
    pub due_at: Instant,
}

/// The clock of one run, and the run id that distinguishes its messages from those of other runs.
#[derive(Clone, Copy, Debug)]
pub struct RunClock {
    run_id: u32,
    start: Instant,
}

/// The first byte of a stamp. Occurs in no topic name of a bench and in no protocol element.
const MARK: u8 = b'~';

impl MessageStamp {
    /// Length of a stamp: the mark, then in hexadecimal 8 digits of the run, 12 of the sequence, and 16 of
    /// the nanoseconds.
    pub const BYTES: usize = 1 + 8 + 12 + 16;
}

impl RunClock {
    /// Starts the clock; `run_id` must be unique to this run.
    pub fn new(run_id: u32) -> RunClock {
        RunClock { run_id, start: Instant::now() }
    }

    /// Creates a payload of `len` bytes, at least [`MessageStamp::BYTES`].
    pub fn payload(&self, stamp: MessageStamp, len: usize) -> Bytes {
        let nanos = stamp.due_at.saturating_duration_since(self.start).as_nanos();
        let mut text = format!("~{:08x}{:012x}{nanos:016x}", self.run_id, stamp.sequence);
        text.extend(std::iter::repeat_n('x', len.saturating_sub(text.len())));
        text.into()
    }

    /// Finds the stamp in a frame; `None` for a frame without a message, or a message of another run.
    pub fn find_stamp(&self, frame: &[u8]) -> Option<MessageStamp> {
        let at = frame.iter().position(|&byte| byte == MARK)?;
        let digits = frame.get(at + 1..at + MessageStamp::BYTES)?;
        let number =
            |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        if number(&digits[..8])? != u64::from(self.run_id) {
            return None;
        }
        let due_at = self.start.checked_add(Duration::from_nanos(number(&digits[20..])?))?;
        Some(MessageStamp { sequence: number(&digits[8..20])?, due_at })
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ContentType, Message, Position, Timestamp, Topic};
    use pushonce_proto::client::{Encoding, encode_message};

    use super::*;

    fn test_stamp(clock: &RunClock) -> MessageStamp {
        MessageStamp { sequence: 4_051, due_at: clock.start + Duration::from_nanos(123_456_789) }
    }

    #[test]
    fn stamp_is_found_in_a_frame_of_each_encoding() {
        let clock = RunClock::new(7);
        let payload = clock.payload(test_stamp(&clock), 128);
        assert_eq!(payload.len(), 128);
        let message = Message {
            position: Position::new(12, 4_052),
            time: Timestamp(1_790_000_000_000),
            content_type: ContentType::Text,
            key: None,
            payload,
        };
        let topic = Topic::new("bench/fanout/0").unwrap();
        for encoding in Encoding::ALL {
            let frame = encode_message(encoding, &topic, &message);
            assert_eq!(clock.find_stamp(&frame), Some(test_stamp(&clock)), "{encoding:?}");
        }
    }

    #[test]
    fn stamp_of_another_run_truncated_or_malformed_is_ignored() {
        let clock = RunClock::new(7);
        let payload = clock.payload(test_stamp(&clock), MessageStamp::BYTES);
        assert_eq!(payload.len(), MessageStamp::BYTES);
        assert_eq!(RunClock::new(8).find_stamp(&payload), None);
        assert_eq!(clock.find_stamp(&payload[..MessageStamp::BYTES - 1]), None);
        assert_eq!(clock.find_stamp(b"{\"heartbeat\":{}}"), None);
        assert_eq!(clock.find_stamp(&[b'~'; 64]), None);
        assert_eq!(clock.find_stamp(&[b"~", &[0xff; 64][..]].concat()), None);
    }
}

//! What a message says about itself: which it is, and when it was meant to go.
//!
//! Text of fixed length at the front of the payload, which stands unchanged in every encoding, so
//! that a reader finds it without decoding the frame.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// A message of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Counts the messages of the topic, from 0.
    pub sequence: u64,
    /// When it was meant to go.
    pub meant: Instant,
}

/// The clock of one run, and the mark that tells its messages from those of another.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    run: u32,
    begun: Instant,
}

/// Begins a stamp. In no topic of a bench, and in no word of the protocol.
const MARK: u8 = b'~';

impl Stamp {
    /// The mark, 8 digits of the run, 12 of the sequence, 16 of the nanoseconds; hexadecimal.
    pub const BYTES: usize = 1 + 8 + 12 + 16;
}

impl Clock {
    /// Begins now; `run` is of this run alone.
    pub fn new(run: u32) -> Clock {
        Clock { run, begun: Instant::now() }
    }

    /// A payload of `len` bytes, at least [`Stamp::BYTES`].
    pub fn payload(&self, stamp: Stamp, len: usize) -> Bytes {
        let nanos = stamp.meant.saturating_duration_since(self.begun).as_nanos();
        let mut text = format!("~{:08x}{:012x}{nanos:016x}", self.run, stamp.sequence);
        text.extend(std::iter::repeat_n('x', len.saturating_sub(text.len())));
        text.into()
    }

    /// The stamp within a frame; `None` for one of the protocol, or of another run.
    pub fn find(&self, frame: &[u8]) -> Option<Stamp> {
        let at = frame.iter().position(|&byte| byte == MARK)?;
        let digits = frame.get(at + 1..at + Stamp::BYTES)?;
        let number =
            |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        if number(&digits[..8])? != u64::from(self.run) {
            return None;
        }
        let meant = self.begun.checked_add(Duration::from_nanos(number(&digits[20..])?))?;
        Some(Stamp { sequence: number(&digits[8..20])?, meant })
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ContentType, Message, Position, Timestamp, Topic};
    use pushonce_proto::client::{Encoding, encode_message};

    use super::*;

    fn stamp(clock: &Clock) -> Stamp {
        Stamp { sequence: 4_051, meant: clock.begun + Duration::from_nanos(123_456_789) }
    }

    #[test]
    fn a_stamp_is_found_in_a_frame_of_either_encoding() {
        let clock = Clock::new(7);
        let payload = clock.payload(stamp(&clock), 128);
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
            assert_eq!(clock.find(&frame), Some(stamp(&clock)), "{encoding:?}");
        }
    }

    #[test]
    fn what_is_of_another_run_or_cut_or_no_stamp_is_not_taken() {
        let clock = Clock::new(7);
        let payload = clock.payload(stamp(&clock), Stamp::BYTES);
        assert_eq!(payload.len(), Stamp::BYTES);
        assert_eq!(Clock::new(8).find(&payload), None);
        assert_eq!(clock.find(&payload[..Stamp::BYTES - 1]), None);
        assert_eq!(clock.find(b"{\"heartbeat\":{}}"), None);
        assert_eq!(clock.find(&[b'~'; 64]), None);
        assert_eq!(clock.find(&[b"~", &[0xff; 64][..]].concat()), None);
    }
}

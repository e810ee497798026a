//! The position of a message in its topic: `epoch:offset`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Increases whenever a topic loses its continuity: it was deleted and created again, or the owner of a
/// topic in memory died. It is the log index at which the topic was created, so no two incarnations of a
/// topic share an epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// The number of a message within an epoch, from 1 without holes. 0 is before the first message.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Offset(pub u64);

/// A position in a topic. Within one epoch an offset identifies the same payload on every node,
/// permanently. Ordered: a later epoch is after every position of an earlier one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Incarnation of the topic.
    pub epoch: Epoch,
    /// Message within the epoch.
    pub offset: Offset,
}

/// Text that is not of the form `epoch:offset`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is written epoch:offset, as in 12:4051, not {0:?}")]
pub struct InvalidPosition(pub String);

impl Offset {
    /// The next offset.
    pub fn next(self) -> Offset {
        // Saturates because a forged offset can be the maximum.
        Offset(self.0.saturating_add(1))
    }
}

impl Position {
    /// Before every message: the position of a topic that has no message yet.
    pub const ZERO: Position = Position { epoch: Epoch(0), offset: Offset(0) };

    /// The position `epoch:offset`.
    pub fn new(epoch: u64, offset: u64) -> Position {
        Position { epoch: Epoch(epoch), offset: Offset(offset) }
    }

    /// The next position of the same epoch.
    pub fn next(self) -> Position {
        Position { epoch: self.epoch, offset: self.offset.next() }
    }

    /// Whether a message at `self` may be shown directly after `reached` without a gap: it is the next of
    /// the same epoch, or the first message of any epoch after [`Position::ZERO`].
    pub fn follows(self, reached: Position) -> bool {
        self == reached.next() || (reached == Position::ZERO && self.offset == Offset(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch.0, self.offset.0)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Position, InvalidPosition> {
        let invalid = || InvalidPosition(text.chars().take(64).collect());
        let (epoch, offset) = text.split_once(':').ok_or_else(invalid)?;
        let number = |part: &str| {
            // `parse` would also accept "+1" and "01"; a position has exactly one spelling.
            let has_other_spelling = part.starts_with(['+', '0']) && part != "0";
            if has_other_spelling { Err(invalid()) } else { part.parse().map_err(|_| invalid()) }
        };
        Ok(Position::new(number(epoch)?, number(offset)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_round_trips_through_its_string_form() {
        let position = Position::new(12, 4051);
        assert_eq!(position.to_string(), "12:4051");
        assert_eq!("12:4051".parse(), Ok(position));
    }

    #[test]
    fn malformed_position_is_rejected() {
        for text in [
            "",
            "12",
            "12:",
            ":1",
            "a:1",
            "1:2:3",
            "-1:2",
            "+1:2",
            "01:2",
            "1:00",
            "1: 2",
            "99999999999999999999:1",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn only_the_next_offset_follows_and_any_first_offset_follows_zero() {
        assert!(Position::new(5, 8).follows(Position::new(5, 7)));
        assert!(!Position::new(5, 9).follows(Position::new(5, 7)));
        assert!(!Position::new(6, 1).follows(Position::new(5, 7)));
        assert!(Position::new(6, 1).follows(Position::ZERO));
        assert!(!Position::new(6, 2).follows(Position::ZERO));
    }

    #[test]
    fn a_later_epoch_is_after_all_of_an_earlier_one() {
        assert!(Position::new(6, 1) > Position::new(5, 1_000_000));
    }
}

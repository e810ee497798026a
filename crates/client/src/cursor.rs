//! The cursor of a subscription across its sessions.

use pushonce_core::{Delivery, Gap, Position, StartFrom};

/// The progress of one topic, which determines where the next session starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionCursor {
    start: StartFrom,
    /// The last position that was delivered or reported as missing.
    reached: Option<Position>,
    /// The delivery of the present session.
    delivery: Delivery,
}

/// The relation of a message to a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CursorAdvance {
    /// The next message.
    Advanced,
    /// A message that was already delivered.
    Duplicate,
    /// A message after missing ones for which no gap was received.
    UnreportedGap {
        /// The last delivered position.
        reached: Position,
    },
}

impl SubscriptionCursor {
    pub(crate) fn new(start: StartFrom) -> SubscriptionCursor {
        let reached = match start {
            StartFrom::Position(position) => Some(position),
            StartFrom::Now | StartFrom::Last(_) | StartFrom::Start => None,
        };
        SubscriptionCursor { start, reached, delivery: Delivery::All }
    }

    /// The start for the next session.
    pub(crate) fn resume_from(&self) -> StartFrom {
        self.reached.map_or(self.start, StartFrom::Position)
    }

    /// Records that the subscription is live and the topic was at `position`. If no history was requested,
    /// everything after that position must be delivered, even before the first message arrives: otherwise
    /// the messages between a disconnect and the next session would be skipped. That applies to `now`, and
    /// to every start on a topic without messages, where all messages follow 0:0.
    pub(crate) fn on_subscribed(&mut self, position: Position, delivery: Delivery) {
        self.delivery = delivery;
        let no_history_expected =
            matches!(self.start, StartFrom::Now | StartFrom::Last(0)) || position == Position::ZERO;
        if no_history_expected && self.reached.is_none() {
            self.reached = Some(position);
        }
    }

    /// Classifies a message, and advances the cursor if it is the next.
    pub(crate) fn advance(&mut self, position: Position) -> CursorAdvance {
        match self.reached {
            Some(reached) if position <= reached => CursorAdvance::Duplicate,
            Some(reached) if self.requires_every_message() && !position.follows(reached) => {
                CursorAdvance::UnreportedGap { reached }
            }
            _ => {
                self.reached = Some(position);
                CursorAdvance::Advanced
            }
        }
    }

    /// Whether skipping a message without a gap is an error.
    fn requires_every_message(&self) -> bool {
        self.delivery == Delivery::All
    }

    /// Whether a newer message replaces an older one.
    pub(crate) fn is_newest_only(&self) -> bool {
        !self.requires_every_message()
    }

    /// Records that messages up to `gap.to` will not come. Returns whether the gap is new.
    pub(crate) fn skip_gap(&mut self, gap: &Gap) -> bool {
        let is_new = self.reached.is_none_or(|reached| reached < gap.to);
        self.reached = self.reached.max(Some(gap.to));
        is_new
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::GapReason;

    use super::*;

    fn at(offset: u64) -> Position {
        Position::new(7, offset)
    }

    #[test]
    fn cursor_resumes_after_the_last_message_seen() {
        let mut cursor = SubscriptionCursor::new(StartFrom::Last(5));
        assert_eq!(cursor.resume_from(), StartFrom::Last(5));
        assert_eq!(cursor.advance(at(3)), CursorAdvance::Advanced);
        assert_eq!(cursor.resume_from(), StartFrom::Position(at(3)));
    }

    #[test]
    fn message_at_or_before_the_cursor_is_a_duplicate() {
        let mut cursor = SubscriptionCursor::new(StartFrom::Start);
        assert_eq!(cursor.advance(at(3)), CursorAdvance::Advanced);
        assert_eq!(cursor.advance(at(3)), CursorAdvance::Duplicate);
        assert_eq!(cursor.advance(at(2)), CursorAdvance::Duplicate);
        assert_eq!(cursor.advance(at(4)), CursorAdvance::Advanced);
    }

    #[test]
    fn unreported_gap_is_detected_and_the_cursor_does_not_advance() {
        let mut cursor = SubscriptionCursor::new(StartFrom::Position(at(3)));
        assert_eq!(cursor.advance(at(5)), CursorAdvance::UnreportedGap { reached: at(3) });
        assert_eq!(
            cursor.advance(Position::new(8, 1)),
            CursorAdvance::UnreportedGap { reached: at(3) }
        );
        assert_eq!(cursor.resume_from(), StartFrom::Position(at(3)));
    }

    #[test]
    fn skipped_positions_are_no_gap_under_latest_delivery() {
        let mut cursor = SubscriptionCursor::new(StartFrom::Position(at(3)));
        cursor.on_subscribed(at(3), Delivery::Latest);
        assert_eq!(cursor.advance(at(5)), CursorAdvance::Advanced);
        assert_eq!(cursor.advance(at(5)), CursorAdvance::Duplicate);
        assert_eq!(cursor.resume_from(), StartFrom::Position(at(5)));
        cursor.on_subscribed(at(5), Delivery::All);
        assert_eq!(cursor.advance(at(7)), CursorAdvance::UnreportedGap { reached: at(5) });
    }

    #[test]
    fn start_from_now_means_the_head_at_the_first_session() {
        for position in [at(9), Position::ZERO] {
            let mut cursor = SubscriptionCursor::new(StartFrom::Now);
            cursor.on_subscribed(position, Delivery::All);
            cursor.on_subscribed(at(12), Delivery::All);
            assert_eq!(cursor.resume_from(), StartFrom::Position(position));
        }
    }

    #[test]
    fn every_start_resumes_from_zero_on_an_empty_topic() {
        for start in [StartFrom::Now, StartFrom::Last(1), StartFrom::Start] {
            let mut cursor = SubscriptionCursor::new(start);
            cursor.on_subscribed(Position::ZERO, Delivery::All);
            assert_eq!(cursor.resume_from(), StartFrom::Position(Position::ZERO), "{start:?}");
        }
        let mut past = SubscriptionCursor::new(StartFrom::Last(1));
        past.on_subscribed(at(9), Delivery::All);
        assert_eq!(
            past.resume_from(),
            StartFrom::Last(1),
            "the requested message was not received yet"
        );
    }

    #[test]
    fn gap_advances_the_cursor_and_is_new_only_once() {
        let mut cursor = SubscriptionCursor::new(StartFrom::Start);
        cursor.advance(at(1));
        let gap = Gap { from: at(2), to: at(8), reason: GapReason::Expired };
        assert!(cursor.skip_gap(&gap));
        assert!(!cursor.skip_gap(&gap));
        assert_eq!(cursor.resume_from(), StartFrom::Position(at(8)));
        assert_eq!(cursor.advance(at(9)), CursorAdvance::Advanced);
    }
}

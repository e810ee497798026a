//! Where a subscription stands, over all its sessions.

use pushonce_core::{Delivery, From, Gap, Position};

/// The progress of one topic: what was seen decides where the next session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    begin: From,
    /// The last position that was seen or told as missing.
    reached: Option<Position>,
    /// What this session gives.
    delivery: Delivery,
}

/// What a message is to a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The next one.
    New,
    /// Shown before.
    Old,
    /// Something between it and the last one is missing, and no gap was told.
    Hole {
        /// The last one.
        reached: Position,
    },
}

impl Cursor {
    pub(crate) fn new(begin: From) -> Cursor {
        let reached = match begin {
            From::Position(position) => Some(position),
            From::Now | From::Last(_) | From::Start => None,
        };
        Cursor { begin, reached, delivery: Delivery::All }
    }

    /// Where the next session is to begin.
    pub(crate) fn from(&self) -> From {
        self.reached.map_or(self.begin, From::Position)
    }

    /// The subscription is live, and the topic stood at `position`. Where nothing of the past is to
    /// come, everything from here on is owed, even when no message has come yet: else a session that
    /// broke before the first one would skip what came in between. So for whoever asked for `now`,
    /// and for everybody on a topic without any message: everything follows 0:0.
    pub(crate) fn subscribed(&mut self, position: Position, delivery: Delivery) {
        self.delivery = delivery;
        let nothing_before =
            matches!(self.begin, From::Now | From::Last(0)) || position == Position::ZERO;
        if nothing_before && self.reached.is_none() {
            self.reached = Some(position);
        }
    }

    /// What a message is, and moves on when it is the next.
    pub(crate) fn see(&mut self, position: Position) -> Seen {
        match self.reached {
            Some(reached) if position <= reached => Seen::Old,
            Some(reached) if self.owes_each() && !position.follows(reached) => {
                Seen::Hole { reached }
            }
            _ => {
                self.reached = Some(position);
                Seen::New
            }
        }
    }

    /// Whether no message may be passed over in silence.
    fn owes_each(&self) -> bool {
        self.delivery == Delivery::All
    }

    /// Whether a newer message takes the place of an older one.
    pub(crate) fn is_newest_only(&self) -> bool {
        !self.owes_each()
    }

    /// Messages up to `gap.to` will not come. Whether that is news.
    pub(crate) fn skip(&mut self, gap: &Gap) -> bool {
        let news = self.reached.is_none_or(|reached| reached < gap.to);
        self.reached = self.reached.max(Some(gap.to));
        news
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
    fn it_resumes_behind_the_last_message_seen() {
        let mut cursor = Cursor::new(From::Last(5));
        assert_eq!(cursor.from(), From::Last(5));
        assert_eq!(cursor.see(at(3)), Seen::New);
        assert_eq!(cursor.from(), From::Position(at(3)));
    }

    #[test]
    fn nothing_is_seen_twice() {
        let mut cursor = Cursor::new(From::Start);
        assert_eq!(cursor.see(at(3)), Seen::New);
        assert_eq!(cursor.see(at(3)), Seen::Old);
        assert_eq!(cursor.see(at(2)), Seen::Old);
        assert_eq!(cursor.see(at(4)), Seen::New);
    }

    #[test]
    fn a_hole_without_a_gap_is_noticed_and_not_passed() {
        let mut cursor = Cursor::new(From::Position(at(3)));
        assert_eq!(cursor.see(at(5)), Seen::Hole { reached: at(3) });
        assert_eq!(cursor.see(Position::new(8, 1)), Seen::Hole { reached: at(3) });
        assert_eq!(cursor.from(), From::Position(at(3)));
    }

    #[test]
    fn where_the_server_gives_the_newest_alone_a_hole_is_none() {
        let mut cursor = Cursor::new(From::Position(at(3)));
        cursor.subscribed(at(3), Delivery::Latest);
        assert_eq!(cursor.see(at(5)), Seen::New);
        assert_eq!(cursor.see(at(5)), Seen::Old);
        assert_eq!(cursor.from(), From::Position(at(5)));
        cursor.subscribed(at(5), Delivery::All);
        assert_eq!(cursor.see(at(7)), Seen::Hole { reached: at(5) });
    }

    #[test]
    fn now_is_the_moment_of_the_first_session_also_on_an_empty_topic() {
        for position in [at(9), Position::ZERO] {
            let mut cursor = Cursor::new(From::Now);
            cursor.subscribed(position, Delivery::All);
            cursor.subscribed(at(12), Delivery::All);
            assert_eq!(cursor.from(), From::Position(position));
        }
    }

    #[test]
    fn on_a_topic_without_any_message_everybody_resumes_from_nothing() {
        for begin in [From::Now, From::Last(1), From::Start] {
            let mut cursor = Cursor::new(begin);
            cursor.subscribed(Position::ZERO, Delivery::All);
            assert_eq!(cursor.from(), From::Position(Position::ZERO), "{begin:?}");
        }
        let mut past = Cursor::new(From::Last(1));
        past.subscribed(at(9), Delivery::All);
        assert_eq!(past.from(), From::Last(1), "the last message is still to come");
    }

    #[test]
    fn a_gap_moves_it_on_and_is_told_once() {
        let mut cursor = Cursor::new(From::Start);
        cursor.see(at(1));
        let gap = Gap { from: at(2), to: at(8), reason: GapReason::Expired };
        assert!(cursor.skip(&gap));
        assert!(!cursor.skip(&gap));
        assert_eq!(cursor.from(), From::Position(at(8)));
        assert_eq!(cursor.see(at(9)), Seen::New);
    }
}

//! Where a subscription stands, over all its sessions.

use pushonce_core::{From, Gap, Position};

/// The progress of one topic: what was seen decides where the next session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    begin: From,
    /// The last position that was seen or told as missing.
    reached: Option<Position>,
}

impl Cursor {
    pub(crate) fn new(begin: From) -> Cursor {
        Cursor { begin, reached: None }
    }

    /// Where the next session is to begin.
    pub(crate) fn from(&self) -> From {
        self.reached.map_or(self.begin, From::Position)
    }

    /// The subscription is live, and the topic stood at `position`. Whoever asked for `now` resumes
    /// from here even when no message has come: else a session that broke before the first one
    /// would skip what came in between.
    pub(crate) fn subscribed(&mut self, position: Position) {
        if self.begin == From::Now && self.reached.is_none() && position != Position::ZERO {
            self.reached = Some(position);
        }
    }

    /// Whether a message is new here. What was seen before a reconnect is not shown again.
    pub(crate) fn see(&mut self, position: Position) -> bool {
        if self.reached.is_some_and(|reached| position <= reached) {
            return false;
        }
        self.reached = Some(position);
        true
    }

    /// Messages up to `gap.to` will not come.
    pub(crate) fn skip(&mut self, gap: &Gap) {
        self.reached = self.reached.max(Some(gap.to));
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
        assert!(cursor.see(at(3)));
        assert_eq!(cursor.from(), From::Position(at(3)));
    }

    #[test]
    fn nothing_is_seen_twice() {
        let mut cursor = Cursor::new(From::Start);
        assert!(cursor.see(at(3)));
        assert!(!cursor.see(at(3)));
        assert!(!cursor.see(at(2)));
        assert!(cursor.see(at(4)));
    }

    #[test]
    fn now_is_the_moment_of_the_first_session() {
        let mut cursor = Cursor::new(From::Now);
        cursor.subscribed(at(9));
        assert_eq!(cursor.from(), From::Position(at(9)));
        let mut empty = Cursor::new(From::Now);
        empty.subscribed(Position::ZERO);
        assert_eq!(empty.from(), From::Now);
    }

    #[test]
    fn a_gap_moves_it_on() {
        let mut cursor = Cursor::new(From::Now);
        cursor.see(at(1));
        cursor.skip(&Gap { from: at(2), to: at(8), reason: GapReason::Expired });
        assert_eq!(cursor.from(), From::Position(at(8)));
    }
}

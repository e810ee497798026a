//! The continuity rule: no reader receives a position twice, or one that does not follow, unless it was
//! notified of a gap.

use std::sync::Arc;

use pushonce_core::{Gap, GapReason, HistoryPage, Message, Offset, Position};

/// The part of a batch that may be delivered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AcceptedBatch {
    /// Consecutive messages.
    pub(crate) messages: Vec<Arc<Message>>,
    /// The next message of the batch does not follow; it and those after it are rejected.
    pub(crate) has_hole: bool,
}

/// The part of `messages` that may be delivered to a reader at `reached`. Advances `reached`.
pub(crate) fn accept(reached: &mut Position, messages: Vec<Arc<Message>>) -> AcceptedBatch {
    let mut accepted = AcceptedBatch { messages, has_hole: false };
    let has_hole = &mut accepted.has_hole;
    accepted.messages.retain(|message| {
        let next = !*has_hole && message.position.follows(*reached);
        if next {
            *reached = message.position;
        } else {
            *has_hole |= message.position > *reached;
        }
        next
    });
    accepted
}

/// A page of history in the form of a stream: a gap first, then the messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageReplay {
    /// The range that is missing between the requested position and the first message.
    pub(crate) gap: Option<Gap>,
    /// The messages after the gap.
    pub(crate) messages: Vec<Arc<Message>>,
    /// The last position that the page covers.
    pub(crate) end: Position,
}

impl PageReplay {
    /// Converts a page that was requested after `after`. A hole that the page does not name becomes a gap
    /// here: the readers of history ensure continuity, not its storage.
    pub(crate) fn from_page(after: Position, page: HistoryPage) -> PageReplay {
        let first = page.messages.first().map(|message| message.position);
        let resumes = first.map_or(page.head, previous);
        // The first message follows `ZERO` unless the page reports an earlier epoch.
        let follows = page.gap.is_none() && resumes.next().follows(after);
        let is_contiguous = resumes <= after || follows;
        let gap = (!is_contiguous).then(|| Gap {
            from: page.gap.map_or(after.next(), |gap| gap.from),
            to: resumes,
            reason: page.gap.map_or(gap_reason(after, resumes), |gap| gap.reason),
        });
        let last = page.messages.last().map(|message| message.position);
        let end = last.unwrap_or(resumes).max(after);
        PageReplay { gap, messages: page.messages, end }
    }
}

/// The reason of a gap from `from` to `to` that no node explained.
pub(crate) fn gap_reason(from: Position, to: Position) -> GapReason {
    if from.epoch == to.epoch { GapReason::Expired } else { GapReason::Epoch }
}

/// Whether a reader at `reached` may accept `gap` unchanged: it begins at the reader's position, or in
/// another epoch, where positions cannot be compared. A gap that begins later hides a hole in front of it.
pub(crate) fn adjoins(gap: &Gap, reached: Position) -> bool {
    gap.from.epoch != reached.epoch || gap.from.offset <= reached.offset.next()
}

/// The same gap as seen by a reader at `reached`, which may be within it.
pub(crate) fn clip_gap(gap: &Gap, reached: Position) -> Gap {
    let within = gap.from.epoch == reached.epoch || gap.from <= reached;
    Gap { from: if within { reached.next() } else { gap.from }, ..*gap }
}

fn previous(position: Position) -> Position {
    Position { offset: Offset(position.offset.0.saturating_sub(1)), ..position }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::message;

    fn page(offsets: &[(u64, u64)], head: (u64, u64), gap: Option<Gap>) -> HistoryPage {
        let messages = offsets.iter().map(|&(epoch, offset)| message(epoch, offset)).collect();
        HistoryPage { messages, head: Position::new(head.0, head.1), gap }
    }

    #[test]
    fn duplicates_are_dropped_and_messages_after_a_hole_are_rejected() {
        let mut reached = Position::new(1, 4);
        let batch = [(1, 3), (1, 4), (1, 5), (1, 7), (1, 8)];
        let batch = batch.iter().map(|&(e, o)| message(e, o)).collect();
        let accepted = accept(&mut reached, batch);
        assert_eq!(accepted, AcceptedBatch { messages: vec![message(1, 5)], has_hole: true });
        assert_eq!(reached, Position::new(1, 5));
    }

    #[test]
    fn new_epoch_without_a_gap_is_a_hole() {
        let mut reached = Position::new(1, 4);
        let accepted = accept(&mut reached, vec![message(2, 1)]);
        assert_eq!(accepted, AcceptedBatch { messages: vec![], has_hole: true });
    }

    #[test]
    fn contiguous_page_has_no_gap() {
        let replay = PageReplay::from_page(Position::new(1, 4), page(&[(1, 5)], (1, 5), None));
        assert_eq!((replay.gap, replay.end), (None, Position::new(1, 5)));
        let replay = PageReplay::from_page(Position::ZERO, page(&[(7, 1)], (7, 1), None));
        assert_eq!(replay.gap, None);
        let replay = PageReplay::from_page(Position::new(1, 4), page(&[], (1, 4), None));
        assert_eq!((replay.gap, replay.end), (None, Position::new(1, 4)));
    }

    #[test]
    fn hole_in_a_page_becomes_a_gap() {
        let replay = PageReplay::from_page(Position::new(1, 4), page(&[(3, 1)], (3, 1), None));
        let to = Position::new(3, 0);
        let gap = Gap { from: Position::new(1, 5), to, reason: GapReason::Epoch };
        assert_eq!(replay.gap, Some(gap));

        let replay = PageReplay::from_page(Position::new(1, 4), page(&[(1, 9)], (1, 9), None));
        let to = Position::new(1, 8);
        let gap = Gap { from: Position::new(1, 5), to, reason: GapReason::Expired };
        assert_eq!(replay.gap, Some(gap));
    }

    #[test]
    fn gap_of_an_earlier_epoch_is_replayed_to_a_reader_at_zero() {
        let gap =
            Gap { from: Position::new(0, 1), to: Position::new(7, 0), reason: GapReason::Epoch };
        let replay = PageReplay::from_page(Position::ZERO, page(&[(7, 1)], (7, 1), Some(gap)));
        assert_eq!(replay.gap, Some(gap));
    }

    #[test]
    fn empty_page_of_a_new_epoch_is_a_gap_up_to_its_start() {
        let replay = PageReplay::from_page(Position::new(1, 4), page(&[], (3, 0), None));
        assert_eq!(replay.gap.map(|gap| gap.to), Some(Position::new(3, 0)));
        assert_eq!(replay.end, Position::new(3, 0));
    }

    #[test]
    fn gap_that_begins_after_the_next_position_does_not_adjoin() {
        let gap =
            Gap { from: Position::new(1, 7), to: Position::new(1, 9), reason: GapReason::Expired };
        assert!(adjoins(&gap, Position::new(1, 6)));
        assert!(!adjoins(&gap, Position::new(1, 4)));
        assert_eq!(clip_gap(&gap, Position::new(1, 7)).from, Position::new(1, 8));
    }
}

//! The positions of a stream of several topics, in the order of its topics: the id of its events.

use std::fmt;

use pushonce_core::{Position, StartFrom};
use pushonce_fanout::FrameRun;

/// The word for a topic of which nothing was sent yet.
const UNKNOWN: &str = "-";

/// The position that each topic has reached; `None` where nothing was sent and the start is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamPositions(Vec<Option<Position>>);

impl StreamPositions {
    /// The positions of topics that begin here, as far as they are known before the subscriptions have begun.
    pub(super) fn of_starts<'a>(starts: impl Iterator<Item = &'a StartFrom>) -> StreamPositions {
        let position = |start: &StartFrom| match start {
            StartFrom::Position(position) => Some(*position),
            StartFrom::Now | StartFrom::Last(_) | StartFrom::Start => None,
        };
        StreamPositions(starts.map(position).collect())
    }

    /// Parses an id, which must have one position for each topic.
    pub(super) fn parse(text: &str, topics: usize) -> Option<StreamPositions> {
        let positions = text.split(',').map(|text| match text.trim() {
            UNKNOWN => Some(None),
            text => text.parse().ok().map(Some),
        });
        let positions: Option<Vec<_>> = positions.collect();
        positions.filter(|positions| positions.len() == topics).map(StreamPositions)
    }

    pub(super) fn get(&self, topic: usize) -> Option<Position> {
        self.0.get(topic).copied().flatten()
    }

    pub(super) fn set(&mut self, topic: usize, position: Option<Position>) {
        if let Some(slot) = self.0.get_mut(topic) {
            *slot = position;
        }
    }

    /// Moves the positions behind the first `accepted` frames. The tokens of the subscriptions are the indexes of
    /// their topics.
    pub(super) fn advance(&mut self, runs: &[FrameRun<'_>], accepted: usize) {
        let mut remaining = accepted;
        for run in runs {
            let count = run.frames.len().min(remaining);
            remaining -= count;
            if let Some(position) = count.checked_sub(1).and_then(|last| run.cursors.get(last)) {
                self.set(run.token as usize, Some(*position));
            }
        }
    }
}

impl fmt::Display for StreamPositions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, position) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match position {
                Some(position) => position.fmt(f)?,
                None => f.write_str(UNKNOWN)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn id_has_one_position_for_each_topic_and_is_read_as_written() {
        for text in ["12:4051,3:17,-", "-,-,-", "1:2,1:3,1:4"] {
            assert_eq!(
                StreamPositions::parse(text, 3).map(|ids| ids.to_string()),
                Some(text.into())
            );
        }
        for text in ["12:4051,3:17", "12:4051,3:17,-,-", "12:4051,x,-", ""] {
            assert_eq!(StreamPositions::parse(text, 3), None, "{text:?}");
        }
    }

    #[test]
    fn positions_advance_behind_accepted_frames_only() {
        let frame = Bytes::from_static(b"x");
        let frames = [frame.clone(), frame.clone(), frame];
        let cursors = [1, 2, 3].map(|offset| Position::new(7, offset));
        let run = |token, frames, cursors| FrameRun { token, frames, concatenated: None, cursors };
        // The second run has a notice, which moves no cursor.
        let runs = [
            run(0, &frames[..], &cursors[..]),
            run(0, &frames[..1], &[]),
            run(1, &frames, &cursors),
        ];
        for (accepted, expected) in
            [(0, "-,-"), (2, "7:2,-"), (3, "7:3,-"), (4, "7:3,-"), (5, "7:3,7:1"), (9, "7:3,7:3")]
        {
            let mut positions = StreamPositions::of_starts([StartFrom::Now; 2].iter());
            positions.advance(&runs, accepted);
            assert_eq!(positions.to_string(), expected, "{accepted}");
        }
    }
}

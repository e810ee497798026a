//! Checks the numbers in the frames of peers. Claims have checks of their own.

use pushonce_core::{FailPoint, Position};
use pushonce_proto::peer::{FetchedPart, PeerFrame};

/// Maximum epoch and offset. A topic with a billion messages a second needs 146 years to reach it. A reader that
/// has reached a position never goes back, so a higher one would end the topic there for good.
const POSITION_MAX: u64 = 1 << 62;

/// Maximum sessions on one topic in one frame. Sums of the counts of all peers never overflow.
const SESSIONS_MAX: u64 = 1 << 40;

/// Whether a correct peer can have sent the frame.
pub(crate) fn is_plausible(frame: &PeerFrame) -> bool {
    if FailPoint::FrameUnchecked.is_active() {
        return true;
    }
    // A gap begins where the reader asked, which may be anything. Only its end moves the reader.
    let is_position = |position: Position| position.epoch.0.max(position.offset.0) <= POSITION_MAX;
    let mut positions: Box<dyn Iterator<Item = Position> + '_> = match frame {
        PeerFrame::Interested { head, .. } => Box::new(head.iter().copied()),
        PeerFrame::Deliver { messages, .. } => Box::new(messages.iter().map(|m| m.position)),
        PeerFrame::Lost { gap, .. } => Box::new([gap.to].into_iter()),
        PeerFrame::Heartbeat { heads, .. } => Box::new(heads.iter().map(|&(_, head)| head)),
        PeerFrame::Fetched { part, .. } => match part {
            FetchedPart::More(messages) => Box::new(messages.iter().map(|m| m.position)),
            FetchedPart::Done { messages, head, gap } => {
                let gap = gap.iter().map(|gap| gap.to);
                Box::new(messages.iter().map(|m| m.position).chain([*head]).chain(gap))
            }
            FetchedPart::Failed(_) => return true,
        },
        PeerFrame::SubscriberCounts { counts } => {
            return counts.iter().all(|(_, count)| count.sessions <= SESSIONS_MAX);
        }
        PeerFrame::Audience { counts } => {
            return counts.iter().all(|&(_, sessions)| sessions <= SESSIONS_MAX);
        }
        _ => return true,
    };
    positions.all(is_position)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pushonce_core::{Gap, GapReason, SubscriberCount, Timestamp, test_util};
    use pushonce_proto::peer::HeartbeatTiming;

    use super::*;

    /// Every kind of frame that carries positions, each at `position`.
    fn frames_at(position: Position) -> Vec<PeerFrame> {
        let (epoch, offset) = (position.epoch.0, position.offset.0);
        let messages = vec![Arc::new(test_util::message(epoch, offset))];
        let gap = Gap { from: Position::ZERO, to: position, reason: GapReason::Expired };
        let part = |part| PeerFrame::Fetched { id: 1, part };
        let head = Position::ZERO;
        vec![
            PeerFrame::Interested { number: 1, head: Some(position) },
            PeerFrame::Deliver { number: 1, messages: messages.clone(), age: None },
            PeerFrame::Lost { number: 1, gap },
            PeerFrame::Heartbeat {
                heads: vec![(1, position)],
                stale_shards: vec![],
                clock: Timestamp(1),
                log_times: vec![],
                timing: HeartbeatTiming::default(),
            },
            part(FetchedPart::More(messages.clone())),
            part(FetchedPart::Done { messages, head, gap: None }),
            part(FetchedPart::Done { messages: vec![], head: position, gap: None }),
            part(FetchedPart::Done { messages: vec![], head, gap: Some(gap) }),
        ]
    }

    #[test]
    fn frame_with_an_absurd_position_is_implausible() {
        for frame in frames_at(Position::new(POSITION_MAX, POSITION_MAX)) {
            assert!(is_plausible(&frame), "{frame:?}");
        }
        for position in [Position::new(u64::MAX, 1), Position::new(1, POSITION_MAX + 1)] {
            for frame in frames_at(position) {
                assert!(!is_plausible(&frame), "{frame:?}");
            }
        }
    }

    #[test]
    fn gap_may_begin_at_any_position_that_a_client_asked_for() {
        let from = Position::new(8, u64::MAX);
        let gap = Gap { from, to: Position::new(9, 1), reason: GapReason::Epoch };
        let (messages, head) = (vec![], Position::new(9, 1));
        let part = FetchedPart::Done { messages, head, gap: Some(gap) };
        assert!(is_plausible(&PeerFrame::Fetched { id: 1, part }));
        assert!(is_plausible(&PeerFrame::Lost { number: 1, gap }));
    }

    #[test]
    fn frame_with_an_absurd_count_is_implausible() {
        let count = |sessions| {
            let counts = vec![(1, SubscriberCount { sessions, wants_audience: false })];
            PeerFrame::SubscriberCounts { counts }
        };
        assert!(is_plausible(&count(SESSIONS_MAX)) && !is_plausible(&count(SESSIONS_MAX + 1)));
        let audience = |sessions| PeerFrame::Audience { counts: vec![(1, sessions)] };
        assert!(is_plausible(&audience(SESSIONS_MAX)) && !is_plausible(&audience(u64::MAX)));
    }
}

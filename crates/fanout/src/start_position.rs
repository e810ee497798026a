//! Resolution of a subscription's start to a cursor in the ring, if necessary after a page from upstream
//! was prepended.

use std::sync::Arc;

use pushonce_core::{
    CoverageMark, FailPoint, FetchError, Gap, GapReason, HistoryPage, HistoryRange, Position,
    StartFrom, SubscribeAck, Topic, UnavailableReason,
};

use crate::Retention;
use crate::registry::{TopicInterest, TopicRegistry};
use crate::ring::{Ring, RingBounds, RingPlace, position_before};
use crate::topic_buffer::{RetentionGuard, TopicBufferState};

/// Maximum number of fetches before the subscriber is rejected. A second one is needed when messages were
/// lost while the first reply was in flight; a third if that happens twice.
const FETCH_ATTEMPTS_MAX: usize = 3;

/// A subscription with a resolved start and nothing delivered yet.
pub(crate) struct PreparedSubscription {
    pub(crate) interest: TopicInterest,
    pub(crate) retention_guard: RetentionGuard,
    pub(crate) start: ResolvedStart,
}

/// The resolved start of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedStart {
    pub(crate) cursor: Position,
    /// Delivered first.
    pub(crate) gap: Option<Gap>,
    /// The newest position at the start.
    head: Position,
}

impl ResolvedStart {
    pub(crate) fn to_ack(self) -> SubscribeAck {
        SubscribeAck { position: self.head, recovered: self.gap.is_none() }
    }
}

/// Acquires interest in `topic`, waits until upstream reports its head, and resolves `from`. Cancel safe:
/// dropping the future releases the interest.
pub(crate) async fn prepare(
    registry: &Arc<TopicRegistry>,
    topic: &Topic,
    from: StartFrom,
) -> Result<PreparedSubscription, FetchError> {
    let interest = registry.acquire_interest(topic);
    let buffer = Arc::clone(interest.buffer());
    buffer.wait_until_open().await;
    // From here on the ring keeps its messages while a page is in flight.
    let retention_guard = buffer.guard_retention();
    let retention = registry.retention(topic);
    let mut resolved = resolve_in_ring(&buffer.state(), from, &retention);
    for _ in 0..FETCH_ATTEMPTS_MAX {
        let Err(range) = resolved else { break };
        let page = registry.fetch(topic, range).await?;
        let mut state = buffer.state();
        resolved = match resolve_after_fetch(&mut state, range, &page, registry.bounds()) {
            Some(start) => Ok(start),
            None => resolve_in_ring(&state, from, &retention),
        };
    }
    match resolved {
        Ok(start) => Ok(PreparedSubscription { interest, retention_guard, start }),
        Err(_) => Err(UnavailableReason::HistoryChanged(topic.clone()).into()),
    }
}

/// The start, if the ring has everything that was requested and is visible; else the range to fetch from
/// upstream.
fn resolve_in_ring(
    state: &TopicBufferState,
    from: StartFrom,
    retention: &Retention,
) -> Result<ResolvedStart, HistoryRange> {
    let ring = &state.ring;
    let from = match from {
        StartFrom::Position(position) if FailPoint::EpochUnchecked.is_active() => {
            StartFrom::Position(Position { epoch: ring.head().epoch, ..position })
        }
        from => from,
    };
    let cursor = match from {
        StartFrom::Now => ring.head(),
        StartFrom::Last(n) => {
            ring.cursor_before_last(n as usize, retention).ok_or(HistoryRange::Last(n))?
        }
        StartFrom::Start => match ring.first_visible_index(0, retention) {
            0 if !ring.is_complete() => return Err(HistoryRange::All),
            0 => ring.floor(),
            oldest => ring.cursor_at(oldest),
        },
        // Only upstream knows whether a position ahead of the head was ever assigned, and whether there was
        // an earlier epoch for a reader at zero.
        StartFrom::Position(p) if p > ring.head() || p == Position::ZERO => {
            return Err(HistoryRange::After(p));
        }
        StartFrom::Position(p) => match ring.locate(p) {
            RingPlace::Missing => return Err(HistoryRange::After(p)),
            RingPlace::At(next) => match ring.first_visible_index(next, retention) {
                oldest if oldest > next => return Ok(start_after_expired(ring, p, oldest)),
                _ if FailPoint::ResumeSkipsMessage.is_active() => p.next(),
                _ => p,
            },
        },
    };
    Ok(ResolvedStart { cursor, gap: None, head: ring.head() })
}

/// The start of a reader that resumes at `position` where the messages before the entry `oldest` are no
/// longer visible.
fn start_after_expired(ring: &Ring, position: Position, oldest: usize) -> ResolvedStart {
    let cursor = ring.cursor_at(oldest);
    let gap = Gap { from: position.next(), to: cursor, reason: GapReason::Expired };
    ResolvedStart { cursor, gap: Some(gap), head: ring.head() }
}

/// The start after a page was prepended to the ring. `None` when the page is not contiguous with the ring,
/// because messages were lost or a new epoch began while the page was in flight.
fn resolve_after_fetch(
    state: &mut TopicBufferState,
    range: HistoryRange,
    page: &HistoryPage,
    bounds: RingBounds,
) -> Option<ResolvedStart> {
    CoverageMark::HistoryFetched.reach();
    state.prepend_page(&page.messages, bounds);
    let oldest = page.messages.first().map_or(page.head, |first| position_before(first.position));
    let is_complete = match range {
        HistoryRange::All => true,
        HistoryRange::Last(n) => page.messages.len() < n as usize,
        HistoryRange::After(_) => false,
    };
    if is_complete && state.ring.floor() == oldest {
        state.ring.mark_complete();
    }
    // The cursor never moves back behind the position that the subscriber has, whatever the reply.
    let cursor = match range {
        HistoryRange::After(position) => oldest.max(position),
        HistoryRange::Last(_) | HistoryRange::All => oldest,
    };
    let gap = page.gap.filter(|_| !FailPoint::StartGapHidden.is_active());
    let start = ResolvedStart { cursor, gap, head: state.ring.head().max(page.head) };
    (state.ring.locate(oldest) != RingPlace::Missing).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_buffer::TopicBuffer;
    use pushonce_core::{History, Timestamp, test_util};

    const BOUNDS: RingBounds = RingBounds { messages: 10, bytes: 1_000 };

    const UNLIMITED: Retention = retention_of(100);

    const fn retention_of(count_max: u32) -> Retention {
        let history =
            History { count_max, bytes_max: 1_000, age_max_ms: 1_000, expire_after_ms: 1_000 };
        Retention { history, log_time: Timestamp(0) }
    }

    fn page(epoch: u64, offsets: std::ops::RangeInclusive<u64>) -> HistoryPage {
        let head = Position::new(epoch, *offsets.end());
        let message = |offset| Arc::new(test_util::message(epoch, offset));
        HistoryPage { messages: offsets.map(message).collect(), head, gap: None }
    }

    /// A buffer that went live at `floor` and then received messages up to `head`.
    fn buffer(epoch: u64, floor: u64, head: u64) -> TopicBuffer {
        let buffer = TopicBuffer::new(Topic::new("a").expect("valid"), BOUNDS);
        buffer.mark_live_at(Position::new(epoch, floor));
        buffer.deliver(&page(epoch, floor + 1..=head).messages, None);
        buffer
    }

    #[test]
    fn start_within_the_ring_is_resolved_without_a_fetch() {
        let buffer = buffer(2, 5, 9);
        let resolve =
            |from| resolve_in_ring(&buffer.state(), from, &UNLIMITED).map(|start| start.cursor);
        assert_eq!(resolve(StartFrom::Now), Ok(Position::new(2, 9)));
        assert_eq!(resolve(StartFrom::Last(2)), Ok(Position::new(2, 7)));
        assert_eq!(resolve(StartFrom::Position(Position::new(2, 5))), Ok(Position::new(2, 5)));
    }

    #[test]
    fn start_outside_the_ring_requires_a_fetch() {
        let buffer = buffer(2, 5, 9);
        let resolve =
            |from| resolve_in_ring(&buffer.state(), from, &UNLIMITED).map(|start| start.cursor);
        assert_eq!(resolve(StartFrom::Last(5)), Err(HistoryRange::Last(5)));
        assert_eq!(resolve(StartFrom::Start), Err(HistoryRange::All));
        for (epoch, offset) in [(2, 4), (1, 7), (2, 10), (3, 1), (0, 0)] {
            let position = Position::new(epoch, offset);
            assert_eq!(resolve(StartFrom::Position(position)), Err(HistoryRange::After(position)));
        }
    }

    #[test]
    fn full_history_is_fetched_only_once() {
        let buffer = buffer(2, 5, 9);
        let mut state = buffer.state();
        let start = resolve_after_fetch(&mut state, HistoryRange::All, &page(2, 3..=9), BOUNDS);
        let expected =
            ResolvedStart { cursor: Position::new(2, 2), gap: None, head: Position::new(2, 9) };
        assert_eq!(start, Some(expected));
        assert_eq!(resolve_in_ring(&state, StartFrom::Start, &UNLIMITED), Ok(expected));
        assert_eq!(resolve_in_ring(&state, StartFrom::Last(50), &UNLIMITED), Ok(expected));
    }

    #[test]
    fn start_is_limited_by_namespace_retention_if_the_ring_holds_more() {
        let buffer = buffer(2, 5, 9);
        let head = Position::new(2, 9);
        let resolve =
            |from, count_max| resolve_in_ring(&buffer.state(), from, &retention_of(count_max));
        let start = |offset, gap| Ok(ResolvedStart { cursor: Position::new(2, offset), gap, head });
        for from in [StartFrom::Last(3), StartFrom::Last(50), StartFrom::Start] {
            assert_eq!(resolve(from, 2), start(7, None), "{from:?}");
            assert_eq!(resolve(from, 0), start(9, None), "{from:?}");
        }
        assert_eq!(resolve(StartFrom::Last(2), 2), start(7, None));
        let resume = |offset| StartFrom::Position(Position::new(2, offset));
        let gap = |from, to| {
            let (from, to) = (Position::new(2, from), Position::new(2, to));
            Some(Gap { from, to, reason: GapReason::Expired })
        };
        assert_eq!(resolve(resume(7), 2), start(7, None));
        assert_eq!(resolve(resume(5), 2), start(7, gap(6, 7)));
        assert_eq!(resolve(resume(8), 0), start(9, gap(9, 9)));
        assert_eq!(resolve(resume(9), 0), start(9, None), "no message follows the position");
    }

    #[test]
    fn page_not_adjacent_to_the_ring_yields_no_start() {
        let buffer = buffer(2, 5, 9);
        let after = Position::new(2, 1);
        assert_eq!(
            resolve_after_fetch(
                &mut buffer.state(),
                HistoryRange::After(after),
                &page(2, 2..=4),
                BOUNDS
            ),
            None
        );
        assert_eq!(
            resolve_after_fetch(&mut buffer.state(), HistoryRange::All, &page(1, 2..=40), BOUNDS),
            None
        );
    }

    #[test]
    fn start_after_a_page_with_a_gap_reports_it_and_sets_the_cursor_behind_it() {
        let buffer = buffer(2, 5, 9);
        let (from, to) = (Position::new(2, 2), Position::new(2, 3));
        let gap = Gap { from, to, reason: GapReason::Expired };
        let page = HistoryPage { gap: Some(gap), ..page(2, 4..=9) };
        let start = resolve_after_fetch(
            &mut buffer.state(),
            HistoryRange::After(Position::new(2, 1)),
            &page,
            BOUNDS,
        );
        assert_eq!(
            start,
            Some(ResolvedStart { cursor: to, gap: Some(gap), head: Position::new(2, 9) })
        );
    }

    #[test]
    fn reader_ahead_of_the_ring_skips_messages_it_already_has() {
        let buffer = buffer(2, 5, 9);
        let ahead = Position::new(2, 11);
        let start = resolve_after_fetch(
            &mut buffer.state(),
            HistoryRange::After(ahead),
            &page(2, 12..=13),
            BOUNDS,
        );
        assert_eq!(
            start,
            Some(ResolvedStart { cursor: ahead, gap: None, head: Position::new(2, 13) })
        );
        buffer.deliver(&page(2, 10..=11).messages, None);
        assert!(
            buffer.state().pending_after(ahead, 10).is_none(),
            "the reader already has these messages"
        );
        buffer.deliver(&page(2, 12..=12).messages, None);
        assert_eq!(buffer.state().pending_after(ahead, 10).map(|due| due.entries.len()), Some(1));
    }
}

//! Where a subscription begins: at a cursor in the ring, if need be after a page from upstream has
//! joined it.

use std::sync::Arc;

use pushonce_core::{FetchError, From, Gap, GapReason, Page, Position, Topic, Want};

use crate::feed::{Hold, State};
use crate::ring::{Bounds, Place, Ring, before};
use crate::table::{Interest, Table};
use crate::{Retention, Subscribed};

/// How often the past is asked for before the subscriber is sent away. A second time is needed when
/// messages were lost while the first answer was on its way; a third if that happens again at once.
const TRIES: usize = 3;

/// A subscription that has its place and has been shown nothing yet.
pub(crate) struct Begun {
    pub(crate) interest: Interest,
    pub(crate) hold: Hold,
    pub(crate) start: Start,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) cursor: Position,
    /// To be shown first.
    pub(crate) gap: Option<Gap>,
    /// The newest position when it began.
    head: Position,
}

impl Start {
    pub(crate) fn answer(&self) -> Subscribed {
        Subscribed { position: self.head, recovered: self.gap.is_none() }
    }
}

/// Takes an interest in `topic`, waits until upstream says where it stands, and finds where `from`
/// is. May be dropped while it waits; then the interest goes with it.
pub(crate) async fn begin(
    table: &Arc<Table>,
    topic: &Topic,
    from: From,
) -> Result<Begun, FetchError> {
    let interest = table.join(topic);
    let feed = Arc::clone(interest.feed());
    feed.opened().await;
    // From here on: the ring keeps what it has while a page is on its way.
    let hold = feed.hold();
    let retention = table.retention(topic);
    let mut start = here(&feed.state(), from, &retention);
    for _ in 0..TRIES {
        let Err(want) = start else { break };
        let page = table.fetch(topic, want).await?;
        let mut state = feed.state();
        start = match joined(&mut state, want, &page, table.bounds()) {
            Some(start) => Ok(start),
            None => here(&state, from, &retention),
        };
    }
    match start {
        Ok(start) => Ok(Begun { interest, hold, start }),
        Err(_) => Err(FetchError::Unavailable("its past does not hold still".to_owned())),
    }
}

/// The start, if the ring has all that was asked for and may be shown; else what to ask upstream for.
fn here(state: &State, from: From, retention: &Retention) -> Result<Start, Want> {
    let ring = &state.ring;
    #[cfg(feature = "planted-bugs")]
    let from = crate::planted::of_this_life(from, ring.head());
    let cursor = match from {
        From::Now => ring.head(),
        From::Last(n) => ring.last(n as usize, retention).ok_or(Want::Last(n))?,
        From::Start => match ring.visible_from(0, retention) {
            0 if !ring.is_whole() => return Err(Want::All),
            0 => ring.floor(),
            oldest => ring.cursor_at(oldest),
        },
        // Ahead of the head: only upstream knows whether that was ever given out; and only upstream knows
        // whether there was an earlier life, for one that has seen nothing.
        From::Position(p) if p > ring.head() || p == Position::ZERO => return Err(Want::After(p)),
        From::Position(p) => match ring.place(p) {
            Place::Passed => return Err(Want::After(p)),
            Place::At(next) => match ring.visible_from(next, retention) {
                oldest if oldest > next => return Ok(expired(ring, p, oldest)),
                _ => p,
            },
        },
    };
    #[cfg(feature = "planted-bugs")]
    let cursor = crate::planted::resumed(from, cursor);
    Ok(Start { cursor, gap: None, head: ring.head() })
}

/// The start of a reader that resumes at `reached`, though what follows is older than may be shown, up to
/// the entry of index `oldest`.
fn expired(ring: &Ring, reached: Position, oldest: usize) -> Start {
    let cursor = ring.cursor_at(oldest);
    let gap = Gap { from: reached.next(), to: cursor, reason: GapReason::Expired };
    Start { cursor, gap: Some(gap), head: ring.head() }
}

/// The start after a page has joined the ring. None when it does not touch the ring, because the
/// topic was lost or began anew while the page was on its way.
fn joined(state: &mut State, want: Want, page: &Page, bounds: Bounds) -> Option<Start> {
    state.join(&page.messages, bounds);
    let oldest = page.messages.first().map_or(page.head, |first| before(first.position));
    let everything = match want {
        Want::All => true,
        Want::Last(n) => page.messages.len() < n as usize,
        Want::After(_) => false,
    };
    if everything && state.ring.floor() == oldest {
        state.ring.set_whole();
    }
    // Never back behind what the subscriber has, whoever answered.
    let cursor = match want {
        Want::After(position) => oldest.max(position),
        Want::Last(_) | Want::All => oldest,
    };
    let start = Start { cursor, gap: page.gap, head: state.ring.head().max(page.head) };
    #[cfg(feature = "planted-bugs")]
    let start = crate::planted::silent(start);
    (state.ring.place(oldest) != Place::Passed).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Feed;
    use pushonce_core::{ContentType, History, Message, Timestamp};

    const BOUNDS: Bounds = Bounds { messages: 10, bytes: 1_000 };

    const ALL: Retention = bounded(100);

    const fn bounded(count_max: u32) -> Retention {
        let history =
            History { count_max, bytes_max: 1_000, age_max_ms: 1_000, expire_after_ms: 1_000 };
        Retention { history, log_time: Timestamp(0) }
    }

    fn page(epoch: u64, offsets: std::ops::RangeInclusive<u64>) -> Page {
        let head = Position::new(epoch, *offsets.end());
        let message = |offset| {
            Arc::new(Message {
                position: Position::new(epoch, offset),
                time: Timestamp(0),
                content_type: ContentType::Binary,
                key: None,
                payload: "x".into(),
            })
        };
        Page { messages: offsets.map(message).collect(), head, gap: None }
    }

    /// A feed that went live at `floor` and then got messages up to `head`.
    fn feed(epoch: u64, floor: u64, head: u64) -> Feed {
        let feed = Feed::new(Topic::new("a").expect("valid"), BOUNDS);
        feed.live(Position::new(epoch, floor));
        feed.deliver(&page(epoch, floor + 1..=head).messages);
        feed
    }

    #[test]
    fn what_the_ring_has_is_not_asked_for() {
        let feed = feed(2, 5, 9);
        let here = |from| here(&feed.state(), from, &ALL).map(|start| start.cursor);
        assert_eq!(here(From::Now), Ok(Position::new(2, 9)));
        assert_eq!(here(From::Last(2)), Ok(Position::new(2, 7)));
        assert_eq!(here(From::Position(Position::new(2, 5))), Ok(Position::new(2, 5)));
    }

    #[test]
    fn what_the_ring_has_not_is_asked_for_upstream() {
        let feed = feed(2, 5, 9);
        let here = |from| here(&feed.state(), from, &ALL).map(|start| start.cursor);
        assert_eq!(here(From::Last(5)), Err(Want::Last(5)));
        assert_eq!(here(From::Start), Err(Want::All));
        for (epoch, offset) in [(2, 4), (1, 7), (2, 10), (3, 1), (0, 0)] {
            let position = Position::new(epoch, offset);
            assert_eq!(here(From::Position(position)), Err(Want::After(position)));
        }
    }

    #[test]
    fn after_everything_was_fetched_once_nothing_is_asked_for_again() {
        let feed = feed(2, 5, 9);
        let mut state = feed.state();
        let start = joined(&mut state, Want::All, &page(2, 3..=9), BOUNDS);
        let wanted = Start { cursor: Position::new(2, 2), gap: None, head: Position::new(2, 9) };
        assert_eq!(start, Some(wanted));
        assert_eq!(here(&state, From::Start, &ALL), Ok(wanted));
        assert_eq!(here(&state, From::Last(50), &ALL), Ok(wanted));
    }

    #[test]
    fn history_is_cut_to_what_the_namespace_allows_though_the_ring_has_more() {
        let feed = feed(2, 5, 9);
        let head = Position::new(2, 9);
        let here = |from, count_max| here(&feed.state(), from, &bounded(count_max));
        let start = |offset, gap| Ok(Start { cursor: Position::new(2, offset), gap, head });
        for from in [From::Last(3), From::Last(50), From::Start] {
            assert_eq!(here(from, 2), start(7, None), "{from:?}");
            assert_eq!(here(from, 0), start(9, None), "{from:?}");
        }
        assert_eq!(here(From::Last(2), 2), start(7, None));
        let resume = |offset| From::Position(Position::new(2, offset));
        let gap = |from, to| {
            let (from, to) = (Position::new(2, from), Position::new(2, to));
            Some(Gap { from, to, reason: GapReason::Expired })
        };
        assert_eq!(here(resume(7), 2), start(7, None));
        assert_eq!(here(resume(5), 2), start(7, gap(6, 7)));
        assert_eq!(here(resume(8), 0), start(9, gap(9, 9)));
        assert_eq!(here(resume(9), 0), start(9, None), "nothing follows");
    }

    #[test]
    fn a_page_that_does_not_touch_the_ring_is_no_start() {
        let feed = feed(2, 5, 9);
        let after = Position::new(2, 1);
        assert_eq!(joined(&mut feed.state(), Want::After(after), &page(2, 2..=4), BOUNDS), None);
        assert_eq!(joined(&mut feed.state(), Want::All, &page(1, 2..=40), BOUNDS), None);
    }

    #[test]
    fn the_gap_of_a_page_is_told_and_the_cursor_stands_behind_it() {
        let feed = feed(2, 5, 9);
        let (from, to) = (Position::new(2, 2), Position::new(2, 3));
        let gap = Gap { from, to, reason: GapReason::Expired };
        let page = Page { gap: Some(gap), ..page(2, 4..=9) };
        let start = joined(&mut feed.state(), Want::After(Position::new(2, 1)), &page, BOUNDS);
        assert_eq!(start, Some(Start { cursor: to, gap: Some(gap), head: Position::new(2, 9) }));
    }

    #[test]
    fn a_reader_ahead_of_this_node_waits_at_the_end() {
        let feed = feed(2, 5, 9);
        let ahead = Position::new(2, 11);
        let start = joined(&mut feed.state(), Want::After(ahead), &page(2, 12..=13), BOUNDS);
        assert_eq!(start, Some(Start { cursor: ahead, gap: None, head: Position::new(2, 13) }));
        feed.deliver(&page(2, 10..=11).messages);
        assert!(feed.state().due(ahead, 10).is_none(), "it has seen these elsewhere");
        feed.deliver(&page(2, 12..=12).messages);
        assert_eq!(feed.state().due(ahead, 10).map(|due| due.entries.len()), Some(1));
    }
}

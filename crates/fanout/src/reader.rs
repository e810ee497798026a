//! A subscription for back ends: messages instead of frames.

use std::collections::VecDeque;
use std::sync::Arc;

use pushonce_core::{Item, Options, Position, Watching};
use tokio::time::{Instant, sleep_until};

use crate::begin::Begun;
use crate::feed::{Due, Hold, Seat};
use crate::pick::{Pick, Rest};
use crate::table::Interest;
use crate::wakes::Wakes;
use crate::{Standing, Subscribed};

/// How many messages are taken out of the ring at one look. More would let a reader that stopped
/// keep more alive; fewer would take the topic's lock more often.
const BATCH: usize = 64;

/// A cursor in one topic, to be asked for what comes next. A reader that does not ask stores at
/// most 64 messages, or one that wants the newest alone; what the topic's ring forgets meanwhile it is
/// told as a gap. Dropping it ends the subscription.
pub struct Reader {
    subscribed: Subscribed,
    cursor: Position,
    pick: Pick,
    rest: Rest,
    /// Nothing is looked for before, if it rests at all.
    rests_until: Option<Instant>,
    standing: Standing,
    ready: VecDeque<Item>,
    /// Until it is level for the first time.
    hold: Option<Hold>,
    seat: Seat,
    wakes: Arc<Wakes>,
    woken: VecDeque<usize>,
    interest: Interest,
}

/// What a reader counts for.
const ONE: Watching = Watching { sessions: 1, asks: false };

impl Drop for Reader {
    fn drop(&mut self) {
        self.interest.unseat(ONE);
    }
}

impl Reader {
    pub(crate) fn new(begun: Begun, options: &Options) -> Reader {
        let wakes = Arc::new(Wakes::default());
        begun.interest.seat(ONE);
        Reader {
            subscribed: begun.start.answer(),
            cursor: begun.start.cursor,
            pick: Pick::of(options),
            rest: Rest::of(options),
            rests_until: None,
            standing: Standing::Live,
            ready: begun.start.gap.map(Item::Gap).into_iter().collect(),
            hold: Some(begun.hold),
            seat: begun.interest.feed().sit(Arc::clone(&wakes), 0),
            wakes,
            woken: VecDeque::new(),
            interest: begun.interest,
        }
    }

    /// Where the topic stood when the reader began, and whether it got all that it asked for.
    pub fn subscribed(&self) -> Subscribed {
        self.subscribed
    }

    /// The next message, or the gap before it, or a word about how the topic stands. Waits for one;
    /// may be dropped while it waits, and nothing is lost.
    pub async fn next(&mut self) -> Item {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.count(&item);
                return item;
            }
            if let Some(until) = self.rests_until {
                sleep_until(until).await;
                self.rests_until = None;
            }
            let (due, standing, changes) = {
                let state = self.interest.feed().state();
                let due = self.pick.due(&state, self.cursor, BATCH);
                (due, state.standing(), state.changes())
            };
            match due {
                Some(due) => self.take(due),
                None if standing != self.standing => {
                    self.standing = standing;
                    return match standing {
                        Standing::Stale => Item::Stale(self.cursor),
                        Standing::Live => Item::Live(self.cursor),
                    };
                }
                None => self.wait(changes).await,
            }
        }
    }

    fn take(&mut self, due: Due) {
        if let Some(gap) = due.gap {
            self.cursor = gap.to;
            self.ready.push_back(Item::Gap(gap));
        }
        for entry in due.entries {
            self.cursor = entry.message.position;
            self.rests_until =
                (self.rest != Rest::default()).then(|| Instant::now() + self.rest.time());
            self.ready.push_back(Item::Message(Arc::clone(&entry.message)));
        }
    }

    async fn wait(&mut self, changes: u64) {
        self.hold = None;
        if self.seat.looked(changes) {
            self.wakes.wait().await;
            self.wakes.take(&mut self.woken);
            self.woken.clear();
        }
    }

    fn count(&self, item: &Item) {
        let meters = &self.interest.table().meters;
        match item {
            Item::Message(_) => meters.deliveries.increment(1),
            Item::Gap(gap) => meters.gap(gap.reason),
            Item::Stale(_) | Item::Live(_) => {}
        }
    }
}

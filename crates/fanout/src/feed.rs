//! One topic on this node: its ring, the loss that readers must be told of, and the lanes to wake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{Gap, GapReason, Message, Position, Topic};
use slab::Slab;
use tokio::sync::Notify;

use crate::Standing;
use crate::audience::{Seats, Sum};
use crate::ring::{Bounds, Entry, Place, Ring, before};
use crate::wakes::Wakes;

/// How much more a ring may hold while lanes have not looked yet, or new readers catch up. A burst
/// that comes while a lane is at its other topics must not look like slowness of its subscribers;
/// with less, 16 large messages in flight would. More costs memory only while somebody is behind.
const HELD_FACTOR: usize = 4;

/// Shared by whoever has the relay's turn, which writes, and by lanes and readers, which look.
pub(crate) struct Feed {
    pub(crate) topic: Topic,
    bounds: Bounds,
    state: Mutex<State>,
    /// For those who wait for the upstream's word.
    opens: Notify,
    pub(crate) seats: Seats,
}

pub(crate) struct State {
    /// The upstream has said where the topic stands. Until then the ring means nothing.
    open: bool,
    pub(crate) ring: Ring,
    standing: Standing,
    /// How many watch in the whole cluster, if somebody here asked and upstream said.
    audience: Option<Arc<Sum>>,
    /// The end of the last loss, and its reason.
    lost: Option<(Position, GapReason)>,
    /// Counts what readers may have to be shown.
    changes: u64,
    lanes: Slab<LaneSeat>,
    /// How many readers rely on the ring to keep what lies before them; see [`Hold`].
    holds: usize,
    /// The bounds while the ring is held.
    held_bounds: Bounds,
}

/// A lane with subscribers, or a reader.
struct LaneSeat {
    wakes: Arc<Wakes>,
    /// The topic's index in the lane.
    index: usize,
    /// The lane was told of a change and has not finished looking.
    told: bool,
}

/// The place of a lane or a reader in a feed; left when dropped.
pub(crate) struct Seat {
    feed: Arc<Feed>,
    key: usize,
}

/// Keeps the ring from forgetting at its usual bounds while a new reader catches up, so that a
/// resume which was answered in full is not cut short by the next message. Ended by the reader's
/// being level, blocked, or gone. The ring is bounded all the same: by [`HELD_FACTOR`] times its
/// bounds, or by what a fetched page made of it and its bounds once more.
pub(crate) struct Hold(Arc<Feed>);

/// What a reader is to be shown next.
#[derive(Default)]
pub(crate) struct Due {
    /// First, if there is one.
    pub(crate) gap: Option<Gap>,
    /// The message right before the first of the entries, if it is still here.
    pub(crate) before: Option<Arc<Message>>,
    pub(crate) entries: Vec<Arc<Entry>>,
}

/// The data behind these locks is whole between any two statements that may panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    pub(crate) fn new(topic: Topic, bounds: Bounds) -> Feed {
        let state = State {
            open: false,
            standing: Standing::Live,
            audience: None,
            ring: Ring::new(Position::ZERO),
            lost: None,
            changes: 0,
            lanes: Slab::new(),
            holds: 0,
            held_bounds: bounds.times(HELD_FACTOR),
        };
        let (state, opens) = (Mutex::new(state), Notify::new());
        Feed { topic, bounds, state, opens, seats: Seats::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The upstream says where the topic stands: everything after `head` will come. Said to an open
    /// feed that has not got that far, it means that what lies between will not. Returns how many
    /// lanes were woken.
    pub(crate) fn live(&self, head: Position) -> usize {
        let mut state = self.state();
        let changes = state.changes;
        state.stand(Standing::Live);
        if state.open {
            state.skip(head);
        } else {
            state.open = true;
            state.ring = Ring::new(head);
            self.opens.notify_waiters();
        }
        state.tell(changes)
    }

    /// Takes the next messages. Returns how many lanes were woken.
    pub(crate) fn deliver(&self, messages: &[Arc<Message>]) -> usize {
        let mut state = self.state();
        if !state.open {
            return 0;
        }
        // Before the messages are taken and not after: nobody can have seen them yet.
        state.trim(self.bounds);
        let changes = state.changes;
        for message in messages {
            state.take(message, &self.topic);
        }
        let held_bounds = state.held_bounds;
        state.ring.trim(held_bounds);
        state.tell(changes)
    }

    /// Everything up to `gap.to` that is not here will not come. Returns how many lanes were woken.
    pub(crate) fn lost(&self, gap: Gap) -> usize {
        let mut state = self.state();
        let changes = state.changes;
        if state.open {
            state.lose(gap);
        }
        state.tell(changes)
    }

    /// The upstream lost touch with the owner, or hears of it again. Returns how many lanes were woken.
    pub(crate) fn stand(&self, standing: Standing) -> usize {
        let mut state = self.state();
        let changes = state.changes;
        state.stand(standing);
        state.tell(changes)
    }

    /// The upstream says how many watch in the whole cluster. Returns how many lanes were woken.
    pub(crate) fn audience(&self, sessions: u64) -> usize {
        let mut state = self.state();
        let changes = state.changes;
        state.audience = Some(Arc::new(Sum::new(sessions)));
        state.changes += 1;
        state.tell(changes)
    }

    /// Nobody here asks how many watch: what the upstream said of that grows old.
    pub(crate) fn forget_audience(&self) {
        self.state().audience = None;
    }

    /// Waits until the upstream has said where the topic stands.
    pub(crate) async fn opened(&self) {
        // Made before the look: what is said between the look and the await is not missed.
        let opens = self.opens.notified();
        if !self.state().open {
            opens.await;
        }
    }

    /// Gives a lane or a reader its place: it is woken with `index` from now on.
    pub(crate) fn sit(self: &Arc<Feed>, wakes: Arc<Wakes>, index: usize) -> Seat {
        let key = self.state().lanes.insert(LaneSeat { wakes, index, told: false });
        Seat { feed: Arc::clone(self), key }
    }

    pub(crate) fn hold(self: &Arc<Feed>) -> Hold {
        self.state().holds += 1;
        Hold(Arc::clone(self))
    }
}

impl State {
    /// How often something changed, to be handed to [`Seat::looked`].
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) fn audience(&self) -> Option<&Arc<Sum>> {
        self.audience.as_ref()
    }

    fn stand(&mut self, standing: Standing) {
        self.changes += u64::from(self.standing != standing);
        self.standing = standing;
    }

    fn take(&mut self, message: &Arc<Message>, topic: &Topic) {
        let head = self.ring.head();
        if message.position <= head {
            return;
        }
        if !message.position.follows(head) {
            tracing::error!(%topic, %head, next = %message.position, "delivered with a hole");
            self.skip(before(message.position));
        }
        self.ring.push(Arc::clone(message));
        self.changes += 1;
    }

    /// What lies between the head and `to` will not come, and nobody said why.
    fn skip(&mut self, to: Position) {
        let from = self.ring.head();
        let same_epoch = to.epoch == from.epoch;
        let reason = if same_epoch { GapReason::Expired } else { GapReason::Epoch };
        self.lose(Gap { from: from.next(), to, reason });
    }

    fn lose(&mut self, gap: Gap) {
        if gap.to <= self.ring.head() {
            return;
        }
        self.ring = Ring::new(gap.to);
        self.lost = Some((gap.to, gap.reason));
        self.changes += 1;
    }

    fn trim(&mut self, bounds: Bounds) {
        if self.holds > 0 || self.lanes.iter().any(|(_, seat)| seat.told) {
            self.ring.trim(self.held_bounds);
        } else {
            self.ring.trim(bounds);
            self.held_bounds = bounds.times(HELD_FACTOR);
        }
    }

    /// Wakes each lane that does not know yet that something came after `changes`.
    fn tell(&mut self, changes: u64) -> usize {
        if self.changes == changes {
            return 0;
        }
        let untold = self.lanes.iter_mut().filter(|(_, seat)| !seat.told);
        untold
            .map(|(_, seat)| {
                seat.told = true;
                seat.wakes.push(seat.index);
            })
            .count()
    }

    /// Joins a fetched page to the old end of the ring, and makes room for it until the readers who
    /// asked for it have had it.
    pub(crate) fn join(&mut self, page: &[Arc<Message>], bounds: Bounds) {
        let messages = self.ring.len();
        self.ring.prepend(page);
        if self.ring.len() > messages {
            let room = self.ring.size().plus(bounds);
            self.held_bounds.messages = self.held_bounds.messages.max(room.messages);
            self.held_bounds.bytes = self.held_bounds.bytes.max(room.bytes);
        }
    }

    /// What a reader that has reached `cursor` is to be shown: at most `messages_max` messages, and
    /// before them the gap that lies between, if any. None: it is level.
    pub(crate) fn due(&self, cursor: Position, messages_max: usize) -> Option<Due> {
        let (gap, index) = self.follows(cursor);
        let entries: Vec<_> = self.ring.from(index).take(messages_max).cloned().collect();
        let before = index.checked_sub(1).and_then(|before| self.ring.from(before).next());
        let before = before.map(|entry| Arc::clone(&entry.message));
        (gap.is_some() || !entries.is_empty()).then_some(Due { gap, before, entries })
    }

    /// The same for a reader that wants the newest message alone. The gap is all that it passes over.
    pub(crate) fn newest(&self, cursor: Position) -> Option<Due> {
        let (lost, index) = self.follows(cursor);
        let last = self.ring.len().saturating_sub(1);
        let (first, newest) = (self.ring.from(index).next(), self.ring.from(last).next());
        let (Some(first), Some(newest)) = (first, newest) else { return self.due(cursor, 0) };
        if lost.is_none() && index == last {
            return self.due(cursor, 1);
        }
        let from = if lost.is_some() { cursor.next() } else { first.message.position };
        let reason = match lost {
            Some(Gap { reason: GapReason::Epoch, .. }) => GapReason::Epoch,
            _ => GapReason::Conflated,
        };
        let gap = Gap { from, to: before(newest.message.position), reason };
        Some(Due { gap: Some(gap), before: None, entries: vec![Arc::clone(newest)] })
    }

    /// Where a reader that has reached `cursor` goes on, and what lies between.
    fn follows(&self, cursor: Position) -> (Option<Gap>, usize) {
        match self.ring.place(cursor) {
            Place::At(index) => (None, index),
            Place::Passed => (Some(self.gap_after(cursor)), 0),
        }
    }

    /// What a reader whose cursor the ring has passed does not get.
    fn gap_after(&self, cursor: Position) -> Gap {
        let to = self.ring.floor();
        let reason = match self.lost {
            _ if cursor.epoch != to.epoch && cursor != Position::ZERO => GapReason::Epoch,
            Some((end, reason)) if cursor < end => reason,
            _ => GapReason::Slow,
        };
        Gap { from: cursor.next(), to, reason }
    }
}

impl Seat {
    pub(crate) fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// The lane has shown every subscriber that is not blocked what there was at `changes`. Says no
    /// when more has come since: then the lane must look again, and will not be told.
    pub(crate) fn looked(&self, changes: u64) -> bool {
        let mut state = self.feed.state();
        let level = state.changes == changes;
        if level && let Some(seat) = state.lanes.get_mut(self.key) {
            seat.told = false;
        }
        level
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.feed.state().lanes.try_remove(self.key);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.state().holds -= 1;
    }
}

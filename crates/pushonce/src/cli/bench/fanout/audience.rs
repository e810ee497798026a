//! Everybody who listens, and what they have seen.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pushonce_core::Gap;
use tokio::sync::Notify;

use crate::instruments::Latency;
use crate::instruments::{Clock, Stamp};

/// Counted apart, so that two subscribers that read in one moment seldom wait for each other.
/// Each holds a histogram of 150 KiB.
const SHARDS: usize = 16;

/// Shared by all subscribers and the publisher.
pub(super) struct Audience {
    pub(super) clock: Clock,
    /// Subscribers of each topic.
    listeners: Vec<AtomicU32>,
    listening: AtomicU64,
    /// Sessions that failed or ended.
    gone: AtomicU64,
    delivered: AtomicU64,
    /// What will be delivered when everything that was published has arrived.
    expected: AtomicU64,
    complete: Notify,
    seen: [Mutex<Seen>; SHARDS],
    failure: Mutex<Option<String>>,
}

/// What subscribers saw.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// Gaps that the server told of.
    pub(super) gaps: u64,
    /// Messages that lie in them.
    pub(super) told: u64,
    /// Messages that were passed over without a word.
    pub(super) holes: u64,
    /// Messages that came again, or late.
    pub(super) repeated: u64,
    /// From the moment a message was meant to go until a subscriber read it.
    pub(super) latency: Latency,
}

/// One subscriber's place in its topic.
pub(super) struct Cursor {
    shard: usize,
    next: u64,
}

/// What one reading of a socket brought.
pub(super) struct Reading<'a> {
    audience: &'a Audience,
    cursor: &'a mut Cursor,
    seen: MutexGuard<'a, Seen>,
    at: Instant,
    delivered: u64,
}

impl Audience {
    pub(super) fn new(topics: usize) -> Audience {
        Audience {
            clock: Clock::new(rand::random()),
            listeners: (0..topics).map(|_| AtomicU32::new(0)).collect(),
            listening: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            complete: Notify::new(),
            seen: Default::default(),
            failure: Mutex::default(),
        }
    }

    /// A subscriber of the topic `index` is live.
    pub(super) fn joined(&self, index: usize) -> Cursor {
        self.listeners[index].fetch_add(1, Ordering::Relaxed);
        let nth = self.listening.fetch_add(1, Ordering::Relaxed);
        Cursor { shard: nth as usize % SHARDS, next: 0 }
    }

    /// A session ended, or never began.
    pub(super) fn left(&self, why: &str) {
        self.gone.fetch_add(1, Ordering::Relaxed);
        lock(&self.failure).get_or_insert_with(|| why.to_owned());
    }

    /// A message for the topic `index` goes out now: so many will read it.
    pub(super) fn expect(&self, index: usize) {
        let listeners = self.listeners[index].load(Ordering::Relaxed);
        self.expected.fetch_add(listeners.into(), Ordering::AcqRel);
    }

    /// It was refused: nobody will read it.
    pub(super) fn expect_no_more(&self, index: usize) {
        let listeners = self.listeners[index].load(Ordering::Relaxed);
        self.expected.fetch_sub(listeners.into(), Ordering::AcqRel);
    }

    /// Waits until everything published has arrived.
    pub(super) async fn complete(&self) {
        while self.delivered() < self.expected() {
            self.complete.notified().await;
        }
    }

    /// Begins to count what a subscriber has just read.
    pub(super) fn read<'a>(&'a self, cursor: &'a mut Cursor) -> Reading<'a> {
        let seen = lock(&self.seen[cursor.shard]);
        Reading { audience: self, cursor, seen, at: Instant::now(), delivered: 0 }
    }

    pub(super) fn listening(&self) -> u64 {
        self.listening.load(Ordering::Relaxed)
    }

    pub(super) fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Acquire)
    }

    pub(super) fn expected(&self) -> u64 {
        self.expected.load(Ordering::Acquire)
    }

    /// Why the first session that ended did.
    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// All subscribers together.
    pub(super) fn seen(&self) -> Seen {
        let mut sum = Seen::default();
        for shard in &self.seen {
            let seen = lock(shard);
            sum.gaps += seen.gaps;
            sum.told += seen.told;
            sum.holes += seen.holes;
            sum.repeated += seen.repeated;
            sum.latency.add(&seen.latency);
        }
        sum
    }
}

impl Reading<'_> {
    pub(super) fn message(&mut self, stamp: Stamp) {
        let Cursor { next, .. } = self.cursor;
        if stamp.sequence < *next {
            self.seen.repeated += 1;
            return;
        }
        self.seen.holes += stamp.sequence - *next;
        *next = stamp.sequence + 1;
        self.delivered += 1;
        self.seen.latency.record(self.at.saturating_duration_since(stamp.meant));
    }

    /// Told, so no hole.
    pub(super) fn gap(&mut self, gap: &Gap) {
        let missing = gap.to.offset.0.saturating_sub(gap.from.offset.0) + 1;
        self.seen.gaps += 1;
        self.seen.told += missing;
        self.cursor.next += missing;
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if self.delivered == 0 {
            return;
        }
        let before = self.audience.delivered.fetch_add(self.delivered, Ordering::AcqRel);
        let expected = self.audience.expected();
        if (before..before + self.delivered).contains(&expected.saturating_sub(1)) {
            self.audience.complete.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use pushonce_core::{GapReason, Position};

    use super::*;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { sequence, meant: Instant::now() }
    }

    #[test]
    fn holes_and_repetitions_are_counted_and_what_was_told_is_no_hole() {
        let audience = Audience::new(1);
        let mut cursor = audience.joined(0);
        let mut reading = audience.read(&mut cursor);
        [0, 1, 1, 4].into_iter().for_each(|sequence| reading.message(stamp(sequence)));
        let (from, to) = (Position::new(1, 6), Position::new(1, 8));
        reading.gap(&Gap { from, to, reason: GapReason::Slow });
        reading.message(stamp(8));
        drop(reading);
        let seen = audience.seen();
        assert_eq!((seen.holes, seen.repeated), (2, 1));
        assert_eq!((seen.gaps, seen.told), (1, 3));
        assert_eq!(audience.delivered(), 4);
    }

    #[tokio::test]
    async fn it_is_complete_when_each_listener_has_read_each_message() {
        let audience = Audience::new(2);
        let mut cursors = [audience.joined(0), audience.joined(0), audience.joined(1)];
        audience.expect(0);
        assert_eq!(audience.expected(), 2);
        for cursor in &mut cursors[..2] {
            assert!(audience.delivered() < audience.expected());
            audience.read(cursor).message(stamp(0));
        }
        audience.complete().await;
        audience.expect(1);
        audience.expect_no_more(1);
        audience.complete().await;
    }
}

//! A queue with two bounds, and what may leave it together. Pure.

use std::collections::VecDeque;

/// A bound in number and in bytes; both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// What waits, oldest first. Full, it refuses the newcomer: those who wait longest are served.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: VecDeque<(usize, T)>,
    bytes: usize,
    bounds: Bounds,
    open: bool,
}

/// Why a newcomer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// As many wait as may.
    Count,
    /// What waits and the newcomer have more bytes than may wait.
    Bytes,
    /// Nobody takes from the queue any more.
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(bounds: Bounds) -> Queue<T> {
        Queue { waiting: VecDeque::new(), bytes: 0, bounds, open: true }
    }

    pub(crate) fn push(&mut self, bytes: usize, one: T) -> Result<(), Rejected> {
        if !self.open {
            return Err(Rejected::Closed);
        }
        if self.waiting.len() >= self.bounds.count {
            return Err(Rejected::Count);
        }
        if self.bytes.saturating_add(bytes) > self.bounds.bytes {
            return Err(Rejected::Bytes);
        }
        self.bytes += bytes;
        self.waiting.push_back((bytes, one));
        Ok(())
    }

    /// What waits, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(_, one)| one)
    }

    /// The oldest that fit into `most` together; at least one if any waits, or one that is larger
    /// would block the queue for ever.
    pub(crate) fn take(&mut self, most: Bounds) -> Vec<T> {
        let mut total = 0;
        let fits = |&&(bytes, _): &&(usize, T)| {
            total += bytes;
            total <= most.bytes
        };
        let count = self.waiting.iter().take(most.count).take_while(fits).count();
        let count = count.max(1).min(self.waiting.len());
        let taken: Vec<_> = self.waiting.drain(..count).collect();
        self.bytes -= taken.iter().map(|(bytes, _)| bytes).sum::<usize>();
        taken.into_iter().map(|(_, one)| one).collect()
    }

    /// Takes nobody in any more, and gives back who waits.
    pub(crate) fn close(&mut self) -> Vec<T> {
        self.open = false;
        self.bytes = 0;
        self.waiting.drain(..).map(|(_, one)| one).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { count: 3, bytes: 100 };

    #[test]
    fn both_bounds_hold_and_room_comes_back() {
        let mut queue = Queue::new(BOUNDS);
        assert_eq!(queue.push(60, 'a'), Ok(()));
        assert_eq!(queue.push(41, 'b'), Err(Rejected::Bytes));
        assert_eq!(queue.push(40, 'c'), Ok(()));
        assert_eq!(queue.push(0, 'd'), Ok(()));
        assert_eq!(queue.push(0, 'e'), Err(Rejected::Count));
        assert_eq!(queue.take(BOUNDS), ['a', 'c', 'd']);
        assert_eq!(queue.push(100, 'f'), Ok(()));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn what_leaves_together_fits_and_leaves_in_order() {
        let mut queue = Queue::new(Bounds { count: 10, bytes: 1000 });
        for (bytes, one) in [(10, 'a'), (10, 'b'), (10, 'c'), (50, 'd'), (1, 'e')] {
            queue.push(bytes, one).unwrap();
        }
        assert_eq!(queue.take(Bounds { count: 2, bytes: 1000 }), ['a', 'b']);
        assert_eq!(queue.take(Bounds { count: 9, bytes: 20 }), ['c']);
        assert_eq!(queue.take(Bounds { count: 9, bytes: 20 }), ['d'], "too large, but alone");
        assert_eq!(queue.take(Bounds { count: 9, bytes: 20 }), ['e']);
        assert_eq!(queue.take(Bounds { count: 9, bytes: 20 }), [] as [char; 0]);
    }

    #[test]
    fn a_closed_queue_gives_back_who_waits_and_takes_nobody() {
        let mut queue = Queue::new(BOUNDS);
        queue.push(1, 'a').unwrap();
        assert_eq!(queue.close(), ['a']);
        assert_eq!(queue.push(1, 'b'), Err(Rejected::Closed));
        assert_eq!(queue.len(), 0);
    }
}

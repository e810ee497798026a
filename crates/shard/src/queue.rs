//! A queue that is bounded in number and in bytes, and is drained in batches. Pure.

use std::collections::VecDeque;

/// A limit in number and in bytes; both apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeLimits {
    pub(crate) count_max: usize,
    pub(crate) bytes_max: usize,
}

/// Waiting items, oldest first. A full queue rejects new items and keeps the waiting ones.
#[derive(Debug)]
pub(crate) struct BoundedQueue<T> {
    waiting: VecDeque<(usize, T)>,
    bytes: usize,
    limits: SizeLimits,
    is_open: bool,
}

/// Why an item was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueuePushError {
    /// The queue holds its maximum number of items.
    CountExceeded,
    /// The item would exceed the maximum number of bytes.
    BytesExceeded,
    /// The queue is closed.
    Closed,
}

impl<T> BoundedQueue<T> {
    pub(crate) fn new(limits: SizeLimits) -> BoundedQueue<T> {
        BoundedQueue { waiting: VecDeque::new(), bytes: 0, limits, is_open: true }
    }

    pub(crate) fn push(&mut self, bytes: usize, item: T) -> Result<(), QueuePushError> {
        if !self.is_open {
            return Err(QueuePushError::Closed);
        }
        if self.waiting.len() >= self.limits.count_max {
            return Err(QueuePushError::CountExceeded);
        }
        if self.bytes.saturating_add(bytes) > self.limits.bytes_max {
            return Err(QueuePushError::BytesExceeded);
        }
        self.bytes += bytes;
        self.waiting.push_back((bytes, item));
        Ok(())
    }

    /// The waiting items, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(_, item)| item)
    }

    /// Removes the oldest items that fit into `limits` together. Removes at least one if the queue is not
    /// empty, because an item above the limits would otherwise block the queue.
    pub(crate) fn pop_batch(&mut self, limits: SizeLimits) -> Vec<T> {
        let mut total = 0;
        let fits = |&&(bytes, _): &&(usize, T)| {
            total += bytes;
            total <= limits.bytes_max
        };
        let count = self.waiting.iter().take(limits.count_max).take_while(fits).count();
        let count = count.max(1).min(self.waiting.len());
        let taken: Vec<_> = self.waiting.drain(..count).collect();
        self.bytes -= taken.iter().map(|(bytes, _)| bytes).sum::<usize>();
        taken.into_iter().map(|(_, item)| item).collect()
    }

    /// Closes the queue and returns the waiting items.
    pub(crate) fn close(&mut self) -> Vec<T> {
        self.is_open = false;
        self.bytes = 0;
        self.waiting.drain(..).map(|(_, item)| item).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SizeLimits = SizeLimits { count_max: 3, bytes_max: 100 };

    #[test]
    fn count_and_byte_limits_apply_and_popping_frees_room() {
        let mut queue = BoundedQueue::new(LIMITS);
        assert_eq!(queue.push(60, 'a'), Ok(()));
        assert_eq!(queue.push(41, 'b'), Err(QueuePushError::BytesExceeded));
        assert_eq!(queue.push(40, 'c'), Ok(()));
        assert_eq!(queue.push(0, 'd'), Ok(()));
        assert_eq!(queue.push(0, 'e'), Err(QueuePushError::CountExceeded));
        assert_eq!(queue.pop_batch(LIMITS), ['a', 'c', 'd']);
        assert_eq!(queue.push(100, 'f'), Ok(()));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn popped_batch_fits_the_limits_and_keeps_the_order() {
        let mut queue = BoundedQueue::new(SizeLimits { count_max: 10, bytes_max: 1000 });
        for (bytes, item) in [(10, 'a'), (10, 'b'), (10, 'c'), (50, 'd'), (1, 'e')] {
            queue.push(bytes, item).unwrap();
        }
        assert_eq!(queue.pop_batch(SizeLimits { count_max: 2, bytes_max: 1000 }), ['a', 'b']);
        assert_eq!(queue.pop_batch(SizeLimits { count_max: 9, bytes_max: 20 }), ['c']);
        assert_eq!(
            queue.pop_batch(SizeLimits { count_max: 9, bytes_max: 20 }),
            ['d'],
            "an item above the limit is popped alone"
        );
        assert_eq!(queue.pop_batch(SizeLimits { count_max: 9, bytes_max: 20 }), ['e']);
        assert_eq!(queue.pop_batch(SizeLimits { count_max: 9, bytes_max: 20 }), [] as [char; 0]);
    }

    #[test]
    fn closed_queue_returns_waiting_items_and_rejects_new_ones() {
        let mut queue = BoundedQueue::new(LIMITS);
        queue.push(1, 'a').unwrap();
        assert_eq!(queue.close(), ['a']);
        assert_eq!(queue.push(1, 'b'), Err(QueuePushError::Closed));
        assert_eq!(queue.len(), 0);
    }
}

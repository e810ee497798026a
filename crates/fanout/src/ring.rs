//! Ring of the newest messages of one topic, contiguous and of one epoch.
//!
//! A reader's cursor is the position it has reached. The ring grows at both ends: live messages are
//! appended, fetched pages are prepended.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{Message, Offset, Position, Topic};

use crate::frames::{EncodedForm, FrameCache};
use crate::{FrameEncoder, Retention, WireFormat};

/// A message and its encoded frames.
pub(crate) struct RingEntry {
    pub(crate) message: Arc<Message>,
    frame_cache: FrameCache,
}

/// Limits of a ring. The oldest messages are dropped when either limit is exceeded; the newest message
/// stays whatever its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingBounds {
    pub(crate) messages: usize,
    /// Payload bytes.
    pub(crate) bytes: usize,
}

pub(crate) struct Ring {
    entries: VecDeque<Arc<RingEntry>>,
    /// The position directly before the oldest entry; the head when the ring is empty.
    floor: Position,
    head: Position,
    bytes: usize,
    /// Whether nothing older than the floor existed when that was last known.
    is_complete: bool,
    /// Whether the topic had no message when the ring was created, so that [`Position::ZERO`] is directly
    /// before the epoch's first message.
    began_empty: bool,
}

/// The place of a cursor in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingPlace {
    /// The entry of this index follows, if it exists yet.
    At(usize),
    /// The messages that follow are not in the ring.
    Missing,
}

/// The position directly before `position`.
pub(crate) fn position_before(position: Position) -> Position {
    Position { epoch: position.epoch, offset: Offset(position.offset.0.saturating_sub(1)) }
}

impl RingEntry {
    fn new(message: Arc<Message>) -> Arc<RingEntry> {
        Arc::new(RingEntry { message, frame_cache: FrameCache::default() })
    }

    /// The frame of this message, encoded at the first call for each wire format.
    pub(crate) fn frame(
        &self,
        wire: WireFormat,
        topic: &Topic,
        encoder: &dyn FrameEncoder,
    ) -> Bytes {
        self.frame_cache
            .get(EncodedForm::Full(wire), || encoder.encode_message(wire, topic, &self.message))
    }

    /// The frame of this message for a subscriber that has `predecessor`, the message directly before it:
    /// with the delta, or with the whole payload when the delta saves nothing.
    pub(crate) fn delta_frame(
        &self,
        predecessor: &Message,
        wire: WireFormat,
        topic: &Topic,
        encoder: &dyn FrameEncoder,
    ) -> Bytes {
        let delta = self.frame_cache.get(EncodedForm::DeltaPayload, || {
            encoder.compute_delta(predecessor, &self.message).unwrap_or_default()
        });
        if delta.is_empty() {
            return self.frame(wire, topic, encoder);
        }
        self.frame_cache.get(EncodedForm::Delta(wire), || {
            encoder.encode_delta(wire, topic, &self.message, delta.clone())
        })
    }
}

impl RingBounds {
    pub(crate) fn plus(self, other: RingBounds) -> RingBounds {
        RingBounds {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    pub(crate) fn times(self, factor: usize) -> RingBounds {
        let RingBounds { messages, bytes } = self;
        RingBounds {
            messages: messages.saturating_mul(factor),
            bytes: bytes.saturating_mul(factor),
        }
    }
}

impl Ring {
    /// Creates an empty ring that continues after `at`.
    pub(crate) fn new(at: Position) -> Ring {
        Ring {
            entries: VecDeque::new(),
            floor: at,
            head: at,
            bytes: 0,
            is_complete: false,
            began_empty: at == Position::ZERO,
        }
    }

    pub(crate) fn head(&self) -> Position {
        self.head
    }

    /// The position directly before the oldest message in the ring.
    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The present size.
    pub(crate) fn size(&self) -> RingBounds {
        RingBounds { messages: self.entries.len(), bytes: self.bytes }
    }

    /// Whether the ring holds the whole history.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete || self.floor.offset == Offset(0)
    }

    /// Records that history has nothing older than the floor.
    pub(crate) fn mark_complete(&mut self) {
        self.is_complete = true;
    }

    /// Appends the next message. Returns false and changes nothing when it does not follow the head.
    pub(crate) fn push(&mut self, message: Arc<Message>) -> bool {
        if !message.position.follows(self.head) {
            return false;
        }
        if self.head == Position::ZERO {
            self.floor = position_before(message.position);
        }
        self.head = message.position;
        self.bytes += message.payload.len();
        self.entries.push_back(RingEntry::new(message));
        true
    }

    /// Prepends those messages of a page that are contiguous with the floor. The others are in the ring
    /// already, will be delivered live, or are not contiguous.
    pub(crate) fn prepend(&mut self, page: &[Arc<Message>]) {
        for message in page.iter().rev() {
            if self.floor.offset == Offset(0) || message.position != self.floor {
                continue;
            }
            self.bytes += message.payload.len();
            self.entries.push_front(RingEntry::new(Arc::clone(message)));
            self.floor = position_before(self.floor);
        }
    }

    /// Drops the oldest messages until the bounds hold.
    pub(crate) fn trim(&mut self, bounds: RingBounds) {
        while self.entries.len() > 1
            && (self.entries.len() > bounds.messages || self.bytes > bounds.bytes)
        {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.message.payload.len();
            self.floor = oldest.message.position;
            self.is_complete = false;
        }
    }

    /// The place of a reader that has reached `cursor`. A cursor ahead of the head is placed at the end:
    /// its reader came from a node that already has messages which this node has yet to receive.
    pub(crate) fn locate(&self, cursor: Position) -> RingPlace {
        let is_before_first_message =
            self.began_empty && cursor == Position::ZERO && self.floor.offset == Offset(0);
        if cursor >= self.head {
            RingPlace::At(self.entries.len())
        } else if is_before_first_message {
            RingPlace::At(0)
        } else if cursor >= self.floor {
            let behind = self.head.offset.0 - cursor.offset.0;
            RingPlace::At(self.entries.len() - usize::try_from(behind).unwrap_or(0))
        } else {
            RingPlace::Missing
        }
    }

    /// The index of the oldest entry at or after `index` that is visible as history.
    pub(crate) fn first_visible_index(&self, index: usize, retention: &Retention) -> usize {
        let count = self.entries.len().saturating_sub(index);
        let newest_first = self.entries.iter().rev().take(count).map(|entry| &entry.message);
        self.entries.len() - retention.count_visible(newest_first)
    }

    /// The cursor of a reader whose next entry is that of `index`.
    pub(crate) fn cursor_at(&self, index: usize) -> Position {
        self.entries.get(index).map_or(self.head, |entry| position_before(entry.message.position))
    }

    /// The entries from `index` on, oldest first.
    pub(crate) fn entries_from(&self, index: usize) -> impl Iterator<Item = &Arc<RingEntry>> {
        self.entries.range(index.min(self.entries.len())..)
    }

    /// The cursor of a reader that requests the newest `n` messages, as far as they are visible; `None`
    /// when some of those are not in the ring.
    pub(crate) fn cursor_before_last(&self, n: usize, retention: &Retention) -> Option<Position> {
        let first_index = self.entries.len().saturating_sub(n);
        let visible_index = self.first_visible_index(first_index, retention);
        if visible_index > first_index {
            Some(self.cursor_at(visible_index))
        } else if n <= self.entries.len() {
            let offset = Offset(self.head.offset.0 - n as u64);
            Some(Position { epoch: self.head.epoch, offset })
        } else {
            self.is_complete().then_some(self.floor)
        }
    }
}

#[cfg(test)]
mod ring_test;

//! The newest messages of one topic, contiguous, of one epoch.
//!
//! A reader of the ring is a position: what it has reached. The ring says what follows it, and
//! grows at both ends: live messages at the front, fetched pages at the back.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{Message, Offset, Position, Topic};

use crate::frames::{EncodedForm, FrameCache};
use crate::{FrameEncoder, Retention, WireFormat};

/// A message and its frames.
pub(crate) struct RingEntry {
    pub(crate) message: Arc<Message>,
    frame_cache: FrameCache,
}

/// How much a ring holds. Whichever bound is met first forgets the oldest; the newest message stays
/// whatever its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingBounds {
    pub(crate) messages: usize,
    /// Of payload.
    pub(crate) bytes: usize,
}

pub(crate) struct Ring {
    entries: VecDeque<Arc<RingEntry>>,
    /// The position right before the oldest entry; the head when there is none.
    floor: Position,
    head: Position,
    bytes: usize,
    /// Nothing older than the floor existed when that was last known.
    is_complete: bool,
    /// The topic had no message when the ring began, so that [`Position::ZERO`] is right before the
    /// epoch's first message.
    began_empty: bool,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingPlace {
    /// What follows is the entry of this index, if there is one yet.
    At(usize),
    /// What follows was here once, or never, and is not here now.
    Missing,
}

/// The position right before a message's.
pub(crate) fn position_before(position: Position) -> Position {
    Position { epoch: position.epoch, offset: Offset(position.offset.0.saturating_sub(1)) }
}

impl RingEntry {
    fn new(message: Arc<Message>) -> Arc<RingEntry> {
        Arc::new(RingEntry { message, frame_cache: FrameCache::default() })
    }

    /// The frame of this message, made at the first call for each wire.
    pub(crate) fn frame(
        &self,
        wire: WireFormat,
        topic: &Topic,
        encoder: &dyn FrameEncoder,
    ) -> Bytes {
        self.frame_cache
            .get(EncodedForm::Full(wire), || encoder.encode_message(wire, topic, &self.message))
    }

    /// The frame of this message for one who has `before`, the message right before it: its
    /// difference from that, or the whole when that is no gain.
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
    /// An empty ring that goes on after `at`.
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

    /// The position right before the oldest message that is here.
    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How much it holds now.
    pub(crate) fn size(&self) -> RingBounds {
        RingBounds { messages: self.entries.len(), bytes: self.bytes }
    }

    /// Whether the ring has all of the past there was.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete || self.floor.offset == Offset(0)
    }

    /// History has nothing older than the floor.
    pub(crate) fn mark_complete(&mut self) {
        self.is_complete = true;
    }

    /// Takes the next message. Says no, and takes nothing, when it does not follow the head.
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

    /// Takes those of a page's messages that lie right before the floor; the others are here
    /// already, or will come live, or do not join.
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

    /// Forgets the oldest until the bounds hold.
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

    /// Where a reader that has reached `cursor` stands. One ahead of the head waits at the end: it
    /// was elsewhere before, and this node has yet to hear what it has seen.
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

    /// The index of the oldest entry that may be shown as history, from `index` on.
    pub(crate) fn first_visible_index(&self, index: usize, retention: &Retention) -> usize {
        let count = self.entries.len().saturating_sub(index);
        let newest_first = self.entries.iter().rev().take(count).map(|entry| &entry.message);
        self.entries.len() - retention.count_visible(newest_first)
    }

    /// The cursor of a reader that is to be shown the entry of this index next.
    pub(crate) fn cursor_at(&self, index: usize) -> Position {
        self.entries.get(index).map_or(self.head, |entry| position_before(entry.message.position))
    }

    /// The entries from an index on, oldest first.
    pub(crate) fn entries_from(&self, index: usize) -> impl Iterator<Item = &Arc<RingEntry>> {
        self.entries.range(index.min(self.entries.len())..)
    }

    /// The cursor of a reader that wants the newest `n`, as far as they may be shown; `NoFault` when some of
    /// those are not here.
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

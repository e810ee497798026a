//! What is due at a cursor, as frames: made once for all who stand there.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pushonce_core::{GapReason, Position};

use super::roster::{Base, Shape};
use crate::Standing;
use crate::audience::Sum;
use crate::feed::Feed;
use crate::hub::Shared;

/// The most messages of one offer. Enough that a write of small frames is bounded by bytes and not
/// by calls; few enough that one subscriber's past does not hold up the others' present.
const MESSAGES_MAX: usize = 64;

/// The most bytes that are joined. Beyond, what a write costs is the copying of them.
const JOINED_MAX: usize = 64 * 1024;

/// Frames that follow a cursor.
pub(super) struct Batch {
    shape: Shape,
    after: Position,
    pub(super) frames: Vec<Bytes>,
    /// All of them in one piece, once a second subscriber stands here: to send it takes a tenth less
    /// than to send its parts.
    pub(super) joined: OnceCell<Bytes>,
    /// The cursor behind each frame.
    pub(super) ends: Vec<Position>,
    /// Of the first frame, if that tells a gap.
    pub(super) gap: Option<GapReason>,
    /// There may be more: it is as much as one offer takes.
    pub(super) more: bool,
    /// What holds once all of it was shown.
    pub(super) standing: Standing,
    pub(super) audience: Option<Arc<Sum>>,
}

/// The batches of one look at one topic. Subscribers that keep up all stand at the same cursor, so
/// the ring is asked once for all of them. Kept no longer than one look: what comes later is told to
/// the lane again.
#[derive(Default)]
pub(super) struct Batches {
    /// Which topic, by its index in the lane.
    topic: usize,
    /// The newest of each shape in use.
    known: Vec<Rc<Batch>>,
}

impl Batches {
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Makes them those of `topic`.
    pub(super) fn of(&mut self, topic: usize) -> &mut Batches {
        if self.topic != topic {
            self.clear();
            self.topic = topic;
        }
        self
    }

    pub(super) fn get(
        &mut self,
        shape: Shape,
        after: Position,
        feed: &Feed,
        shared: &Shared,
    ) -> &Rc<Batch> {
        let index = match self.known.iter().position(|batch| batch.shape == shape) {
            Some(index) if self.known[index].after == after => {
                self.known[index].join();
                index
            }
            Some(index) => {
                self.known[index] = Rc::new(Batch::make(shape, after, feed, shared));
                index
            }
            None => {
                self.known.push(Rc::new(Batch::make(shape, after, feed, shared)));
                self.known.len() - 1
            }
        };
        &self.known[index]
    }
}

impl Batch {
    fn make(shape: Shape, after: Position, feed: &Feed, shared: &Shared) -> Batch {
        let Shape { wire, base, pick } = shape;
        let (due, standing, audience) = {
            let state = feed.state();
            let due = pick.due(&state, after, MESSAGES_MAX).unwrap_or_default();
            (due, state.standing(), state.audience().cloned())
        };
        // The topic's lock is free again: frames are made beside the relay's task, not before it.
        let encode = &*shared.encode;
        let gap = due.gap.map(|gap| (encode.gap(wire, &feed.topic, &gap), gap.to));
        let mut before = due.before.filter(|_| base == Base::Held);
        let messages = due.entries.iter().map(|entry| {
            let frame = match &before {
                Some(before) => entry.difference(before, wire, &feed.topic, encode),
                None => entry.frame(wire, &feed.topic, encode),
            };
            before = (base != Base::Unwanted).then(|| Arc::clone(&entry.message));
            (frame, entry.message.position)
        });
        let (frames, ends) = gap.into_iter().chain(messages).unzip();
        let more = due.entries.len() == MESSAGES_MAX;
        let gap = due.gap.map(|gap| gap.reason);
        let joined = OnceCell::new();
        Batch { shape, after, frames, joined, ends, gap, more, standing, audience }
    }

    fn join(&self) {
        if self.frames.len() < 2 || self.joined.get().is_some() {
            return;
        }
        let bytes = self.frames.iter().map(Bytes::len).sum();
        if bytes <= JOINED_MAX {
            let mut joined = BytesMut::with_capacity(bytes);
            self.frames.iter().for_each(|frame| joined.extend_from_slice(frame));
            // It is empty: this is asked above.
            let _ = self.joined.set(joined.freeze());
        }
    }
}

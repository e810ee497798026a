//! What is due at a cursor, as frames: made once for all who stand there.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
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

/// The most bytes that are joined. Beyond, what a write costs is the copying of them. Each such piece has
/// two offers at least, so a turn holds some hundred.
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
    /// What the topic was when this was made.
    changes: u64,
    /// What holds once all of it was shown.
    pub(super) standing: Standing,
    pub(super) audience: Option<Arc<Sum>>,
}

/// The batches of one turn. Subscribers that keep up all stand at the same cursor, so the ring is asked
/// once for all of them. Kept no longer: what comes later is told to the lane again.
#[derive(Default)]
pub(super) struct Batches {
    /// Of which topic they were asked for last, by its index in the lane.
    topic: usize,
    last: Known,
    /// Of the topics before.
    others: HashMap<usize, Known>,
}

/// The batches of one topic.
#[derive(Default)]
pub(super) struct Known(VecDeque<Rc<Batch>>);

/// How many batches of a topic are kept in a turn: those of the shapes in use, at the two cursors where
/// those are who had the news already and who had it not.
const KNOWN_MAX: usize = 8;

impl Batches {
    pub(super) fn clear(&mut self) {
        self.last.0.clear();
        self.others.clear();
    }

    /// Those of `topic`.
    pub(super) fn of(&mut self, topic: usize) -> &mut Known {
        if self.topic != topic {
            let of_topic = self.others.remove(&topic).unwrap_or_default();
            let last = std::mem::replace(&mut self.last, of_topic);
            self.others.insert(std::mem::replace(&mut self.topic, topic), last);
        }
        &mut self.last
    }
}

impl Known {
    /// What was found before may not be all of it.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    pub(super) fn get(
        &mut self,
        shape: Shape,
        after: Position,
        feed: &Feed,
        shared: &Shared,
    ) -> &Rc<Batch> {
        let Known(known) = self;
        let found = known.iter().position(|batch| batch.shape == shape && batch.after == after);
        if let Some(index) = found {
            known[index].join();
            return &known[index];
        }
        known.truncate(KNOWN_MAX - 1);
        known.push_front(Rc::new(Batch::make(shape, after, feed, shared)));
        &known[0]
    }
}

impl Batch {
    fn make(shape: Shape, after: Position, feed: &Feed, shared: &Shared) -> Batch {
        let Shape { wire, base, pick } = shape;
        let (due, standing, audience, changes) = {
            let state = feed.state();
            let due = pick.due(&state, after, MESSAGES_MAX).unwrap_or_default();
            (due, state.standing(), state.audience().cloned(), state.changes())
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
        Batch { shape, after, frames, joined, ends, gap, more, changes, standing, audience }
    }

    /// Whether something came since it was made.
    pub(super) fn is_old(&self, feed: &Feed) -> bool {
        feed.state().changes() != self.changes
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

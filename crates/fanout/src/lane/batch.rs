//! What is due at a cursor, as frames: made once for all who stand there.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pushonce_core::{GapReason, Position};

use super::subscription_table::{BatchShape, DeltaBase};
use crate::TopicHealth;
use crate::audience::ClusterAudience;
use crate::hub::HubShared;
use crate::topic_buffer::TopicBuffer;

/// The most messages of one offer. Enough that a write of small frames is bounded by bytes and not
/// by calls; few enough that one subscriber's past does not hold up the others' present.
const OFFER_MESSAGES_MAX: usize = 64;

/// The most bytes that are joined. Beyond, what a write costs is the copying of them. Each such piece has
/// two offers at least, so a turn holds some hundred.
const CONCATENATED_BYTES_MAX: usize = 64 * 1024;

/// Frames that follow a cursor.
pub(super) struct FrameBatch {
    shape: BatchShape,
    after: Position,
    pub(super) frames: Vec<Bytes>,
    /// All of them in one piece, once a second subscriber stands here: to send it takes a tenth less
    /// than to send its parts.
    pub(super) concatenated: OnceCell<Bytes>,
    /// The cursor behind each frame.
    pub(super) cursors_after: Vec<Position>,
    /// Of the first frame, if that tells a gap.
    pub(super) gap_reason: Option<GapReason>,
    /// There may be more: it is as much as one offer takes.
    pub(super) has_more: bool,
    /// What the topic was when this was made.
    version: u64,
    /// What holds once all of it was shown.
    pub(super) health: TopicHealth,
    pub(super) audience: Option<Arc<ClusterAudience>>,
}

/// The batches of one turn. Subscribers that keep up all stand at the same cursor, so the ring is asked
/// once for all of them. Kept no longer: what comes later is told to the lane again.
#[derive(Default)]
pub(super) struct TurnBatchCache {
    /// Of which topic they were asked for last, by its index in the lane.
    current_topic: usize,
    current: TopicBatchCache,
    /// Of the topics before.
    other_topics: HashMap<usize, TopicBatchCache>,
}

/// The batches of one topic.
#[derive(Default)]
pub(super) struct TopicBatchCache(VecDeque<Rc<FrameBatch>>);

/// How many batches of a topic are kept in a turn: those of the shapes in use, at the two cursors where
/// those are who had the news already and who had it not.
const TOPIC_BATCHES_MAX: usize = 8;

impl TurnBatchCache {
    pub(super) fn clear(&mut self) {
        self.current.0.clear();
        self.other_topics.clear();
    }

    /// Those of `topic`.
    pub(super) fn for_topic(&mut self, topic_index: usize) -> &mut TopicBatchCache {
        if self.current_topic != topic_index {
            let batches = self.other_topics.remove(&topic_index).unwrap_or_default();
            let previous = std::mem::replace(&mut self.current, batches);
            self.other_topics
                .insert(std::mem::replace(&mut self.current_topic, topic_index), previous);
        }
        &mut self.current
    }
}

impl TopicBatchCache {
    /// What was found before may not be all of it.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn get_or_encode(
        &mut self,
        shape: BatchShape,
        after: Position,
        buffer: &TopicBuffer,
        hub: &HubShared,
    ) -> &Rc<FrameBatch> {
        let TopicBatchCache(batches) = self;
        let found = batches.iter().position(|batch| batch.shape == shape && batch.after == after);
        if let Some(index) = found {
            batches[index].concatenate();
            return &batches[index];
        }
        batches.truncate(TOPIC_BATCHES_MAX - 1);
        batches.push_front(Rc::new(FrameBatch::encode(shape, after, buffer, hub)));
        &batches[0]
    }
}

impl FrameBatch {
    fn encode(
        shape: BatchShape,
        after: Position,
        buffer: &TopicBuffer,
        hub: &HubShared,
    ) -> FrameBatch {
        let BatchShape { wire, delta_base, mode } = shape;
        let (pending, health, audience, version) = {
            let state = buffer.state();
            let pending = mode.next_after(&state, after, OFFER_MESSAGES_MAX).unwrap_or_default();
            (pending, state.health(), state.audience().cloned(), state.version())
        };
        // The topic's lock is free again: frames are made beside the relay's task, not before it.
        let encoder = &*hub.encoder;
        let gap_frame =
            pending.gap.map(|gap| (encoder.encode_gap(wire, &buffer.topic, &gap), gap.to));
        let mut predecessor = pending.predecessor.filter(|_| delta_base == DeltaBase::Available);
        let messages = pending.entries.iter().map(|entry| {
            let frame = match &predecessor {
                Some(predecessor) => entry.delta_frame(predecessor, wire, &buffer.topic, encoder),
                None => entry.frame(wire, &buffer.topic, encoder),
            };
            predecessor =
                (delta_base != DeltaBase::NotRequested).then(|| Arc::clone(&entry.message));
            (frame, entry.message.position)
        });
        let (frames, cursors_after) = gap_frame.into_iter().chain(messages).unzip();
        let has_more = pending.entries.len() == OFFER_MESSAGES_MAX;
        let gap_reason = pending.gap.map(|gap| gap.reason);
        let concatenated = OnceCell::new();
        FrameBatch {
            shape,
            after,
            frames,
            concatenated,
            cursors_after,
            gap_reason,
            has_more,
            version,
            health,
            audience,
        }
    }

    /// Whether something came since it was made.
    pub(super) fn is_outdated(&self, buffer: &TopicBuffer) -> bool {
        buffer.state().version() != self.version
    }

    fn concatenate(&self) {
        if self.frames.len() < 2 || self.concatenated.get().is_some() {
            return;
        }
        let bytes = self.frames.iter().map(Bytes::len).sum();
        if bytes <= CONCATENATED_BYTES_MAX {
            let mut concatenated = BytesMut::with_capacity(bytes);
            self.frames.iter().for_each(|frame| concatenated.extend_from_slice(frame));
            // It is empty: this is asked above.
            let _ = self.concatenated.set(concatenated.freeze());
        }
    }
}

//! The frames that follow a cursor, encoded once for all subscriptions at that cursor.

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

/// Maximum number of messages of one offer. Enough that the cost of a write of small frames is determined
/// by bytes and not by calls; few enough that one subscriber's history does not delay the live messages of
/// the others.
const OFFER_MESSAGES_MAX: usize = 64;

/// Maximum number of bytes to concatenate. Beyond it, the cost of a write is that of copying. Each
/// concatenated batch has at least two offers, so a turn holds at most some hundred.
const CONCATENATED_BYTES_MAX: usize = 64 * 1024;

/// The frames that follow a cursor.
pub(super) struct FrameBatch {
    shape: BatchShape,
    after: Position,
    pub(super) frames: Vec<Bytes>,
    /// All frames in one buffer, once a second subscriber is at the cursor: writing it takes a tenth less
    /// time than writing the frames one by one.
    pub(super) concatenated: OnceCell<Bytes>,
    /// The cursor after each frame.
    pub(super) cursors_after: Vec<Position>,
    /// Reason of the gap, if the first frame is a gap.
    pub(super) gap_reason: Option<GapReason>,
    /// The batch has the maximum length, so more messages may follow.
    pub(super) has_more: bool,
    /// Version of the topic when the batch was encoded.
    version: u64,
    /// Health of the topic after all frames of the batch.
    pub(super) health: TopicHealth,
    pub(super) audience: Option<Arc<ClusterAudience>>,
}

/// The batches of one turn. Subscribers that keep up are all at the same cursor, so the ring is read once
/// for all of them. Not kept for longer: the lane is notified of later changes.
#[derive(Default)]
pub(super) struct TurnBatchCache {
    /// Topic of `current`, by its index in the lane.
    current_topic: usize,
    current: TopicBatchCache,
    /// Batches of the topics processed earlier in the turn.
    other_topics: HashMap<usize, TopicBatchCache>,
}

/// The batches of one topic.
#[derive(Default)]
pub(super) struct TopicBatchCache(VecDeque<Rc<FrameBatch>>);

/// Maximum number of cached batches of a topic in a turn: one for each shape in use, at two cursors: that
/// of subscribers which already have the newest message and that of those which do not.
const TOPIC_BATCHES_MAX: usize = 8;

impl TurnBatchCache {
    pub(super) fn clear(&mut self) {
        self.current.0.clear();
        self.other_topics.clear();
    }

    /// The batches of a topic.
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
    /// Removes the batches, which may not have the newest messages.
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
        // The lock of the topic is released: encoding does not delay the task of the relay.
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

    /// Whether the topic changed since the batch was encoded.
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
            // Cannot fail: the cell was found empty above.
            let _ = self.concatenated.set(concatenated.freeze());
        }
    }
}

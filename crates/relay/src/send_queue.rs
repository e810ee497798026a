//! What waits for one link.
//!
//! Bounded in bytes. A queue that is over its bound is dropped whole and its link reset: a frame
//! left out in the middle would be a hole, while a peer that comes back asks again from where it
//! stands.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use pushonce_core::{AgreedVersion, ClusterVersion};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::PeerFrame;
use tokio::sync::Notify;

use crate::engine::FRAME_BYTES_MAX;

/// The frames that wait, oldest first.
pub(crate) struct SendQueue {
    state: Mutex<SendQueueState>,
    /// Wakes the link.
    notify: Notify,
    bytes_max: usize,
    /// The version in which this node writes, and the one in which the peer does.
    agreed_version: AgreedVersion,
    peer_version: AgreedVersion,
}

#[derive(Default)]
struct SendQueueState {
    frames: VecDeque<PeerFrame>,
    bytes: usize,
    closed: bool,
}

/// How much waits, beside the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueLoad {
    /// There is room for everything.
    Light,
    /// The room that is left is for what cannot wait elsewhere: new messages and answers.
    Heavy,
}

/// Heavy is more than the bound by this. Half of the bound would leave new messages little room on a
/// link that catches up; a tenth would stop and go.
pub(crate) const HEAVY_LOAD_DIVISOR: usize = 4;

/// The bound was met; the queue is closed and empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueueOverflow;

impl SendQueue {
    /// `agreed_version` is the version in which this node writes.
    pub(crate) fn new(bytes_max: usize, agreed_version: AgreedVersion) -> Arc<SendQueue> {
        Arc::new(SendQueue {
            state: Mutex::default(),
            notify: Notify::new(),
            bytes_max,
            agreed_version,
            peer_version: AgreedVersion::default(),
        })
    }

    /// The peer writes in `version`. It may have heard of a raise before this node.
    pub(crate) fn set_peer_version(&self, version: ClusterVersion) {
        self.peer_version.raise(version);
    }

    /// Adds a frame, and says how much waits; to a closed queue it adds nothing.
    pub(crate) fn push(&self, frame: PeerFrame) -> Result<QueueLoad, QueueOverflow> {
        let bytes = frame.size_hint();
        let mut state = self.lock();
        if state.closed {
            return Ok(QueueLoad::Light);
        }
        // A single frame may be larger than the bound and must get through all the same.
        if state.bytes > 0 && state.bytes + bytes > self.bytes_max {
            *state = SendQueueState { closed: true, ..SendQueueState::default() };
            self.notify.notify_one();
            return Err(QueueOverflow);
        }
        state.bytes += bytes;
        state.frames.push_back(frame);
        let load = self.load_for(&state);
        drop(state);
        self.notify.notify_one();
        Ok(load)
    }

    /// How much waits.
    pub(crate) fn load(&self) -> QueueLoad {
        self.load_for(&self.lock())
    }

    fn load_for(&self, state: &SendQueueState) -> QueueLoad {
        if state.bytes > self.bytes_max / HEAVY_LOAD_DIVISOR {
            QueueLoad::Heavy
        } else {
            QueueLoad::Light
        }
    }

    /// What waits is still sent; nothing more is taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.notify.notify_one();
    }

    /// The frames as they go over the wire: everything that is ready in one, up to a bound.
    pub(crate) fn into_stream(
        self: Arc<Self>,
    ) -> impl Stream<Item = pb::LinkFrames> + Send + 'static {
        futures::stream::unfold(self, |queue| async move {
            let frames = queue.next_batch().await?;
            Some((frames, queue))
        })
    }

    /// `NoFault` when the queue is closed and empty.
    async fn next_batch(&self) -> Option<pb::LinkFrames> {
        loop {
            let (frames, closed) = self.pop_frames();
            if !frames.is_empty() {
                let frames = frames.into_iter().map(pb::LinkFrame::from).collect();
                let version = self.agreed_version.get().max(self.peer_version.get()).0.into();
                return Some(pb::LinkFrames { frames, version });
            }
            if closed {
                return None;
            }
            self.notify.notified().await;
        }
    }

    fn pop_frames(&self) -> (Vec<PeerFrame>, bool) {
        let mut state = self.lock();
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < FRAME_BYTES_MAX
            && let Some(frame) = state.frames.pop_front()
        {
            bytes += frame.size_hint();
            frames.push(frame);
        }
        state.bytes -= bytes;
        (frames, state.closed)
    }

    fn lock(&self) -> MutexGuard<'_, SendQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use pushonce_core::{Position, Timestamp};

    use super::*;

    fn heartbeat(number: u32) -> PeerFrame {
        let heads = vec![(number, Position::ZERO)];
        PeerFrame::Heartbeat { heads, stale_shards: vec![], clock: Timestamp(7), log_times: vec![] }
    }

    #[test]
    fn all_queued_frames_are_sent_in_one_batch() {
        let queue = SendQueue::new(1 << 20, AgreedVersion::default());
        for n in 0..5 {
            queue.push(heartbeat(n)).expect("room");
        }
        let mut stream = Box::pin(queue.into_stream());
        let frames = stream.next().now_or_never().flatten().expect("ready");
        assert_eq!(frames.frames.len(), 5);
        assert!(stream.next().now_or_never().is_none(), "nothing more is ready");
    }

    #[test]
    fn queue_over_its_bound_is_cleared_and_its_stream_ends() {
        let queue = SendQueue::new(2 * heartbeat(0).size_hint(), AgreedVersion::default());
        queue.push(heartbeat(0)).expect("room");
        queue.push(heartbeat(1)).expect("room");
        assert_eq!(queue.push(heartbeat(2)), Err(QueueOverflow));
        let mut stream = Box::pin(queue.into_stream());
        assert_eq!(stream.next().now_or_never(), Some(None));
    }

    #[test]
    fn frames_queued_before_close_are_still_sent() {
        let queue = SendQueue::new(1 << 20, AgreedVersion::default());
        queue.push(heartbeat(0)).expect("room");
        queue.close();
        queue.push(heartbeat(1)).expect("a closed queue takes nothing and says nothing");
        let sent: Vec<_> = queue.into_stream().collect().now_or_never().expect("ready");
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].frames.len(), 1);
    }
}

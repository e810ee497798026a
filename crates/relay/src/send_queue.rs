//! The send queue of a link, bounded in bytes.
//!
//! A queue that exceeds its bound is cleared and its link reset: dropping a single frame would leave a
//! hole, while a peer that reconnects asks again from its position.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use pushonce_core::{AgreedVersion, ClusterVersion};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::PeerFrame;
use tokio::sync::Notify;

use crate::engine::FRAME_BYTES_MAX;

/// The frames queued for one link, oldest first.
pub(crate) struct SendQueue {
    state: Mutex<SendQueueState>,
    /// Wakes the link.
    notify: Notify,
    bytes_max: usize,
    /// The version in which this node writes.
    agreed_version: AgreedVersion,
    /// The version in which the peer writes.
    peer_version: AgreedVersion,
}

#[derive(Default)]
struct SendQueueState {
    frames: VecDeque<PeerFrame>,
    bytes: usize,
    closed: bool,
}

/// The load of a send queue relative to its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueLoad {
    /// The queue has room for all frames.
    Light,
    /// The remaining room is reserved for frames that cannot be deferred: new messages and replies.
    Heavy,
}

/// The load is heavy above this fraction of the bound. Half of the bound would leave little room for new
/// messages on a link that catches up; a tenth would make catching up stop and go.
pub(crate) const HEAVY_LOAD_DIVISOR: usize = 4;

/// The bound was exceeded; the queue is closed and empty.
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

    /// Sets the version in which the peer writes. The peer may learn of a raised version before this node.
    pub(crate) fn set_peer_version(&self, version: ClusterVersion) {
        self.peer_version.raise(version);
    }

    /// Adds a frame and returns the load. A closed queue drops the frame.
    pub(crate) fn push(&self, frame: PeerFrame) -> Result<QueueLoad, QueueOverflow> {
        let bytes = frame.size_hint();
        let mut state = self.lock();
        if state.closed {
            return Ok(QueueLoad::Light);
        }
        // A single frame may be larger than the bound and must still be sent.
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

    /// The current load.
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

    /// Accepts no further frames. Frames already queued are still sent.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.notify.notify_one();
    }

    /// The batches to write to the wire. Each combines the queued frames up to [`FRAME_BYTES_MAX`].
    pub(crate) fn into_stream(
        self: Arc<Self>,
    ) -> impl Stream<Item = pb::LinkFrames> + Send + 'static {
        futures::stream::unfold(self, |queue| async move {
            let frames = queue.next_batch().await?;
            Some((frames, queue))
        })
    }

    /// The next batch; `None` when the queue is closed and empty.
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
    use pushonce_proto::peer::HeartbeatTiming;

    use super::*;

    fn heartbeat(number: u32) -> PeerFrame {
        let heads = vec![(number, Position::ZERO)];
        let (clock, timing) = (Timestamp(7), HeartbeatTiming::default());
        PeerFrame::Heartbeat { heads, stale_shards: vec![], clock, log_times: vec![], timing }
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
        queue.push(heartbeat(1)).expect("a closed queue drops frames without an error");
        let sent: Vec<_> = queue.into_stream().collect().now_or_never().expect("ready");
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].frames.len(), 1);
    }
}

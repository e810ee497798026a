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
use pushonce_proto::peer::Frame;
use tokio::sync::Notify;

use crate::engine::FRAME_BYTES;

/// The frames that wait, oldest first.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Wakes the link.
    news: Notify,
    bytes_max: usize,
    /// The version in which this node writes, and the one in which the peer does.
    agreed: AgreedVersion,
    peer: AgreedVersion,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
}

/// How much waits, beside the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// There is room for everything.
    Light,
    /// The room that is left is for what cannot wait elsewhere: new messages and answers.
    Heavy,
}

/// Heavy is more than the bound by this. Half of the bound would leave new messages little room on a
/// link that catches up; a tenth would stop and go.
pub(crate) const HEAVY_PART: usize = 4;

/// The bound was met; the queue is closed and empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

impl Outbox {
    /// `agreed` is the version in which this node writes.
    pub(crate) fn new(bytes_max: usize, agreed: AgreedVersion) -> Arc<Outbox> {
        Arc::new(Outbox {
            queue: Mutex::default(),
            news: Notify::new(),
            bytes_max,
            agreed,
            peer: AgreedVersion::default(),
        })
    }

    /// The peer writes in `version`. It may have heard of a raise before this node.
    pub(crate) fn greeted(&self, version: ClusterVersion) {
        self.peer.raise(version);
    }

    /// Adds a frame, and says how much waits; to a closed queue it adds nothing.
    pub(crate) fn push(&self, frame: Frame) -> Result<Load, Overflow> {
        let bytes = frame.size_hint();
        let mut queue = self.lock();
        if queue.closed {
            return Ok(Load::Light);
        }
        // A single frame may be larger than the bound and must get through all the same.
        if queue.bytes > 0 && queue.bytes + bytes > self.bytes_max {
            *queue = Queue { closed: true, ..Queue::default() };
            self.news.notify_one();
            return Err(Overflow);
        }
        queue.bytes += bytes;
        queue.frames.push_back(frame);
        let load = self.load_of(&queue);
        drop(queue);
        self.news.notify_one();
        Ok(load)
    }

    /// How much waits.
    pub(crate) fn load(&self) -> Load {
        self.load_of(&self.lock())
    }

    fn load_of(&self, queue: &Queue) -> Load {
        if queue.bytes > self.bytes_max / HEAVY_PART { Load::Heavy } else { Load::Light }
    }

    /// What waits is still sent; nothing more is taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    /// The frames as they go over the wire: everything that is ready in one, up to a bound.
    pub(crate) fn stream(self: Arc<Self>) -> impl Stream<Item = pb::LinkFrames> + Send + 'static {
        futures::stream::unfold(self, |outbox| async move {
            let frames = outbox.pack().await?;
            Some((frames, outbox))
        })
    }

    /// `None` when the queue is closed and empty.
    async fn pack(&self) -> Option<pb::LinkFrames> {
        loop {
            let (frames, closed) = self.take();
            if !frames.is_empty() {
                let frames = frames.into_iter().map(pb::LinkFrame::from).collect();
                let version = self.agreed.get().max(self.peer.get()).0.into();
                return Some(pb::LinkFrames { frames, version });
            }
            if closed {
                return None;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> (Vec<Frame>, bool) {
        let mut queue = self.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < FRAME_BYTES
            && let Some(frame) = queue.frames.pop_front()
        {
            bytes += frame.size_hint();
            taken.push(frame);
        }
        queue.bytes -= bytes;
        (taken, queue.closed)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use pushonce_core::{Position, Timestamp};

    use super::*;

    fn beat(number: u32) -> Frame {
        let heads = vec![(number, Position::ZERO)];
        Frame::Heartbeat { heads, doubts: vec![], clock: Timestamp(7), log_times: vec![] }
    }

    #[test]
    fn everything_ready_goes_into_one() {
        let outbox = Outbox::new(1 << 20, AgreedVersion::default());
        for n in 0..5 {
            outbox.push(beat(n)).expect("room");
        }
        let mut stream = Box::pin(outbox.stream());
        let frames = stream.next().now_or_never().flatten().expect("ready");
        assert_eq!(frames.frames.len(), 5);
        assert!(stream.next().now_or_never().is_none(), "nothing more is ready");
    }

    #[test]
    fn over_the_bound_everything_is_dropped_and_the_stream_ends() {
        let outbox = Outbox::new(2 * beat(0).size_hint(), AgreedVersion::default());
        outbox.push(beat(0)).expect("room");
        outbox.push(beat(1)).expect("room");
        assert_eq!(outbox.push(beat(2)), Err(Overflow));
        let mut stream = Box::pin(outbox.stream());
        assert_eq!(stream.next().now_or_never(), Some(None));
    }

    #[test]
    fn what_waits_when_it_is_closed_is_still_sent() {
        let outbox = Outbox::new(1 << 20, AgreedVersion::default());
        outbox.push(beat(0)).expect("room");
        outbox.close();
        outbox.push(beat(1)).expect("a closed queue takes nothing and says nothing");
        let sent: Vec<_> = outbox.stream().collect().now_or_never().expect("ready");
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].frames.len(), 1);
    }
}

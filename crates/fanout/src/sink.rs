//! The output of one session.

use bytes::Bytes;
use pushonce_core::Position;

/// Accepts the frames of one session; owned by the thread of its lane.
///
/// `offer` must not call the lane, which is in the middle of a walk. The sink reports to the lane by the
/// result only, and leaves everything else to the task of the session.
pub trait FrameSink {
    /// Offers all pending frames of the session in one turn of the lane, in order, to be written with as
    /// few writes as possible. The sink accepts as many frames from the front as it can write or buffer.
    /// Accepted frames are not offered again; the sink must not keep the others.
    ///
    /// A sink with a separate stream for each subscription stops at the first blocked one: the runs behind
    /// it are offered again at once, without it.
    ///
    /// # Errors
    /// [`SinkClosed`] when the session is over: the lane removes the session and all its subscriptions.
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed>;
}

/// Frames of one subscription, in order; may be empty. Several consecutive runs may be of the same
/// subscription.
#[derive(Clone, Copy, Debug)]
pub struct FrameRun<'a> {
    /// The token that the subscription was created with.
    pub token: u32,
    /// Complete frames, shared with all other sessions that receive them.
    pub frames: &'a [Bytes],
    /// The same frames in one buffer, where several sessions receive several frames.
    pub concatenated: Option<&'a Bytes>,
    /// The position of the subscription after each frame. Empty where the frames do not change it.
    pub cursors: &'a [Position],
}

impl<'a> FrameRun<'a> {
    /// The content of the run in as few buffers as possible.
    pub fn pieces(&self) -> impl Iterator<Item = &'a Bytes> + use<'a> {
        let frames = if self.concatenated.is_some() { &[] } else { self.frames };
        self.concatenated.into_iter().chain(frames)
    }
}

/// The result of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferOutcome {
    /// Number of accepted frames, from the first and over all runs.
    pub accepted: usize,
    /// Whether the subscription of the last accepted frame must not be offered more until
    /// [`Lane::on_writable`](crate::Lane::on_writable). The subscription of the first frame that was not
    /// accepted is blocked in any case.
    pub is_blocked: bool,
}

/// The session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkClosed;

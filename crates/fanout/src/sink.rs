//! One session's way out.

use bytes::Bytes;

/// Takes the frames of one session; owned by its lane's thread.
///
/// `offer` must not call into the lane: the lane is in the middle of a walk. What it has to say to
/// its session it says by its answer, or leaves for the session's own task.
pub trait FrameSink {
    /// Offers all that is due to the session in one turn of the lane, in order: to be brought away by
    /// as few writes as can be. The outlet takes as many frames from the front as it can bring away or
    /// hold; of those it took none is offered again, and those it did not take it must forget.
    ///
    /// An outlet with a way of its own for each subscription ends at the first that is blocked: the
    /// runs behind it are offered again at once, without it.
    ///
    /// # Errors
    /// [`SinkClosed`] when the session is over: the lane forgets the session and all its subscriptions.
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed>;
}

/// Frames of one subscription, in order; may be none. Several in a row may be of the same.
#[derive(Clone, Copy, Debug)]
pub struct FrameRun<'a> {
    /// Whose they are: what the subscription was made with.
    pub token: u32,
    /// Whole frames, shared with every other session that gets them.
    pub frames: &'a [Bytes],
    /// The same in one piece, where several sessions get several of them.
    pub concatenated: Option<&'a Bytes>,
}

impl<'a> FrameRun<'a> {
    /// All that is in it, in as few pieces as there are.
    pub fn pieces(&self) -> impl Iterator<Item = &'a Bytes> + use<'a> {
        let frames = if self.concatenated.is_some() { &[] } else { self.frames };
        self.concatenated.into_iter().chain(frames)
    }
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferOutcome {
    /// How many frames, from the first and over all runs, are now the outlet's business.
    pub accepted: usize,
    /// Whether the subscription of the last that was taken must not be offered more until
    /// [`Lane::on_writable`](crate::Lane::on_writable). Whatever is said here, that holds for the one whose
    /// frame was the first not to be taken.
    pub is_blocked: bool,
}

/// The session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkClosed;

//! One session's way out.

use bytes::Bytes;

/// Takes the frames of one session; owned by its lane's thread.
///
/// `offer` must not call into the lane: the lane is in the middle of a walk. What it has to say to
/// its session it says by its answer, or leaves for the session's own task.
pub trait Outlet {
    /// Offers frames of the subscription `token`, in order. The outlet takes as many from the front
    /// as it can bring away or hold; of those it took none is offered again, and those it did not
    /// take it must forget.
    ///
    /// # Errors
    /// [`Closed`] when the session is over: the lane forgets the session and all its subscriptions.
    fn offer(&mut self, token: u32, frames: &[Bytes]) -> Result<Offered, Closed>;
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// How many frames, from the first, are now the outlet's business.
    pub taken: usize,
    /// Whether this subscription must not be offered more until
    /// [`Lane::writable`](crate::Lane::writable). An offer of which not all was taken blocks,
    /// whatever is said here.
    pub blocked: bool,
}

/// The session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

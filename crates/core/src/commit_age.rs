//! How long ago a batch of messages was committed.

use std::time::Duration;

/// The time since the owner committed the oldest message of a batch. It is a difference and not a point in
/// time, because the clocks of two nodes differ by more than a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitAge {
    /// The time that passed.
    pub elapsed: Duration,
    /// Whether this node committed the batch, so that one clock measured the whole time. Otherwise the time on
    /// each link is an estimate: half of the newest round trip.
    pub is_local: bool,
}

//! The control group of a node that does not run, for `pushonce cluster recover`.

use pushonce_consensus::{Capture, Found, GroupId, Offline, OfflineError};

use crate::State;
use crate::machine::Replica;

/// The state at the end of this node's log.
///
/// # Errors
/// As [`Offline::replay`].
pub fn replay(offline: &mut Offline) -> Result<(State, Found), OfflineError> {
    let (mut replica, _) = Replica::new();
    let found = offline.replay(GroupId::CONTROL, &mut replica)?;
    Ok((replica.into_state(), found))
}

/// A state as a snapshot of the group.
pub fn capture(state: &State) -> Capture {
    state.snapshot().into()
}

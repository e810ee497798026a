//! Offline access to the control group on a stopped node, for `pushonce cluster recover`.

use pushonce_consensus::{GroupId, OfflineError, OfflineGroup, OfflineStore, StateSnapshot};

use crate::ControlState;
use crate::replica::ControlReplica;

/// Replays this node's log and returns the state at its end.
///
/// # Errors
/// As [`OfflineStore::replay`].
pub fn replay(offline: &mut OfflineStore) -> Result<(ControlState, OfflineGroup), OfflineError> {
    let (mut replica, _) = ControlReplica::new();
    let found = offline.replay(GroupId::CONTROL, &mut replica)?;
    Ok((replica.into_state(), found))
}

/// Turns a state into a snapshot of the group.
pub fn capture(state: &ControlState) -> StateSnapshot {
    state.snapshot().into()
}

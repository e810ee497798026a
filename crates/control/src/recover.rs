//! The control group of a node that does not run, for `pushonce cluster recover`.

use pushonce_consensus::{GroupId, OfflineError, OfflineGroup, OfflineStore, StateSnapshot};

use crate::ControlState;
use crate::replica::ControlReplica;

/// The state at the end of this node's log.
///
/// # Errors
/// As [`OfflineStore::replay`].
pub fn replay(offline: &mut OfflineStore) -> Result<(ControlState, OfflineGroup), OfflineError> {
    let (mut replica, _) = ControlReplica::new();
    let found = offline.replay(GroupId::CONTROL, &mut replica)?;
    Ok((replica.into_state(), found))
}

/// A state as a snapshot of the group.
pub fn capture(state: &ControlState) -> StateSnapshot {
    state.snapshot().into()
}

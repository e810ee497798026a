//! The state machine of the control group, and the watch that publishes its view.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use pushonce_consensus::{EntryId, GroupId, StateMachine, StateSnapshot};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{ClusterView, VersionRange};
use tokio::sync::watch;

use crate::{ControlCommand, ControlState};

/// The item of the watch of [`ControlHandle::view`](crate::ControlHandle::view).
pub(crate) type SharedClusterView = Option<Arc<ClusterView>>;

/// The replica of this node.
pub(crate) struct ControlReplica {
    state: Arc<ControlState>,
    newest: AppliedState,
    view: watch::Sender<SharedClusterView>,
}

/// The state after the last applied entry, as other tasks read it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedState(Arc<RwLock<Arc<ControlState>>>);

impl AppliedState {
    pub(crate) fn get(&self) -> Arc<ControlState> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: &Arc<ControlState>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clone_from(state);
    }
}

impl ControlReplica {
    pub(crate) fn new() -> (ControlReplica, watch::Receiver<SharedClusterView>) {
        let (view, receiver) = watch::channel(None);
        let (state, newest) = (Arc::default(), AppliedState::default());
        (ControlReplica { state, newest, view }, receiver)
    }

    /// The state after the last applied entry.
    pub(crate) fn into_state(self) -> ControlState {
        Arc::unwrap_or_clone(self.state)
    }

    /// The state after the last applied entry, also later.
    pub(crate) fn applied_state(&self) -> AppliedState {
        self.newest.clone()
    }

    fn replace_state(&mut self, state: ControlState) {
        self.state = Arc::new(state);
        self.newest.set(&self.state);
        self.publish_view();
    }

    /// Publishes the view if its version is new; a command without an effect wakes no watcher.
    fn publish_view(&self) {
        let version = self.state.version();
        self.view.send_if_modified(|current| {
            let known = current.as_ref().map_or(0, |view| view.version);
            if known == version {
                return false;
            }
            *current = self.state.view().map(Arc::new);
            true
        });
    }
}

impl StateMachine for ControlReplica {
    fn apply(&mut self, at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        let (version, command) = ControlCommand::decode(entry)?;
        let mut next = ControlState::clone(&self.state);
        let answer = next.apply(at.index, command);
        // An older build can decode the command that raises the version, but could encode nothing after it.
        VersionRange::readable().ensure_contains(next.cluster_version())?;
        self.replace_state(next);
        Ok(answer.encode(version))
    }

    fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError> {
        ControlCommand::decode(entry).map(drop)
    }

    fn check_snapshot(_: GroupId, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        ControlState::restore(snapshot).map(drop)
    }

    fn snapshot(&self) -> StateSnapshot {
        self.state.snapshot().into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        self.replace_state(ControlState::restore(snapshot)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{BuildInfo, NodeId, Term};

    use super::*;
    use crate::BootstrapCommand;
    use crate::state::state_test::bootstrap_command;

    fn entry(command: &ControlCommand) -> Bytes {
        command.encode(VersionRange::supported().max)
    }

    fn at(index: u64) -> EntryId {
        EntryId { index, term: Term(1) }
    }

    #[test]
    fn view_is_published_once_per_version() {
        let (mut replica, mut view) = ControlReplica::new();
        assert!(view.borrow_and_update().is_none());
        replica.apply(at(3), &entry(&ControlCommand::Bootstrap(bootstrap_command()))).unwrap();
        assert_eq!(view.borrow_and_update().as_ref().map(|view| view.version), Some(3));
        replica.apply(at(4), &entry(&ControlCommand::Bootstrap(bootstrap_command()))).unwrap();
        replica.apply(at(5), &entry(&ControlCommand::Activate(NodeId(9)))).unwrap();
        assert!(!view.has_changed().unwrap());
    }

    #[test]
    fn unreadable_entry_is_an_error_and_changes_nothing() {
        let (mut replica, view) = ControlReplica::new();
        let next = VersionRange::supported().max.next();
        let later = ControlCommand::Bootstrap(bootstrap_command()).encode(next);
        assert!(matches!(replica.apply(at(1), &later), Err(VersionedDecodeError::Unsupported(_))));
        let garbage = Bytes::from_static(b"\x00\x01 what is this");
        assert!(matches!(replica.apply(at(1), &garbage), Err(VersionedDecodeError::Corrupt(_))));
        assert!(view.borrow().is_none());
        assert_eq!(*replica.state, ControlState::default());
    }

    #[test]
    fn replica_halts_when_the_cluster_version_exceeds_its_support() {
        let (mut replica, view) = ControlReplica::new();
        let max = VersionRange::supported().max;
        let mut bootstrap = BootstrapCommand { cluster_version: max, ..bootstrap_command() };
        let supported = VersionRange { min: max, max: max.next() };
        bootstrap.profile.build = BuildInfo { supported, ..BuildInfo::default() };
        replica.apply(at(3), &entry(&ControlCommand::Bootstrap(bootstrap))).unwrap();
        let raise = entry(&ControlCommand::Finalize { to: max.next() });
        assert!(matches!(replica.apply(at(4), &raise), Err(VersionedDecodeError::Unsupported(_))));
        assert_eq!(replica.state.cluster_version(), max, "the command was applied");
        assert_eq!(view.borrow().as_ref().map(|view| view.version), Some(3));
    }

    #[test]
    fn restored_replica_publishes_the_same_view() {
        let (mut replica, view) = ControlReplica::new();
        replica.apply(at(3), &entry(&ControlCommand::Bootstrap(bootstrap_command()))).unwrap();
        let (mut other, restored) = ControlReplica::new();
        other.restore(&replica.state.snapshot()).unwrap();
        assert_eq!(*view.borrow(), *restored.borrow());
        assert!(other.restore(b"\x07nonsense").is_err());
    }
}

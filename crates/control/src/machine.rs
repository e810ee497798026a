//! The state as the consensus engine sees it, with the watch through which the node sees the state.

use std::sync::Arc;

use bytes::Bytes;
use pushonce_consensus::{At, Capture, Machine};
use pushonce_core::versioned::Unreadable;
use pushonce_core::{ClusterView, VersionRange};
use tokio::sync::watch;

use crate::{Command, State};

/// What [`Control::view`](crate::Control::view) gives.
pub(crate) type View = Option<Arc<ClusterView>>;

/// The replica of this node.
pub(crate) struct Replica {
    state: State,
    view: watch::Sender<View>,
}

impl Replica {
    pub(crate) fn new() -> (Replica, watch::Receiver<View>) {
        let (view, seen) = watch::channel(None);
        (Replica { state: State::default(), view }, seen)
    }

    /// What was applied.
    pub(crate) fn into_state(self) -> State {
        self.state
    }

    /// Only a new version is said: a command that changed nothing wakes nobody.
    fn tell(&self) {
        let version = self.state.version();
        self.view.send_if_modified(|seen| {
            let known = seen.as_ref().map_or(0, |view| view.version);
            if known == version {
                return false;
            }
            *seen = self.state.view().map(Arc::new);
            true
        });
    }
}

impl Machine for Replica {
    fn apply(&mut self, at: At, entry: &Bytes) -> Result<Bytes, Unreadable> {
        let (version, command) = Command::decode(entry)?;
        let mut next = self.state.clone();
        let answer = next.apply(at.index, command);
        // An older build can read the command that raises the version, and could write nothing after it.
        VersionRange::READABLE.accept(next.cluster_version())?;
        self.state = next;
        self.tell();
        Ok(answer.encode(version))
    }

    fn check(entry: &Bytes) -> Result<(), Unreadable> {
        Command::decode(entry).map(drop)
    }

    fn snapshot(&self) -> Capture {
        self.state.snapshot().into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unreadable> {
        self.state = State::restore(snapshot)?;
        self.tell();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Build, NodeId, Term};

    use super::*;
    use crate::Founding;
    use crate::state::state_test::founding;

    fn entry(command: &Command) -> Bytes {
        command.encode(VersionRange::SUPPORTED.max)
    }

    fn at(index: u64) -> At {
        At { index, term: Term(1) }
    }

    #[test]
    fn the_watch_says_each_version_once() {
        let (mut replica, mut view) = Replica::new();
        assert!(view.borrow_and_update().is_none());
        replica.apply(at(3), &entry(&Command::Found(founding()))).unwrap();
        assert_eq!(view.borrow_and_update().as_ref().map(|view| view.version), Some(3));
        replica.apply(at(4), &entry(&Command::Found(founding()))).unwrap();
        replica.apply(at(5), &entry(&Command::Activate(NodeId(9)))).unwrap();
        assert!(!view.has_changed().unwrap());
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_an_error_and_changes_nothing() {
        let (mut replica, view) = Replica::new();
        let next = VersionRange::SUPPORTED.max.next();
        let later = Command::Found(founding()).encode(next);
        assert!(matches!(replica.apply(at(1), &later), Err(Unreadable::Version(_))));
        let garbage = Bytes::from_static(b"\x00\x01 what is this");
        assert!(matches!(replica.apply(at(1), &garbage), Err(Unreadable::Damaged(_))));
        assert!(view.borrow().is_none());
        assert_eq!(replica.state, State::default());
    }

    #[test]
    fn a_build_halts_at_the_raise_to_a_version_that_it_does_not_support() {
        let (mut replica, view) = Replica::new();
        let max = VersionRange::SUPPORTED.max;
        let mut founding = Founding { cluster_version: max, ..founding() };
        let supported = VersionRange { min: max, max: max.next() };
        founding.profile.build = Build { supported, ..Build::default() };
        replica.apply(at(3), &entry(&Command::Found(founding))).unwrap();
        let raise = entry(&Command::Finalize { to: max.next() });
        assert!(matches!(replica.apply(at(4), &raise), Err(Unreadable::Version(_))));
        assert_eq!(replica.state.cluster_version(), max, "it does not count as applied");
        assert_eq!(view.borrow().as_ref().map(|view| view.version), Some(3));
    }

    #[test]
    fn a_restored_replica_shows_the_same_view() {
        let (mut replica, view) = Replica::new();
        replica.apply(at(3), &entry(&Command::Found(founding()))).unwrap();
        let (mut other, restored) = Replica::new();
        other.restore(&replica.state.snapshot()).unwrap();
        assert_eq!(*view.borrow(), *restored.borrow());
        assert!(other.restore(b"\x07nonsense").is_err());
    }
}

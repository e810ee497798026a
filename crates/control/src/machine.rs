//! The state as the consensus engine sees it, with the watch through which the node sees the state.

use std::sync::Arc;

use bytes::Bytes;
use pushonce_consensus::{At, Capture, Damaged, Machine};
use pushonce_core::ClusterView;
use tokio::sync::watch;

use crate::{Answer, Command, Refusal, State};

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
    fn apply(&mut self, at: At, entry: &Bytes) -> Bytes {
        let answer = match Command::decode(entry) {
            Some(command) => self.state.apply(at.index, command),
            None => Answer::Refused(Refusal::Unreadable),
        };
        self.tell();
        answer.encode()
    }

    fn snapshot(&self) -> Capture {
        self.state.snapshot().into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Damaged> {
        self.state = State::restore(snapshot).ok_or_else(|| {
            Damaged("it is no state of the control group, or one of a newer version".to_owned())
        })?;
        self.tell();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{NodeId, Term};

    use super::*;
    use crate::state::state_test::founding;

    fn at(index: u64) -> At {
        At { index, term: Term(1) }
    }

    #[test]
    fn the_watch_says_each_version_once() {
        let (mut replica, mut view) = Replica::new();
        assert!(view.borrow_and_update().is_none());
        replica.apply(at(3), &Command::Found(founding()).encode());
        assert_eq!(view.borrow_and_update().as_ref().map(|view| view.version), Some(3));
        replica.apply(at(4), &Command::Found(founding()).encode());
        replica.apply(at(5), &Command::Activate(NodeId(9)).encode());
        assert!(!view.has_changed().unwrap());
    }

    #[test]
    fn a_foreign_entry_is_answered_and_changes_nothing() {
        let (mut replica, view) = Replica::new();
        let answer = replica.apply(at(1), &Bytes::from_static(b"\xff what is this"));
        assert_eq!(Answer::decode(&answer), Some(Answer::Refused(Refusal::Unreadable)));
        assert!(view.borrow().is_none());
    }

    #[test]
    fn a_restored_replica_shows_the_same_view() {
        let (mut replica, view) = Replica::new();
        replica.apply(at(3), &Command::Found(founding()).encode());
        let (mut other, restored) = Replica::new();
        other.restore(&replica.state.snapshot()).unwrap();
        assert_eq!(*view.borrow(), *restored.borrow());
        assert!(other.restore(b"\x07nonsense").is_err());
    }
}

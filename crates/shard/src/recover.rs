//! The group of a shard on a node that does not run, for `pushonce cluster recover`.

use bytes::Bytes;
use pushonce_consensus::{At, Capture, Found, GroupId, Machine, Offline, OfflineError};
use pushonce_core::ShardId;
use pushonce_core::versioned::Unreadable;

use crate::{Batch, State};

/// Applies a log without an owner.
struct Replay {
    state: State,
}

impl Machine for Replay {
    fn apply(&mut self, at: At, entry: &Bytes) -> Result<Bytes, Unreadable> {
        let (version, batch) = Batch::decode(entry)?;
        self.state.adopt(version);
        self.state.apply(at.index, batch);
        Ok(Bytes::new())
    }

    fn check(entry: &Bytes) -> Result<(), Unreadable> {
        Batch::decode(entry).map(drop)
    }

    fn snapshot(&self) -> Capture {
        capture(self.state.clone())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unreadable> {
        self.state = State::restore(snapshot)?;
        Ok(())
    }
}

/// The state at the end of this node's log.
///
/// # Errors
/// As [`Offline::replay`]; an entry that this build cannot read is an error, too.
pub fn replay(offline: &mut Offline, shard: ShardId) -> Result<(State, Found), OfflineError> {
    let mut replay = Replay { state: State::new(shard) };
    let found = offline.replay(GroupId::shard(shard), &mut replay)?;
    Ok((replay.state, found))
}

/// A state as a snapshot of the group.
pub fn capture(state: State) -> Capture {
    Capture::new(move |to| state.encode(to))
}

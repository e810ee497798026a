//! The group of a shard on a node that does not run, for `pushonce cluster recover`.

use bytes::Bytes;
use pushonce_consensus::{At, Capture, Damaged, Found, GroupId, Machine, Offline, OfflineError};
use pushonce_core::ShardId;

use crate::{Batch, InvalidEntry, State};

/// Applies a log without an owner, and remembers the first entry that it cannot read.
struct Replay {
    state: State,
    unreadable: Option<(u64, InvalidEntry)>,
}

impl Machine for Replay {
    fn apply(&mut self, at: At, entry: &Bytes) -> Bytes {
        match Batch::decode(entry) {
            Ok(batch) => drop(self.state.apply(at.index, batch)),
            Err(why) => drop(self.unreadable.get_or_insert((at.index, why))),
        }
        Bytes::new()
    }

    fn snapshot(&self) -> Capture {
        capture(self.state.clone())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Damaged> {
        self.state = State::restore(snapshot).map_err(|why| Damaged(why.to_string()))?;
        Ok(())
    }
}

/// The state at the end of this node's log.
///
/// # Errors
/// As [`Offline::replay`]; an entry that this version cannot read is an error, too.
pub fn replay(offline: &mut Offline, shard: ShardId) -> Result<(State, Found), OfflineError> {
    let mut replay = Replay { state: State::new(shard), unreadable: None };
    let group = GroupId::shard(shard);
    let found = offline.replay(group, &mut replay)?;
    match replay.unreadable {
        Some((index, why)) => {
            Err(OfflineError::Unreadable { group, why: format!("entry {index}: {why}") })
        }
        None => Ok((replay.state, found)),
    }
}

/// A state as a snapshot of the group.
pub fn capture(state: State) -> Capture {
    Capture::new(move |to| state.encode(to))
}

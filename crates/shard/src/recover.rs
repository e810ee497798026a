//! Offline access to the group of a shard on a stopped node, for `pushonce cluster recover`.

use bytes::Bytes;
use pushonce_consensus::{
    EntryId, GroupId, OfflineError, OfflineGroup, OfflineStore, StateMachine, StateSnapshot,
};
use pushonce_core::ShardId;
use pushonce_core::versioned::VersionedDecodeError;

use crate::{EntryBatch, ShardState};

/// Applies a log without an owner.
struct ReplayMachine {
    state: ShardState,
}

impl StateMachine for ReplayMachine {
    fn apply(&mut self, at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        let (version, batch) = EntryBatch::decode(entry)?;
        self.state.raise_version(version);
        self.state.apply(at.index, batch);
        Ok(Bytes::new())
    }

    fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError> {
        EntryBatch::decode(entry).map(drop)
    }

    fn check_snapshot(_: GroupId, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        ShardState::restore(snapshot).map(drop)
    }

    fn snapshot(&self) -> StateSnapshot {
        capture(self.state.clone())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        self.state = ShardState::restore(snapshot)?;
        Ok(())
    }
}

/// Replays this node's log and returns the state at its end.
///
/// # Errors
/// As [`OfflineStore::replay`]; also an entry that this build cannot read.
pub fn replay(
    offline: &mut OfflineStore,
    shard: ShardId,
) -> Result<(ShardState, OfflineGroup), OfflineError> {
    let mut machine = ReplayMachine { state: ShardState::new(shard) };
    let found = offline.replay(GroupId::shard(shard), &mut machine)?;
    Ok((machine.state, found))
}

/// Turns a state into a snapshot of the group.
pub fn capture(state: ShardState) -> StateSnapshot {
    StateSnapshot::new(move |to| state.encode(to))
}

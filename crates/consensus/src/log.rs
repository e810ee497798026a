//! The log of one group: in memory until it is purged, on disk through the writer.
//!
//! An append is readable before it is durable and acknowledged after: openraft replicates what was submitted
//! and counts what was flushed. Votes and truncations wait for the disk.

pub(crate) mod consistency;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use pushonce_core::FailPoint;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::offline::StoredLog;
use crate::snapshot::{self, SnapshotTransfers};
use crate::store::{self, GroupWriter, StoreChange, StoreKey, StoredGroup, WriteCompletion};
use crate::types::{LogEntry, LogId, TypeConfig, Vote};
use crate::{ConsensusSettings, GroupId};

/// The log of a group. Clones share it.
#[derive(Clone)]
pub(crate) struct RaftLog(Arc<RaftLogShared>);

struct RaftLogShared {
    writer: GroupWriter,
    memory: Mutex<InMemoryLog>,
    append_bytes_max: u64,
    log_bytes_max: u64,
    /// Bytes of the newest snapshot on disk.
    snapshot_bytes: Arc<AtomicU64>,
    /// The snapshots that are being sent.
    transfers: SnapshotTransfers,
    compaction_due: Notify,
}

/// How much the log of a group may grow beyond the usual threshold while its snapshot is sent to a replica,
/// unless the snapshot is larger. A new snapshot would restart the transfer, and the log behind the old one,
/// which the replica needs next, would be purged: under steady load the replica would never catch up. Beyond
/// this limit the memory is worth more than the transfer.
const TRANSFER_EXTRA_BYTES: u64 = 16 << 20;

#[derive(Default)]
struct InMemoryLog {
    entries: VecDeque<CachedEntry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// `committed` was not written to disk yet: it is written with the next append. A shard loses nothing if
    /// it is lost in a crash, because the next leader sends it again; a separate write would cost an fsync
    /// for each entry. The control group writes it at once: it has few entries, and after a restart nodes act
    /// on its committed entries before any leader answers.
    committed_is_dirty: bool,
    /// Bytes appended since compaction was last requested.
    appended_bytes: u64,
}

struct CachedEntry {
    entry: LogEntry,
    bytes: u64,
}

impl RaftLog {
    /// Restores the log from disk, if each record is valid and all of them are consistent.
    ///
    /// # Errors
    /// `InvalidData` with the inconsistency.
    pub(crate) fn restore(
        writer: GroupWriter,
        stored: &StoredGroup,
        settings: &ConsensusSettings,
    ) -> io::Result<RaftLog> {
        let memory = InMemoryLog::restore(writer.group(), stored)?;
        Ok(RaftLog(Arc::new(RaftLogShared {
            writer,
            memory: Mutex::new(memory),
            append_bytes_max: settings.append_bytes_max,
            log_bytes_max: settings.log_bytes_max,
            snapshot_bytes: Arc::default(),
            transfers: SnapshotTransfers::new(settings.snapshot_timeout),
            compaction_due: Notify::new(),
        })))
    }

    /// The current vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.memory().vote
    }

    /// The last log entry, or the last purged one if the log is empty.
    pub(crate) fn last_log_id(&self) -> Option<LogId> {
        self.memory().last_log_id()
    }

    /// The last entry that is known to be committed.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.memory().committed
    }

    /// The entry at an index, if the log holds it.
    pub(crate) fn log_id_at(&self, index: u64) -> Option<LogId> {
        let memory = self.memory();
        let first = memory.entries.front()?.entry.log_id.index;
        let position = usize::try_from(index.checked_sub(first)?).ok()?;
        memory.entries.get(position).map(|held| held.entry.log_id)
    }

    /// Whether this replica had promised to follow another node when it was last written, and may be part of
    /// that leader's lease.
    pub(crate) fn follows_another(&self, me: u64) -> bool {
        self.memory().vote.is_some_and(|vote| vote.committed && vote.leader_id.voted_for != me)
    }

    /// Waits until the log has grown enough to be compacted.
    pub(crate) async fn wait_compaction_due(&self) {
        self.0.compaction_due.notified().await;
    }

    /// The last entry to purge when all entries up to `snapshot` are in a snapshot and `keep` bytes of
    /// entries before it must be kept. `None` when there is nothing to purge.
    pub(crate) fn purge_target(&self, snapshot: u64, keep: u64) -> Option<u64> {
        let memory = self.memory();
        let mut kept = 0;
        memory
            .entries
            .iter()
            .rev()
            .skip_while(|held| held.entry.log_id.index > snapshot)
            .find(|held| {
                kept += held.bytes;
                kept > keep
            })
            .map(|held| held.entry.log_id.index)
    }

    /// The counter in which the size of each new snapshot is stored.
    pub(crate) fn snapshot_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.snapshot_bytes)
    }

    /// The snapshots of this group that are being sent. They delay compaction.
    pub(crate) fn transfers(&self) -> SnapshotTransfers {
        self.0.transfers.clone()
    }

    fn memory(&self) -> MutexGuard<'_, InMemoryLog> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode_record<T: serde::Serialize>(&self, value: &T) -> io::Result<bytes::Bytes> {
        self.0.writer.encode_record(value)
    }

    /// Encodes entries, makes them readable and returns the changes to write.
    fn append_to_memory(
        &self,
        entries: impl IntoIterator<Item = LogEntry>,
    ) -> io::Result<Vec<StoreChange>> {
        let mut memory = self.memory();
        let mut changes = Vec::new();
        for entry in entries {
            let record = self.encode_record(&entry)?;
            changes.push(StoreChange::Append { index: entry.log_id.index, record: record.clone() });
            memory.push(entry, record.len() as u64)?;
        }
        if memory.committed_is_dirty {
            memory.committed_is_dirty = false;
            changes.push(StoreChange::Set {
                key: StoreKey::Committed,
                record: self.encode_record(&memory.committed)?,
            });
        }
        // A snapshot costs its own size: it is taken only after the log has grown by as much, so that the
        // disk writes at most about twice the published bytes.
        let snapshot = self.0.snapshot_bytes.load(Ordering::Relaxed);
        let threshold = self.0.log_bytes_max.max(snapshot);
        let is_sending = || self.0.transfers.is_any_running(Instant::now());
        if memory.appended_bytes >= threshold
            && (memory.appended_bytes >= threshold + TRANSFER_EXTRA_BYTES.max(snapshot)
                || !is_sending())
        {
            memory.appended_bytes = 0;
            self.0.compaction_due.notify_one();
        }
        Ok(changes)
    }
}

/// Reads and checks the vote and the entries of a group that does not run.
pub(crate) fn read_stored(group: GroupId, stored: &StoredGroup) -> io::Result<StoredLog> {
    let InMemoryLog { vote, entries, .. } = InMemoryLog::restore(group, stored)?;
    Ok(StoredLog { vote, entries: entries.into_iter().map(|held| held.entry).collect() })
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let (start, end) = half_open_bounds(&range);
        Ok(self.memory().range(start, end).map(|held| held.entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        let max = self.0.append_bytes_max;
        let mut bytes = 0;
        let memory = self.memory();
        let entries = memory.range(start, end).enumerate().map_while(|(n, held)| {
            bytes += held.bytes;
            // At least one entry, or replication would not progress.
            (n == 0 || bytes <= max).then(|| held.entry.clone())
        });
        Ok(entries.collect())
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = RaftLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.memory();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> RaftLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let record = self.encode_record(vote)?;
        self.0.writer.write(vec![StoreChange::Set { key: StoreKey::Vote, record }]).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let needs_write = {
            let mut memory = self.memory();
            let changed = memory.committed != committed;
            let at_once = self.0.writer.group() == GroupId::CONTROL
                && !FailPoint::CommitMarkVolatile.is_active()
                && !FailPoint::OutdatedSettingsApplied.is_active();
            memory.committed = committed;
            memory.committed_is_dirty |= changed && !at_once;
            changed && at_once
        };
        if needs_write {
            let record = self.encode_record(&committed)?;
            self.0
                .writer
                .write(vec![StoreChange::Set { key: StoreKey::Committed, record }])
                .await?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.memory().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let changes = self.append_to_memory(entries)?;
        self.0.writer.submit(changes, WriteCompletion::RaftCallback(callback)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index.saturating_add(1));
        self.memory().truncate(from);
        self.0.writer.write(vec![StoreChange::Truncate { from }]).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let record = self.encode_record(&upto)?;
        self.memory().purge(upto);
        // No need to wait: an entry that reappears after a crash is purged again.
        self.0
            .writer
            .submit(vec![StoreChange::Purge { upto: upto.index, record }], WriteCompletion::Ignore)
            .await
    }
}

impl InMemoryLog {
    fn restore(group: GroupId, stored: &StoredGroup) -> io::Result<InMemoryLog> {
        let mut memory = InMemoryLog {
            purged: stored
                .purged
                .as_deref()
                .map(|record| store::decode_record(group, record))
                .transpose()?,
            vote: stored
                .vote
                .as_deref()
                .map(|record| store::decode_record(group, record))
                .transpose()?,
            committed: stored
                .committed
                .as_deref()
                .map(|record| store::decode_record(group, record))
                .transpose()?
                .flatten(),
            ..InMemoryLog::default()
        };
        for record in &stored.entries {
            memory.push(store::decode_record(group, record)?, record.len() as u64)?;
        }
        consistency::check_consistency(&consistency::LogParts {
            purged: memory.purged,
            committed: memory.committed,
            snapshot: snapshot::last_log_id(group, stored)?,
            entries: memory.entries.iter().map(|held| held.entry.log_id).collect(),
        })?;
        Ok(memory)
    }

    fn push(&mut self, entry: LogEntry, bytes: u64) -> io::Result<()> {
        let index = entry.log_id.index;
        if let Some(last) = self.entries.back()
            && last.entry.log_id.index.checked_add(1) != Some(index)
        {
            let last = last.entry.log_id.index;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {index} does not follow entry {last}"),
            ));
        }
        self.appended_bytes += bytes;
        self.entries.push_back(CachedEntry { entry, bytes });
        Ok(())
    }

    fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|held| held.entry.log_id.index >= from) {
            self.entries.pop_back();
        }
    }

    fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|held| held.entry.log_id.index <= upto.index) {
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
    }

    fn last_log_id(&self) -> Option<LogId> {
        self.entries.back().map(|held| held.entry.log_id).or(self.purged)
    }

    fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &CachedEntry> {
        let first = self.entries.front().map_or(0, |held| held.entry.log_id.index);
        let position = |index: u64| {
            usize::try_from(index.saturating_sub(first))
                .unwrap_or(usize::MAX)
                .min(self.entries.len())
        };
        let from = position(start);
        self.entries.range(from..position(end).max(from))
    }
}

/// Converts a range to its half-open bounds.
fn half_open_bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

#[cfg(test)]
#[path = "log/log_test.rs"]
mod tests;

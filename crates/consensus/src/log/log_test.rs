use std::sync::Arc;

use bytes::Bytes;
use openraft::StorageError;
use openraft::entry::RaftEntry;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::leader_id_std::CommittedLeaderId;
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{ClusterId, NodeId};
use tempfile::TempDir;

use super::*;
use crate::adapter::StateMachineAdapter;
use crate::disk_reserve::DiskReserve;
use crate::snapshot::SnapshotStore;
use crate::store::{RedbStore, StoreWriter};
use crate::types::{ProposalData, SnapshotMeta};
use crate::{EntryId, StateMachine, StateSnapshot};

struct IgnoringMachine;

impl StateMachine for IgnoringMachine {
    fn apply(&mut self, _at: EntryId, _entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        Ok(Bytes::new())
    }

    fn check_entry(_entry: &Bytes) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn check_snapshot(_: GroupId, _: &[u8]) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn snapshot(&self) -> StateSnapshot {
        Bytes::new().into()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        Ok(())
    }
}

struct RedbSuiteBuilder;

impl StoreBuilder<TypeConfig, RaftLog, StateMachineAdapter, TempDir> for RedbSuiteBuilder {
    async fn build(
        &self,
    ) -> Result<(TempDir, RaftLog, StateMachineAdapter), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let writer = open_writer(&dir);
        let (writer, stored) = writer.open(GroupId(1)).await.unwrap();
        let log = RaftLog::restore(writer.clone(), &stored, &ConsensusSettings::lan()).unwrap();
        let snapshot_store = SnapshotStore::restore(writer, &stored, log.snapshot_bytes()).unwrap();
        let adapter = StateMachineAdapter::new(Box::new(IgnoringMachine), Arc::new(snapshot_store));
        Ok((dir, log, adapter))
    }
}

async fn open_log(dir: &TempDir, settings: &ConsensusSettings) -> (RaftLog, GroupWriter) {
    let writer = open_writer(dir);
    let (writer, stored) = writer.open(GroupId(1)).await.unwrap();
    (RaftLog::restore(writer.clone(), &stored, settings).unwrap(), writer)
}

fn open_writer(dir: &TempDir) -> StoreWriter {
    RedbStore::create(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    let disk = RedbStore::open(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    StoreWriter::start(
        disk,
        DiskReserve::new(dir.path(), None, Arc::new(crate::DiskSpace::for_dir)),
        Arc::new(|reason: &str| panic!("{reason}")),
    )
    .unwrap()
}

/// Writes an empty snapshot to disk.
async fn save_empty_snapshot(writer: &StoreWriter, index: u64) {
    let (writer, stored) = writer.open(GroupId(1)).await.unwrap();
    let snapshot_store = SnapshotStore::restore(writer, &stored, Arc::default()).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(entry(index, 0).log_id), ..Default::default() };
    snapshot_store.save(meta, Bytes::new().into()).await.unwrap();
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    let log_id = LogId::new(CommittedLeaderId::new(1), index);
    let data = ProposalData { bytes: vec![7; bytes].into(), essential: false };
    LogEntry::new(log_id, openraft::EntryPayload::Normal(data))
}

async fn append(log: &mut RaftLog, entries: impl IntoIterator<Item = LogEntry>) {
    let (flushed, done) = tokio::sync::oneshot::channel();
    let changes = log.append_to_memory(entries).unwrap();
    log.0.writer.submit(changes, WriteCompletion::Notify(flushed)).await.unwrap();
    done.await.unwrap().unwrap();
}

#[tokio::test]
async fn passes_openraft_log_store_suite() {
    Suite::test_all(RedbSuiteBuilder).await.unwrap();
}

#[tokio::test]
async fn flushed_state_survives_restart() {
    let dir = TempDir::new().unwrap();
    let writer = open_writer(&dir);
    let (one, stored) = writer.open(GroupId(1)).await.unwrap();
    let (two, _) = writer.open(GroupId(2)).await.unwrap();
    let mut log = RaftLog::restore(one, &stored, &ConsensusSettings::lan()).unwrap();
    let mut other =
        RaftLog::restore(two, &StoredGroup::default(), &ConsensusSettings::lan()).unwrap();
    append(&mut log, (0..10).map(|index| entry(index, 100))).await;
    append(&mut other, (0..3).map(|index| entry(index, 100))).await;
    log.save_committed(Some(entry(7, 0).log_id)).await.unwrap();
    append(&mut log, [entry(10, 5)]).await;
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.truncate_after(Some(entry(8, 0).log_id)).await.unwrap();
    save_empty_snapshot(&writer, 2).await;
    log.purge(entry(2, 0).log_id).await.unwrap();
    writer.close().await;

    let (mut log, _) = open_log(&dir, &ConsensusSettings::lan()).await;
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(entry(2, 0).log_id));
    assert_eq!(state.last_log_id, Some(entry(8, 0).log_id));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 1)));
    assert_eq!(log.read_committed().await.unwrap(), Some(entry(7, 0).log_id));
    let entries = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, (3..=8).map(|index| entry(index, 100)).collect::<Vec<_>>());
}

#[tokio::test]
async fn control_group_commit_index_is_durable_before_use() {
    let dir = TempDir::new().unwrap();
    let writer = open_writer(&dir);
    for (group, expected) in [(GroupId::CONTROL, Some(entry(7, 0).log_id)), (GroupId(1), None)] {
        let (own, stored) = writer.open(group).await.unwrap();
        let mut log = RaftLog::restore(own, &stored, &ConsensusSettings::lan()).unwrap();
        append(&mut log, (0..10).map(|index| entry(index, 100))).await;
        log.save_committed(Some(entry(7, 0).log_id)).await.unwrap();
        // No other append follows.
        let (own, stored) = writer.open(group).await.unwrap();
        let mut log = RaftLog::restore(own, &stored, &ConsensusSettings::lan()).unwrap();
        assert_eq!(log.read_committed().await.unwrap(), expected, "{group}");
    }
    writer.close().await;
}

#[tokio::test]
async fn destroyed_group_keeps_only_its_vote_and_rejects_writes() {
    let dir = TempDir::new().unwrap();
    let writer = open_writer(&dir);
    let (one, stored) = writer.open(GroupId(1)).await.unwrap();
    let (two, _) = writer.open(GroupId(2)).await.unwrap();
    let mut log = RaftLog::restore(one, &stored, &ConsensusSettings::lan()).unwrap();
    let mut other = RaftLog::restore(two, &stored, &ConsensusSettings::lan()).unwrap();
    append(&mut log, [entry(0, 1)]).await;
    append(&mut other, [entry(0, 1)]).await;
    log.save_vote(&Vote::new(3, 1)).await.unwrap();

    writer.destroy(GroupId(1)).await.unwrap();
    assert!(log.save_vote(&Vote::new(4, 1)).await.is_err(), "a destroyed group accepted a write");
    let remaining = writer.open(GroupId(1)).await.unwrap().1;
    assert!(remaining.vote.is_some() && remaining.removed.is_some());
    assert_eq!(StoredGroup { vote: None, removed: None, ..remaining }, StoredGroup::default());
    assert_eq!(writer.open(GroupId(2)).await.unwrap().1.entries.len(), 1);
}

#[tokio::test]
async fn restore_rejects_damaged_entry() {
    let dir = TempDir::new().unwrap();
    let (mut log, writer) = open_log(&dir, &ConsensusSettings::lan()).await;
    append(&mut log, [entry(0, 10)]).await;
    let record = Bytes::from_static(b"not a record");
    writer.write(vec![StoreChange::Append { index: 1, record }]).await.unwrap();
    let stored = StoredGroup {
        entries: vec![Bytes::from_static(b"not a record")],
        ..StoredGroup::default()
    };
    assert!(RaftLog::restore(writer, &stored, &ConsensusSettings::lan()).is_err());
}

#[tokio::test]
async fn restore_rejects_inconsistent_parts() {
    let dir = TempDir::new().unwrap();
    let writer = open_writer(&dir);
    let (group, stored) = writer.open(GroupId(1)).await.unwrap();
    let mut log = RaftLog::restore(group.clone(), &stored, &ConsensusSettings::lan()).unwrap();
    append(&mut log, (0..10).map(|index| entry(index, 100))).await;
    log.purge(entry(2, 0).log_id).await.unwrap();
    let (_, stored) = writer.open(GroupId(1)).await.unwrap();
    let error =
        RaftLog::restore(group, &stored, &ConsensusSettings::lan()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().starts_with("purged entries are not in the snapshot"), "{error}");
}

#[tokio::test]
async fn append_is_bounded_in_bytes_but_never_empty() {
    let dir = TempDir::new().unwrap();
    let settings = ConsensusSettings { append_bytes_max: 2500, ..ConsensusSettings::lan() };
    let (mut log, _) = open_log(&dir, &settings).await;
    append(&mut log, [entry(0, 9000), entry(1, 1000), entry(2, 1000), entry(3, 1000)]).await;
    assert_eq!(log.limited_get_log_entries(0, 4).await.unwrap().len(), 1);
    assert_eq!(log.limited_get_log_entries(1, 4).await.unwrap().len(), 2);
    assert_eq!(log.limited_get_log_entries(3, 4).await.unwrap().len(), 1);
}

#[tokio::test]
async fn grown_log_requests_compaction_and_keeps_tail() {
    let dir = TempDir::new().unwrap();
    let settings = ConsensusSettings { log_bytes_max: 5000, ..ConsensusSettings::lan() };
    let (mut log, _) = open_log(&dir, &settings).await;
    append(&mut log, (0..6).map(|index| entry(index, 1000))).await;
    log.wait_compaction_due().await;
    assert_eq!(log.purge_target(4, 2500), Some(2));
    assert_eq!(log.purge_target(4, 1 << 20), None);
    assert_eq!(log.purge_target(4, 0), Some(4));
}

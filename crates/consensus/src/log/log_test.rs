use std::sync::Arc;

use bytes::Bytes;
use openraft::StorageError;
use openraft::entry::RaftEntry;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::leader_id_std::CommittedLeaderId;
use pushonce_core::versioned::Unreadable;
use pushonce_core::{ClusterId, NodeId};
use tempfile::TempDir;

use super::*;
use crate::adapter::Adapter;
use crate::snapshot::Shelf;
use crate::space::Space;
use crate::store::{Disk, Writer};
use crate::types::{Data, SnapshotMeta};
use crate::{At, Capture, Machine};

struct Deaf;

impl Machine for Deaf {
    fn apply(&mut self, _at: At, _entry: &Bytes) -> Result<Bytes, Unreadable> {
        Ok(Bytes::new())
    }

    fn check(_entry: &Bytes) -> Result<(), Unreadable> {
        Ok(())
    }

    fn snapshot(&self) -> Capture {
        Bytes::new().into()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), Unreadable> {
        Ok(())
    }
}

struct OnRedb;

impl StoreBuilder<Types, Log, Adapter, TempDir> for OnRedb {
    async fn build(&self) -> Result<(TempDir, Log, Adapter), StorageError<Types>> {
        let dir = TempDir::new().unwrap();
        let writer = writer_in(&dir);
        let (writer, stored) = writer.open(GroupId(1)).await.unwrap();
        let log = Log::restore(writer.clone(), &stored, &Settings::lan()).unwrap();
        let shelf = Shelf::restore(writer, &stored, log.snapshot_bytes()).unwrap();
        let adapter = Adapter::new(Box::new(Deaf), Arc::new(shelf));
        Ok((dir, log, adapter))
    }
}

async fn log_in(dir: &TempDir, settings: &Settings) -> (Log, GroupWriter) {
    let writer = writer_in(dir);
    let (writer, stored) = writer.open(GroupId(1)).await.unwrap();
    (Log::restore(writer.clone(), &stored, settings).unwrap(), writer)
}

fn writer_in(dir: &TempDir) -> Writer {
    Disk::create(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    let disk = Disk::open(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    Writer::start(
        disk,
        Space::new(dir.path(), None, Arc::new(crate::Room::of)),
        Arc::new(|why: &str| panic!("{why}")),
    )
    .unwrap()
}

/// Puts an empty snapshot on disk.
async fn snapshot_at(writer: &Writer, index: u64) {
    let (writer, stored) = writer.open(GroupId(1)).await.unwrap();
    let shelf = Shelf::restore(writer, &stored, Arc::default()).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(entry(index, 0).log_id), ..Default::default() };
    shelf.save(meta, Bytes::new().into()).await.unwrap();
}

fn entry(index: u64, bytes: usize) -> Entry {
    let log_id = LogId::new(CommittedLeaderId::new(1), index);
    let data = Data { bytes: vec![7; bytes].into(), essential: false };
    Entry::new(log_id, openraft::EntryPayload::Normal(data))
}

async fn append(log: &mut Log, entries: impl IntoIterator<Item = Entry>) {
    let (flushed, done) = tokio::sync::oneshot::channel();
    let changes = log.take(entries).unwrap();
    log.0.writer.submit(changes, Done::Told(flushed)).await.unwrap();
    done.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_redb_store_passes_openrafts_own_suite() {
    Suite::test_all(OnRedb).await.unwrap();
}

#[tokio::test]
async fn what_was_flushed_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let writer = writer_in(&dir);
    let (one, stored) = writer.open(GroupId(1)).await.unwrap();
    let (two, _) = writer.open(GroupId(2)).await.unwrap();
    let mut log = Log::restore(one, &stored, &Settings::lan()).unwrap();
    let mut other = Log::restore(two, &Stored::default(), &Settings::lan()).unwrap();
    append(&mut log, (0..10).map(|index| entry(index, 100))).await;
    append(&mut other, (0..3).map(|index| entry(index, 100))).await;
    log.save_committed(Some(entry(7, 0).log_id)).await.unwrap();
    append(&mut log, [entry(10, 5)]).await;
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.truncate_after(Some(entry(8, 0).log_id)).await.unwrap();
    snapshot_at(&writer, 2).await;
    log.purge(entry(2, 0).log_id).await.unwrap();
    writer.close().await;

    let (mut log, _) = log_in(&dir, &Settings::lan()).await;
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(entry(2, 0).log_id));
    assert_eq!(state.last_log_id, Some(entry(8, 0).log_id));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 1)));
    assert_eq!(log.read_committed().await.unwrap(), Some(entry(7, 0).log_id));
    let entries = log.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, (3..=8).map(|index| entry(index, 100)).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_control_groups_commit_mark_is_on_disk_before_it_is_acted_on() {
    let dir = TempDir::new().unwrap();
    let writer = writer_in(&dir);
    for (group, expected) in [(GroupId::CONTROL, Some(entry(7, 0).log_id)), (GroupId(1), None)] {
        let (own, stored) = writer.open(group).await.unwrap();
        let mut log = Log::restore(own, &stored, &Settings::lan()).unwrap();
        append(&mut log, (0..10).map(|index| entry(index, 100))).await;
        log.save_committed(Some(entry(7, 0).log_id)).await.unwrap();
        // No other append follows.
        let (own, stored) = writer.open(group).await.unwrap();
        let mut log = Log::restore(own, &stored, &Settings::lan()).unwrap();
        assert_eq!(log.read_committed().await.unwrap(), expected, "{group}");
    }
    writer.close().await;
}

#[tokio::test]
async fn a_destroyed_group_leaves_its_vote_alone_and_takes_nothing_more() {
    let dir = TempDir::new().unwrap();
    let writer = writer_in(&dir);
    let (one, stored) = writer.open(GroupId(1)).await.unwrap();
    let (two, _) = writer.open(GroupId(2)).await.unwrap();
    let mut log = Log::restore(one, &stored, &Settings::lan()).unwrap();
    let mut other = Log::restore(two, &stored, &Settings::lan()).unwrap();
    append(&mut log, [entry(0, 1)]).await;
    append(&mut other, [entry(0, 1)]).await;
    log.save_vote(&Vote::new(3, 1)).await.unwrap();

    writer.destroy(GroupId(1)).await.unwrap();
    assert!(log.save_vote(&Vote::new(4, 1)).await.is_err(), "a leftover still wrote");
    let left = writer.open(GroupId(1)).await.unwrap().1;
    assert!(left.vote.is_some() && left.left.is_some());
    assert_eq!(Stored { vote: None, left: None, ..left }, Stored::default());
    assert_eq!(writer.open(GroupId(2)).await.unwrap().1.entries.len(), 1);
}

#[tokio::test]
async fn a_damaged_entry_is_refused_at_the_start() {
    let dir = TempDir::new().unwrap();
    let (mut log, writer) = log_in(&dir, &Settings::lan()).await;
    append(&mut log, [entry(0, 10)]).await;
    let record = Bytes::from_static(b"no such record");
    writer.write(vec![Change::Append { index: 1, record }]).await.unwrap();
    let stored =
        Stored { entries: vec![Bytes::from_static(b"no such record")], ..Stored::default() };
    assert!(Log::restore(writer, &stored, &Settings::lan()).is_err());
}

#[tokio::test]
async fn parts_that_do_not_fit_together_are_refused_at_the_start() {
    let dir = TempDir::new().unwrap();
    let writer = writer_in(&dir);
    let (group, stored) = writer.open(GroupId(1)).await.unwrap();
    let mut log = Log::restore(group.clone(), &stored, &Settings::lan()).unwrap();
    append(&mut log, (0..10).map(|index| entry(index, 100))).await;
    log.purge(entry(2, 0).log_id).await.unwrap();
    let (_, stored) = writer.open(GroupId(1)).await.unwrap();
    let why = Log::restore(group, &stored, &Settings::lan()).map(|_| ()).unwrap_err();
    assert_eq!(why.kind(), io::ErrorKind::InvalidData);
    assert!(why.to_string().starts_with("entries were dropped that no snapshot holds"), "{why}");
}

#[tokio::test]
async fn an_append_to_a_peer_is_bounded_in_bytes_but_never_empty() {
    let dir = TempDir::new().unwrap();
    let settings = Settings { append_bytes_max: 2500, ..Settings::lan() };
    let (mut log, _) = log_in(&dir, &settings).await;
    append(&mut log, [entry(0, 9000), entry(1, 1000), entry(2, 1000), entry(3, 1000)]).await;
    assert_eq!(log.limited_get_log_entries(0, 4).await.unwrap().len(), 1);
    assert_eq!(log.limited_get_log_entries(1, 4).await.unwrap().len(), 2);
    assert_eq!(log.limited_get_log_entries(3, 4).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_log_that_has_grown_asks_for_compaction_and_keeps_a_tail() {
    let dir = TempDir::new().unwrap();
    let settings = Settings { log_bytes_max: 5000, ..Settings::lan() };
    let (mut log, _) = log_in(&dir, &settings).await;
    append(&mut log, (0..6).map(|index| entry(index, 1000))).await;
    log.grown().await;
    assert_eq!(log.purge_target(4, 2500), Some(2));
    assert_eq!(log.purge_target(4, 1 << 20), None);
    assert_eq!(log.purge_target(4, 0), Some(4));
}

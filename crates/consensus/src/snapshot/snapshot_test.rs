use openraft::vote::leader_id_std::CommittedLeaderId;
use pushonce_core::{ClusterId, NodeId};
use tempfile::TempDir;

use super::*;
use crate::GroupId;
use crate::disk_reserve::DiskReserve;
use crate::store::{RedbStore, StoreWriter};

const GROUP: GroupId = GroupId(4);

struct SnapshotRig {
    dir: TempDir,
    writer: StoreWriter,
    snapshot_store: SnapshotStore,
}

async fn rig() -> SnapshotRig {
    let dir = TempDir::new().unwrap();
    RedbStore::create(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    open_in(dir).await
}

async fn open_in(dir: TempDir) -> SnapshotRig {
    let disk = RedbStore::open(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    let writer = StoreWriter::start(
        disk,
        DiskReserve::new(dir.path(), None, Arc::new(crate::DiskSpace::for_dir)),
        Arc::new(|reason: &str| panic!("{reason}")),
    )
    .unwrap();
    let (group, stored) = writer.open(GROUP).await.unwrap();
    let snapshot_store = SnapshotStore::restore(group, &stored, Arc::default()).unwrap();
    SnapshotRig { dir, writer, snapshot_store }
}

impl SnapshotRig {
    /// The generations that have pieces, after all queued writes.
    async fn generations(&self) -> Vec<u64> {
        self.writer.open(GROUP).await.unwrap().1.generations
    }

    async fn restart(self) -> SnapshotRig {
        let SnapshotRig { dir, writer, snapshot_store } = self;
        writer.close().await;
        drop(snapshot_store);
        open_in(dir).await
    }
}

fn meta(index: u64) -> SnapshotMeta {
    let last_log_id = Some(LogId::new(CommittedLeaderId::new(1), index));
    SnapshotMeta { last_log_id, ..SnapshotMeta::default() }
}

/// Four distinct pieces.
fn state(seed: u8) -> Bytes {
    (0..PIECE_BYTES * 3 + 1000).map(|at| (at / 100) as u8 ^ seed).collect()
}

#[tokio::test]
async fn state_is_read_back_from_pieces_before_and_after_restart() {
    let rig = rig().await;
    assert!(rig.snapshot_store.current().await.is_none());
    let snapshot = rig.snapshot_store.save(meta(5), state(1).into()).await.unwrap();
    assert_eq!(
        (snapshot.piece_count(), snapshot.read_all().await.unwrap()),
        (4, state(1).to_vec())
    );
    drop(snapshot);
    let rig = rig.restart().await;
    let snapshot = rig.snapshot_store.current().await.unwrap();
    assert_eq!(
        (snapshot.meta(), snapshot.read_all().await.unwrap()),
        (&meta(5), state(1).to_vec())
    );
    let size = rig.snapshot_store.bytes.load(Ordering::Relaxed);
    assert!(size > state(1).len() as u64, "the size of the snapshot was not recorded");
}

#[tokio::test]
async fn empty_state_is_saved_as_snapshot() {
    let rig = rig().await;
    let snapshot = rig.snapshot_store.save(meta(1), Bytes::new().into()).await.unwrap();
    assert_eq!((snapshot.piece_count(), snapshot.read_all().await.unwrap()), (0, vec![]));
    assert!(rig.restart().await.snapshot_store.current().await.is_some());
}

#[tokio::test]
async fn replaced_snapshot_stays_readable_until_dropped() {
    let rig = rig().await;
    let old = rig.snapshot_store.save(meta(5), state(1).into()).await.unwrap();
    rig.snapshot_store.save(meta(9), state(2).into()).await.unwrap();
    assert_eq!(old.read_all().await.unwrap(), state(1));
    assert_eq!(rig.generations().await, [1, 2]);
    drop(old);
    assert_eq!(rig.generations().await, [2]);
}

#[tokio::test]
async fn older_snapshot_never_replaces_newer_one() {
    let rig = rig().await;
    rig.snapshot_store.save(meta(9), state(2).into()).await.unwrap();
    let late = rig.snapshot_store.save(meta(5), state(1).into()).await.unwrap();
    assert_eq!(late.meta(), &meta(9));
    assert_eq!(rig.generations().await, [1]);
}

#[tokio::test]
async fn incomplete_snapshot_is_never_used_and_is_removed() {
    let rig = rig().await;
    let whole = rig.snapshot_store.save(meta(5), state(1).into()).await.unwrap();
    let cut = |to: &mut dyn Write| {
        to.write_all(&state(2))?;
        Err(io::Error::other("the encoder failed"))
    };
    assert!(rig.snapshot_store.save(meta(8), StateSnapshot::new(cut)).await.is_err());
    assert_eq!(rig.generations().await, [1]);

    // A snapshot from a peer is incomplete when the node stops.
    let mut partial = rig.snapshot_store.begin_snapshot(meta(9));
    partial.add_data(b"one").await.unwrap();
    partial.add_data(b"two").await.unwrap();
    assert_eq!(rig.generations().await, [1, 3]);
    drop(whole);
    let SnapshotRig { dir, writer, snapshot_store } = rig;
    writer.close().await;
    drop((partial, snapshot_store));
    let rig = open_in(dir).await;
    assert_eq!(rig.snapshot_store.current().await.unwrap().read_all().await.unwrap(), state(1));
    assert_eq!(rig.generations().await, [1]);
    let next = rig.snapshot_store.save(meta(9), state(2).into()).await.unwrap();
    assert_eq!(next.manifest.generation, 4, "a generation was assigned twice");
}

#[tokio::test]
async fn piece_is_accepted_only_in_order_and_undamaged() {
    let (leader, follower) = (rig().await, rig().await);
    let snapshot = leader.snapshot_store.save(meta(5), state(1).into()).await.unwrap();
    let (first, second) =
        (snapshot.read_piece(0).await.unwrap(), snapshot.read_piece(1).await.unwrap());
    let mut partial = follower.snapshot_store.begin_snapshot(meta(5));
    assert!(partial.add_record(second.clone()).await.is_err(), "out of order");
    partial.add_record(first.clone()).await.unwrap();
    let mut flipped = second.to_vec();
    flipped[100_000] ^= 1;
    assert!(partial.add_record(flipped.into()).await.is_err(), "damaged");
    assert!(
        follower.snapshot_store.begin_snapshot(meta(6)).add_record(first).await.is_err(),
        "of another snapshot"
    );
    for number in 1..snapshot.piece_count() {
        partial.add_record(snapshot.read_piece(number).await.unwrap()).await.unwrap();
    }
    let arrived = follower.snapshot_store.make_current(partial.finish()).await.unwrap();
    assert_eq!(arrived.read_all().await.unwrap(), state(1));
}

#[tokio::test]
async fn publish_waits_for_at_most_one_piece() {
    let rig = rig().await;
    let (group, _) = rig.writer.open(GROUP).await.unwrap();
    let state = Bytes::from(vec![7; PIECE_BYTES * 80]);
    let mut saving = std::pin::pin!(rig.snapshot_store.save(meta(5), state.into()));
    let vote =
        || vec![StoreChange::Set { key: StoreKey::Vote, record: Bytes::from_static(b"vote") }];
    for between in 0..20 {
        tokio::select! {
            biased;
            written = group.write(vote()) => written.unwrap(),
            saved = &mut saving => {
                saved.unwrap();
                panic!("the whole snapshot was written before {between} others");
            }
        }
    }
    saving.await.unwrap();
}

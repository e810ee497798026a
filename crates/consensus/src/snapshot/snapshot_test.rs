use openraft::vote::leader_id_std::CommittedLeaderId;
use pushonce_core::{ClusterId, NodeId};
use tempfile::TempDir;

use super::*;
use crate::GroupId;
use crate::space::Space;
use crate::store::{Disk, Writer};

const GROUP: GroupId = GroupId(4);

struct Rig {
    dir: TempDir,
    writer: Writer,
    shelf: Shelf,
}

async fn rig() -> Rig {
    let dir = TempDir::new().unwrap();
    Disk::create(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    open_in(dir).await
}

async fn open_in(dir: TempDir) -> Rig {
    let disk = Disk::open(dir.path(), ClusterId(7), NodeId(1)).unwrap();
    let writer = Writer::start(
        disk,
        Space::new(dir.path(), None, Arc::new(crate::Room::of)),
        Arc::new(|why: &str| panic!("{why}")),
    )
    .unwrap();
    let (group, stored) = writer.open(GROUP).await.unwrap();
    let shelf = Shelf::restore(group, &stored, Arc::default()).unwrap();
    Rig { dir, writer, shelf }
}

impl Rig {
    /// The generations of which there are pieces, after what was queued so far.
    async fn generations(&self) -> Vec<u64> {
        self.writer.open(GROUP).await.unwrap().1.generations
    }

    async fn restart(self) -> Rig {
        let Rig { dir, writer, shelf } = self;
        writer.close().await;
        drop(shelf);
        open_in(dir).await
    }
}

fn meta(index: u64) -> SnapshotMeta {
    let last_log_id = Some(LogId::new(CommittedLeaderId::new(1), index));
    SnapshotMeta { last_log_id, ..SnapshotMeta::default() }
}

/// Four pieces, of which no two are equal.
fn state(seed: u8) -> Bytes {
    (0..PIECE_BYTES * 3 + 1000).map(|at| (at / 100) as u8 ^ seed).collect()
}

#[tokio::test]
async fn a_state_comes_back_from_its_pieces_after_a_restart_too() {
    let rig = rig().await;
    assert!(rig.shelf.current().await.is_none());
    let image = rig.shelf.save(meta(5), state(1).into()).await.unwrap();
    assert_eq!((image.pieces(), image.whole().await.unwrap()), (4, state(1).to_vec()));
    drop(image);
    let rig = rig.restart().await;
    let image = rig.shelf.current().await.unwrap();
    assert_eq!((image.meta(), image.whole().await.unwrap()), (&meta(5), state(1).to_vec()));
    let size = rig.shelf.bytes.load(Ordering::Relaxed);
    assert!(size > state(1).len() as u64, "the cadence of snapshots does not know their size");
}

#[tokio::test]
async fn an_empty_state_is_a_snapshot_too() {
    let rig = rig().await;
    let image = rig.shelf.save(meta(1), Bytes::new().into()).await.unwrap();
    assert_eq!((image.pieces(), image.whole().await.unwrap()), (0, vec![]));
    assert!(rig.restart().await.shelf.current().await.is_some());
}

#[tokio::test]
async fn a_new_snapshot_replaces_the_old_one_which_stays_for_whoever_still_reads_it() {
    let rig = rig().await;
    let old = rig.shelf.save(meta(5), state(1).into()).await.unwrap();
    rig.shelf.save(meta(9), state(2).into()).await.unwrap();
    assert_eq!(old.whole().await.unwrap(), state(1));
    assert_eq!(rig.generations().await, [1, 2]);
    drop(old);
    assert_eq!(rig.generations().await, [2]);
}

#[tokio::test]
async fn the_snapshot_never_goes_back() {
    let rig = rig().await;
    rig.shelf.save(meta(9), state(2).into()).await.unwrap();
    let late = rig.shelf.save(meta(5), state(1).into()).await.unwrap();
    assert_eq!(late.meta(), &meta(9));
    assert_eq!(rig.generations().await, [1]);
}

#[tokio::test]
async fn a_snapshot_that_was_cut_short_never_counts_and_is_removed() {
    let rig = rig().await;
    let whole = rig.shelf.save(meta(5), state(1).into()).await.unwrap();
    let cut = |to: &mut dyn Write| {
        to.write_all(&state(2))?;
        Err(io::Error::other("the encoder gave up"))
    };
    assert!(rig.shelf.save(meta(8), Capture::new(cut)).await.is_err());
    assert_eq!(rig.generations().await, [1]);

    // Of a peer's, two pieces had come when the node died.
    let mut draft = rig.shelf.draft(meta(9));
    draft.add(b"one").await.unwrap();
    draft.add(b"two").await.unwrap();
    assert_eq!(rig.generations().await, [1, 3]);
    drop(whole);
    let Rig { dir, writer, shelf } = rig;
    writer.close().await;
    drop((draft, shelf));
    let rig = open_in(dir).await;
    assert_eq!(rig.shelf.current().await.unwrap().whole().await.unwrap(), state(1));
    assert_eq!(rig.generations().await, [1]);
    let next = rig.shelf.save(meta(9), state(2).into()).await.unwrap();
    assert_eq!(next.manifest.generation, 4, "a generation was given out twice");
}

#[tokio::test]
async fn a_piece_is_taken_in_its_place_only_and_only_whole() {
    let (leader, follower) = (rig().await, rig().await);
    let image = leader.shelf.save(meta(5), state(1).into()).await.unwrap();
    let (first, second) = (image.piece(0).await.unwrap(), image.piece(1).await.unwrap());
    let mut draft = follower.shelf.draft(meta(5));
    assert!(draft.take(second.clone()).await.is_err(), "out of its place");
    draft.take(first.clone()).await.unwrap();
    let mut flipped = second.to_vec();
    flipped[100_000] ^= 1;
    assert!(draft.take(flipped.into()).await.is_err(), "damaged");
    assert!(follower.shelf.draft(meta(6)).take(first).await.is_err(), "of another snapshot");
    for number in 1..image.pieces() {
        draft.take(image.piece(number).await.unwrap()).await.unwrap();
    }
    let arrived = follower.shelf.publish(draft.finish()).await.unwrap();
    assert_eq!(arrived.whole().await.unwrap(), state(1));
}

#[tokio::test]
async fn a_publish_waits_for_one_piece_at_most() {
    let rig = rig().await;
    let (group, _) = rig.writer.open(GROUP).await.unwrap();
    let state = Bytes::from(vec![7; PIECE_BYTES * 80]);
    let mut saving = std::pin::pin!(rig.shelf.save(meta(5), state.into()));
    let vote = || vec![Change::Set { key: Key::Vote, record: Bytes::from_static(b"vote") }];
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

//! Snapshots on disk: pieces, each a record of its own, and a manifest that makes them count.
//!
//! A state is encoded on a thread of its own while entries are applied; each piece goes to disk
//! between other commits, so that a publish waits for one piece at most. The manifest comes last and
//! replaces the one before: until then the pieces count for nothing, and what a cut-short snapshot
//! left is removed at the next start. A peer's snapshot arrives in the same pieces and takes the same
//! way. Nobody ever holds the whole but the machine that is restored from it.

pub(crate) mod offline;
mod transfers;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};

use crate::store::{self, GroupWriter, StoreChange, StoreKey, StoredGroup};
use crate::types::{LogId, RaftSnapshot, SnapshotMeta, StoredMembership};
use crate::{GroupId, StateSnapshot};

pub(crate) use transfers::SnapshotTransfers;

/// What one piece holds of the state. With its checksum and its meta it stays under 256 KiB, of
/// which redb would make 512. Twice as much, and a publish would wait twice as long; half as much,
/// and a snapshot would take twice as many commits.
const PIECE_BYTES: usize = 254 << 10;

/// The place of the one snapshot of a group. It never goes back: a snapshot that was taken here may
/// be ready late, when a newer one has come from the leader and the log behind that is gone.
pub(crate) struct SnapshotStore {
    writer: GroupWriter,
    /// The last generation given out. No two snapshots on disk share one.
    generation: AtomicU64,
    /// Bytes of the snapshot on disk, for whoever decides when to take the next.
    bytes: Arc<AtomicU64>,
    /// A piece of the snapshot that counts could not be read.
    is_damaged: Arc<AtomicBool>,
    /// The snapshot that counts. Held while another takes its place.
    current: Mutex<Option<StoredSnapshot>>,
}

/// A snapshot of which pieces are still to come.
pub(crate) struct PartialSnapshot {
    guard: PiecesGuard,
    meta: SnapshotMeta,
    piece_count: u32,
    bytes: u64,
}

/// A snapshot, complete on disk. Its pieces stay as long as somebody has an image of it.
#[derive(Clone)]
pub(crate) struct StoredSnapshot {
    guard: Arc<PiecesGuard>,
    manifest: SnapshotManifest,
}

/// What makes pieces a snapshot.
#[derive(Clone, Serialize, Deserialize)]
struct SnapshotManifest {
    meta: SnapshotMeta,
    generation: u64,
    piece_count: u32,
    /// Of all pieces together, as records.
    bytes: u64,
}

/// Says in each piece where it belongs: one of another snapshot is never taken for it.
#[derive(Serialize, Deserialize)]
struct PieceHeader {
    meta: SnapshotMeta,
    number: u32,
}

/// The pieces of one generation. They go with it, if it does not count (any more).
struct PiecesGuard {
    writer: GroupWriter,
    generation: u64,
    is_current: AtomicBool,
    /// A piece could not be read.
    is_damaged: AtomicBool,
    /// Tells the shelf.
    store_damaged: Arc<AtomicBool>,
}

impl SnapshotStore {
    /// Takes what was on disk, and removes what a snapshot that was cut short has left there.
    pub(crate) fn restore(
        writer: GroupWriter,
        stored: &StoredGroup,
        bytes: Arc<AtomicU64>,
    ) -> io::Result<SnapshotStore> {
        let manifest = stored.snapshot.as_deref();
        let manifest: Option<SnapshotManifest> =
            manifest.map(|record| store::decode_record(writer.group(), record)).transpose()?;
        let current_generation = manifest.as_ref().map(|manifest| manifest.generation);
        for &generation in
            stored.generations.iter().filter(|found| Some(**found) != current_generation)
        {
            writer.delete_pieces(generation);
        }
        let is_damaged = Arc::<AtomicBool>::default();
        let last =
            stored.generations.iter().copied().chain(current_generation).max().unwrap_or_default();
        let current = manifest.map(|manifest| {
            bytes.store(manifest.bytes, Ordering::Relaxed);
            let guard = PiecesGuard::new(&writer, manifest.generation, true, &is_damaged);
            StoredSnapshot { guard: Arc::new(guard), manifest }
        });
        Ok(SnapshotStore {
            writer,
            generation: AtomicU64::new(last),
            bytes,
            is_damaged,
            current: Mutex::new(current),
        })
    }

    /// Nothing that counts yet. What is on disk stays.
    pub(crate) fn empty(
        writer: GroupWriter,
        stored: &StoredGroup,
        bytes: Arc<AtomicU64>,
    ) -> SnapshotStore {
        let last = stored.generations.iter().copied().max().unwrap_or_default();
        SnapshotStore {
            writer,
            generation: AtomicU64::new(last),
            bytes,
            is_damaged: Arc::default(),
            current: Mutex::default(),
        }
    }

    /// Whether a piece of the snapshot was found damaged since this was last asked. Another is to be
    /// taken then.
    pub(crate) fn take_damaged(&self) -> bool {
        self.is_damaged.swap(false, Ordering::Relaxed)
    }

    /// The snapshot that counts.
    pub(crate) async fn current(&self) -> Option<StoredSnapshot> {
        self.current.lock().await.clone()
    }

    /// Begins a snapshot.
    pub(crate) fn begin_snapshot(&self, meta: SnapshotMeta) -> PartialSnapshot {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let guard = PiecesGuard::new(&self.writer, generation, false, &self.is_damaged);
        PartialSnapshot { guard, meta, piece_count: 0, bytes: 0 }
    }

    /// Encodes a state and puts it on disk. Returns when that, or a newer one, is the snapshot that
    /// counts: openraft purges the log behind it.
    pub(crate) async fn save(
        &self,
        meta: SnapshotMeta,
        state: StateSnapshot,
    ) -> io::Result<StoredSnapshot> {
        let mut partial = self.begin_snapshot(meta);
        let (sender, mut pieces) = mpsc::channel(1);
        let encoding = tokio::task::spawn_blocking(move || {
            let mut piece_writer = PieceWriter { buffer: BytesMut::new(), pieces: sender };
            state.encode(&mut piece_writer)?;
            piece_writer.send_piece()
        });
        while let Some(piece) = pieces.recv().await {
            partial.add_data(&piece).await?;
        }
        encoding.await.map_err(io::Error::other)??;
        self.make_current(partial.finish()).await
    }

    /// Makes a snapshot the one that counts, unless a newer one does. Returns the one that does, when
    /// that is durable.
    pub(crate) async fn make_current(
        &self,
        snapshot: StoredSnapshot,
    ) -> io::Result<StoredSnapshot> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref() {
            let is_newer = match current.guard.is_damaged.load(Ordering::Relaxed) {
                true => snapshot.last_log_id() >= current.last_log_id(),
                false => snapshot.last_log_id() > current.last_log_id(),
            };
            if !is_newer {
                return Ok(current.clone());
            }
        }
        let snapshot = if snapshot.guard.writer.targets_same_group(&self.writer) {
            snapshot
        } else {
            self.copy_from(&snapshot).await?
        };
        let record = self.writer.encode_record(&snapshot.manifest)?;
        // Before, not after: whatever becomes of this task, what may count is not removed.
        snapshot.guard.is_current.store(true, Ordering::Relaxed);
        self.writer.write(vec![StoreChange::Set { key: StoreKey::Snapshot, record }]).await?;
        self.bytes.store(snapshot.manifest.bytes, Ordering::Relaxed);
        if let Some(old) = current.replace(snapshot.clone()) {
            old.guard.is_current.store(false, Ordering::Relaxed);
        }
        Ok(snapshot)
    }

    /// The same snapshot in this store.
    async fn copy_from(&self, snapshot: &StoredSnapshot) -> io::Result<StoredSnapshot> {
        let mut partial = self.begin_snapshot(snapshot.meta().clone());
        for number in 0..snapshot.piece_count() {
            partial.add_record(snapshot.read_piece(number).await?).await?;
        }
        Ok(partial.finish())
    }
}

impl PartialSnapshot {
    /// Of what it is to be a snapshot.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// How many pieces are there.
    pub(crate) fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// How many bytes they have.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn add_data(&mut self, data: &[u8]) -> io::Result<()> {
        let header = PieceHeader { meta: self.meta.clone(), number: self.piece_count };
        self.write_piece(self.guard.writer.encode_record_with_data(&header, data)?).await
    }

    /// Adds the next piece as it lies on another disk.
    pub(crate) async fn add_record(&mut self, record: Bytes) -> io::Result<()> {
        decode_piece(&self.guard.writer, &record, &self.meta, self.piece_count)?;
        self.write_piece(record).await
    }

    async fn write_piece(&mut self, record: Bytes) -> io::Result<()> {
        let (number, bytes) = (self.piece_count, record.len() as u64);
        let generation = self.guard.generation;
        self.guard.writer.write_piece(StoreChange::PutPiece { generation, number, record }).await?;
        self.piece_count += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// No more pieces come.
    pub(crate) fn finish(self) -> StoredSnapshot {
        let PartialSnapshot { guard, meta, piece_count, bytes } = self;
        let manifest = SnapshotManifest { meta, generation: guard.generation, piece_count, bytes };
        StoredSnapshot { guard: Arc::new(guard), manifest }
    }
}

impl From<StoredSnapshot> for RaftSnapshot {
    fn from(snapshot: StoredSnapshot) -> RaftSnapshot {
        RaftSnapshot { meta: snapshot.meta().clone(), snapshot }
    }
}

impl StoredSnapshot {
    /// Its number in this store: no two snapshots of a group share one.
    pub(crate) fn generation(&self) -> u64 {
        self.manifest.generation
    }

    /// Of what it is a snapshot.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.manifest.meta
    }

    /// How many pieces it has.
    pub(crate) fn piece_count(&self) -> u32 {
        self.manifest.piece_count
    }

    fn last_log_id(&self) -> Option<LogId> {
        self.manifest.meta.last_log_id
    }

    /// One piece as it lies on disk, checked.
    pub(crate) async fn read_piece(&self, number: u32) -> io::Result<Bytes> {
        let PiecesGuard { writer, generation, .. } = &*self.guard;
        let missing =
            || io::Error::new(io::ErrorKind::InvalidData, "a piece of the snapshot is missing");
        let record = writer.read_piece(*generation, number).await?.ok_or_else(missing);
        let opened = record.and_then(|record| {
            decode_piece(writer, &record, self.meta(), number)?;
            Ok(record)
        });
        if opened.is_err() {
            self.guard.is_damaged.store(true, Ordering::Relaxed);
            self.guard.store_damaged.store(true, Ordering::Relaxed);
        }
        opened
    }

    /// The whole state.
    pub(crate) async fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut state = Vec::with_capacity(usize::try_from(self.manifest.bytes).unwrap_or(0));
        for number in 0..self.piece_count() {
            let record = self.read_piece(number).await?;
            state.extend_from_slice(decode_piece(
                &self.guard.writer,
                &record,
                self.meta(),
                number,
            )?);
        }
        Ok(state)
    }
}

/// What a piece holds, if it is the one that is meant.
fn decode_piece<'a>(
    writer: &GroupWriter,
    record: &'a [u8],
    meta: &SnapshotMeta,
    number: u32,
) -> io::Result<&'a [u8]> {
    let (header, data) = store::decode_record_with_data::<PieceHeader>(writer.group(), record)?;
    if header.meta != *meta || header.number != number {
        let message =
            format!("piece {number} of the snapshot is piece {} of another", header.number);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(data)
}

/// The last entry in the snapshot that counts.
pub(crate) fn last_log_id(group: GroupId, stored: &StoredGroup) -> io::Result<Option<LogId>> {
    let manifest =
        stored.snapshot.as_deref().map(|it| store::decode_record::<SnapshotManifest>(group, it));
    Ok(manifest.transpose()?.and_then(|manifest| manifest.meta.last_log_id))
}

/// The membership of which a piece of a snapshot tells, though its manifest may not be readable.
pub(crate) async fn read_membership(
    writer: &GroupWriter,
    generation: u64,
) -> Option<StoredMembership> {
    for number in 0.. {
        let record = writer.read_piece(generation, number).await.ok().flatten()?;
        if let Ok((header, _)) =
            store::decode_record_with_data::<PieceHeader>(writer.group(), &record)
        {
            return Some(header.meta.last_membership);
        }
    }
    None
}

impl PiecesGuard {
    fn new(
        writer: &GroupWriter,
        generation: u64,
        is_current: bool,
        store_damaged: &Arc<AtomicBool>,
    ) -> PiecesGuard {
        let (writer, store_damaged) = (writer.clone(), Arc::clone(store_damaged));
        let (is_current, is_damaged) = (AtomicBool::new(is_current), AtomicBool::new(false));
        PiecesGuard { writer, generation, is_current, is_damaged, store_damaged }
    }
}

impl Drop for PiecesGuard {
    fn drop(&mut self) {
        if !*self.is_current.get_mut() {
            self.writer.delete_pieces(self.generation);
        }
    }
}

/// Cuts what is written into pieces, and waits while one is on its way.
struct PieceWriter {
    buffer: BytesMut,
    pieces: mpsc::Sender<BytesMut>,
}

impl PieceWriter {
    fn send_piece(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.buffer);
        self.pieces.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(PIECE_BYTES);
        }
        let taken = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.send_piece()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "snapshot/snapshot_test.rs"]
mod tests;

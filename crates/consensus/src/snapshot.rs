//! Snapshots on disk: pieces, each a record of its own, and a manifest that makes them valid.
//!
//! A state is encoded on a separate thread while entries are applied. Each piece is written between other
//! commits, so that a publish waits for one piece at most. The manifest is written last and replaces the
//! previous one: until then the pieces are unused, and the next start removes those of an incomplete
//! snapshot. A peer's snapshot is received in the same pieces and stored in the same way. Only the machine
//! that is restored from a snapshot holds it as a whole.

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

/// Payload of one piece. With its checksum and metadata the record stays below 256 KiB, above which redb
/// would use 512 KiB. Twice the size would double the wait of a publish; half of it would double the number
/// of commits of a snapshot.
const PIECE_BYTES: usize = 254 << 10;

/// The store of a group's current snapshot. It never goes back: a snapshot taken here may complete late,
/// after a newer one arrived from the leader and the log behind it was purged.
pub(crate) struct SnapshotStore {
    writer: GroupWriter,
    /// The last generation assigned. Snapshots on disk never share one.
    generation: AtomicU64,
    /// Bytes of the snapshot on disk, which determine when the next one is taken.
    bytes: Arc<AtomicU64>,
    /// A piece of the current snapshot could not be read.
    is_damaged: Arc<AtomicBool>,
    /// The current snapshot. Locked while another replaces it.
    current: Mutex<Option<StoredSnapshot>>,
}

/// A snapshot that is not complete yet.
pub(crate) struct PartialSnapshot {
    guard: PiecesGuard,
    meta: SnapshotMeta,
    piece_count: u32,
    bytes: u64,
}

/// A complete snapshot on disk. Its pieces are kept while a clone of it exists.
#[derive(Clone)]
pub(crate) struct StoredSnapshot {
    guard: Arc<PiecesGuard>,
    manifest: SnapshotManifest,
}

/// The record that makes pieces a snapshot.
#[derive(Clone, Serialize, Deserialize)]
struct SnapshotManifest {
    meta: SnapshotMeta,
    generation: u64,
    piece_count: u32,
    /// Total size of the piece records.
    bytes: u64,
}

/// Identifies the snapshot and the position of a piece, so that pieces of snapshots are not mixed.
#[derive(Serialize, Deserialize)]
struct PieceHeader {
    meta: SnapshotMeta,
    number: u32,
}

/// The pieces of one generation. They are deleted on drop unless the generation is current.
struct PiecesGuard {
    writer: GroupWriter,
    generation: u64,
    is_current: AtomicBool,
    /// A piece could not be read.
    is_damaged: AtomicBool,
    /// The flag of the store for damaged pieces.
    store_damaged: Arc<AtomicBool>,
}

impl SnapshotStore {
    /// Restores the snapshot on disk, and deletes the pieces of incomplete snapshots.
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

    /// A store without a current snapshot. The data on disk is kept.
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

    /// Whether a piece of the snapshot was found damaged since the last call. Another snapshot must be taken
    /// then.
    pub(crate) fn take_damaged(&self) -> bool {
        self.is_damaged.swap(false, Ordering::Relaxed)
    }

    /// The current snapshot.
    pub(crate) async fn current(&self) -> Option<StoredSnapshot> {
        self.current.lock().await.clone()
    }

    /// Begins a snapshot.
    pub(crate) fn begin_snapshot(&self, meta: SnapshotMeta) -> PartialSnapshot {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let guard = PiecesGuard::new(&self.writer, generation, false, &self.is_damaged);
        PartialSnapshot { guard, meta, piece_count: 0, bytes: 0 }
    }

    /// Encodes a state and writes it to disk. Returns when it, or a newer snapshot, is current: openraft then
    /// purges the log behind it.
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

    /// Makes a snapshot current unless a newer one is. Returns the current snapshot when it is durable.
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
        // Before the write: pieces that may become current must not be deleted, even if this task is dropped.
        snapshot.guard.is_current.store(true, Ordering::Relaxed);
        self.writer.write(vec![StoreChange::Set { key: StoreKey::Snapshot, record }]).await?;
        self.bytes.store(snapshot.manifest.bytes, Ordering::Relaxed);
        if let Some(old) = current.replace(snapshot.clone()) {
            old.guard.is_current.store(false, Ordering::Relaxed);
        }
        Ok(snapshot)
    }

    /// Copies a snapshot into this store.
    async fn copy_from(&self, snapshot: &StoredSnapshot) -> io::Result<StoredSnapshot> {
        let mut partial = self.begin_snapshot(snapshot.meta().clone());
        for number in 0..snapshot.piece_count() {
            partial.add_record(snapshot.read_piece(number).await?).await?;
        }
        Ok(partial.finish())
    }
}

impl PartialSnapshot {
    /// The metadata of the snapshot.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The number of pieces that are on disk.
    pub(crate) fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// The total bytes of these pieces.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn add_data(&mut self, data: &[u8]) -> io::Result<()> {
        let header = PieceHeader { meta: self.meta.clone(), number: self.piece_count };
        self.write_piece(self.guard.writer.encode_record_with_data(&header, data)?).await
    }

    /// Adds the next piece as a record of another store.
    async fn add_record(&mut self, record: Bytes) -> io::Result<()> {
        self.check_record(&record)?;
        self.write_piece(record).await
    }

    /// Checks that a record is the next piece.
    pub(crate) fn check_record(&self, record: &[u8]) -> io::Result<()> {
        decode_piece(&self.guard.writer, record, &self.meta, self.piece_count).map(drop)
    }

    /// Writes a record that was checked.
    pub(crate) async fn write_piece(&mut self, record: Bytes) -> io::Result<()> {
        let (number, bytes) = (self.piece_count, record.len() as u64);
        let generation = self.guard.generation;
        self.guard.writer.write_piece(StoreChange::PutPiece { generation, number, record }).await?;
        self.piece_count += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Completes the snapshot.
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
    /// The generation in this store; unique for each snapshot of a group.
    pub(crate) fn generation(&self) -> u64 {
        self.manifest.generation
    }

    /// The metadata of the snapshot.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.manifest.meta
    }

    /// The number of pieces.
    pub(crate) fn piece_count(&self) -> u32 {
        self.manifest.piece_count
    }

    fn last_log_id(&self) -> Option<LogId> {
        self.manifest.meta.last_log_id
    }

    /// Reads and checks one piece as stored on disk.
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

    /// Reads the whole state.
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

/// Decodes the payload of a piece, if it is the expected one.
fn decode_piece<'a>(
    writer: &GroupWriter,
    record: &'a [u8],
    meta: &SnapshotMeta,
    number: u32,
) -> io::Result<&'a [u8]> {
    let (header, data) = store::decode_record_with_data::<PieceHeader>(writer.group(), record)?;
    if header.meta != *meta || header.number != number {
        let message = format!(
            "expected piece {number} of the snapshot, found piece {} of another one",
            header.number
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(data)
}

/// The last entry in the current snapshot on disk.
pub(crate) fn last_log_id(group: GroupId, stored: &StoredGroup) -> io::Result<Option<LogId>> {
    let manifest =
        stored.snapshot.as_deref().map(|it| store::decode_record::<SnapshotManifest>(group, it));
    Ok(manifest.transpose()?.and_then(|manifest| manifest.meta.last_log_id))
}

/// The membership in any readable piece of a snapshot, whose manifest may be damaged.
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

/// Splits the encoded state into pieces, and blocks while one is being written.
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

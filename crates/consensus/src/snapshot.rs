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

use crate::store::{self, Change, GroupWriter, Key, Stored};
use crate::types::{LogId, Snapshot, SnapshotMeta, StoredMembership};
use crate::{Capture, GroupId};

pub(crate) use transfers::Transfers;

/// What one piece holds of the state. With its checksum and its meta it stays under 256 KiB, of
/// which redb would make 512. Twice as much, and a publish would wait twice as long; half as much,
/// and a snapshot would take twice as many commits.
const PIECE_BYTES: usize = 254 << 10;

/// The place of the one snapshot of a group. It never goes back: a snapshot that was taken here may
/// be ready late, when a newer one has come from the leader and the log behind that is gone.
pub(crate) struct Shelf {
    writer: GroupWriter,
    /// The last generation given out. No two snapshots on disk share one.
    generation: AtomicU64,
    /// Bytes of the snapshot on disk, for whoever decides when to take the next.
    bytes: Arc<AtomicU64>,
    /// A piece of the snapshot that counts could not be read.
    damaged: Arc<AtomicBool>,
    /// The snapshot that counts. Held while another takes its place.
    current: Mutex<Option<Image>>,
}

/// A snapshot of which pieces are still to come.
pub(crate) struct Draft {
    kept: Kept,
    meta: SnapshotMeta,
    pieces: u32,
    bytes: u64,
}

/// A snapshot, complete on disk. Its pieces stay as long as somebody has an image of it.
#[derive(Clone)]
pub(crate) struct Image {
    kept: Arc<Kept>,
    manifest: Manifest,
}

/// What makes pieces a snapshot.
#[derive(Clone, Serialize, Deserialize)]
struct Manifest {
    meta: SnapshotMeta,
    generation: u64,
    pieces: u32,
    /// Of all pieces together, as records.
    bytes: u64,
}

/// Says in each piece where it belongs: one of another snapshot is never taken for it.
#[derive(Serialize, Deserialize)]
struct Place {
    meta: SnapshotMeta,
    number: u32,
}

/// The pieces of one generation. They go with it, if it does not count (any more).
struct Kept {
    writer: GroupWriter,
    generation: u64,
    counts: AtomicBool,
    /// A piece could not be read.
    damaged: AtomicBool,
    /// Tells the shelf.
    told: Arc<AtomicBool>,
}

impl Shelf {
    /// Takes what was on disk, and removes what a snapshot that was cut short has left there.
    pub(crate) fn restore(
        writer: GroupWriter,
        stored: &Stored,
        bytes: Arc<AtomicU64>,
    ) -> io::Result<Shelf> {
        let manifest = stored.snapshot.as_deref();
        let manifest: Option<Manifest> =
            manifest.map(|record| store::open(writer.group(), record)).transpose()?;
        let counts = manifest.as_ref().map(|manifest| manifest.generation);
        for &generation in stored.generations.iter().filter(|found| Some(**found) != counts) {
            writer.forget(generation);
        }
        let damaged = Arc::<AtomicBool>::default();
        let last = stored.generations.iter().copied().chain(counts).max().unwrap_or_default();
        let current = manifest.map(|manifest| {
            bytes.store(manifest.bytes, Ordering::Relaxed);
            let kept = Kept::new(&writer, manifest.generation, true, &damaged);
            Image { kept: Arc::new(kept), manifest }
        });
        Ok(Shelf {
            writer,
            generation: AtomicU64::new(last),
            bytes,
            damaged,
            current: Mutex::new(current),
        })
    }

    /// Nothing that counts yet. What is on disk stays.
    pub(crate) fn empty(writer: GroupWriter, stored: &Stored, bytes: Arc<AtomicU64>) -> Shelf {
        let last = stored.generations.iter().copied().max().unwrap_or_default();
        Shelf {
            writer,
            generation: AtomicU64::new(last),
            bytes,
            damaged: Arc::default(),
            current: Mutex::default(),
        }
    }

    /// Whether a piece of the snapshot was found damaged since this was last asked. Another is to be
    /// taken then.
    pub(crate) fn take_damage(&self) -> bool {
        self.damaged.swap(false, Ordering::Relaxed)
    }

    /// The snapshot that counts.
    pub(crate) async fn current(&self) -> Option<Image> {
        self.current.lock().await.clone()
    }

    /// Begins a snapshot.
    pub(crate) fn draft(&self, meta: SnapshotMeta) -> Draft {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let kept = Kept::new(&self.writer, generation, false, &self.damaged);
        Draft { kept, meta, pieces: 0, bytes: 0 }
    }

    /// Encodes a state and puts it on disk. Returns when that, or a newer one, is the snapshot that
    /// counts: openraft purges the log behind it.
    pub(crate) async fn save(&self, meta: SnapshotMeta, state: Capture) -> io::Result<Image> {
        let mut draft = self.draft(meta);
        let (sender, mut ready) = mpsc::channel(1);
        let encoding = tokio::task::spawn_blocking(move || {
            let mut cutter = Cutter { filled: BytesMut::new(), ready: sender };
            state.encode(&mut cutter)?;
            cutter.hand_over()
        });
        while let Some(piece) = ready.recv().await {
            draft.add(&piece).await?;
        }
        encoding.await.map_err(io::Error::other)??;
        self.publish(draft.finish()).await
    }

    /// Makes a snapshot the one that counts, unless a newer one does. Returns the one that does, when
    /// that is durable.
    pub(crate) async fn publish(&self, image: Image) -> io::Result<Image> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref() {
            let better = match current.kept.damaged.load(Ordering::Relaxed) {
                true => image.last() >= current.last(),
                false => image.last() > current.last(),
            };
            if !better {
                return Ok(current.clone());
            }
        }
        let image =
            if image.kept.writer.is(&self.writer) { image } else { self.copy(&image).await? };
        let record = self.writer.seal(&image.manifest)?;
        // Before, not after: whatever becomes of this task, what may count is not removed.
        image.kept.counts.store(true, Ordering::Relaxed);
        self.writer.write(vec![Change::Set { key: Key::Snapshot, record }]).await?;
        self.bytes.store(image.manifest.bytes, Ordering::Relaxed);
        if let Some(old) = current.replace(image.clone()) {
            old.kept.counts.store(false, Ordering::Relaxed);
        }
        Ok(image)
    }

    /// The same snapshot in this store.
    async fn copy(&self, image: &Image) -> io::Result<Image> {
        let mut draft = self.draft(image.meta().clone());
        for number in 0..image.pieces() {
            draft.take(image.piece(number).await?).await?;
        }
        Ok(draft.finish())
    }
}

impl Draft {
    /// Of what it is to be a snapshot.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// How many pieces are there.
    pub(crate) fn pieces(&self) -> u32 {
        self.pieces
    }

    /// How many bytes they have.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn add(&mut self, data: &[u8]) -> io::Result<()> {
        let place = Place { meta: self.meta.clone(), number: self.pieces };
        self.put(self.kept.writer.seal_with(&place, data)?).await
    }

    /// Adds the next piece as it lies on another disk.
    pub(crate) async fn take(&mut self, record: Bytes) -> io::Result<()> {
        open(&self.kept.writer, &record, &self.meta, self.pieces)?;
        self.put(record).await
    }

    async fn put(&mut self, record: Bytes) -> io::Result<()> {
        let (number, bytes) = (self.pieces, record.len() as u64);
        let generation = self.kept.generation;
        self.kept.writer.write_piece(Change::Piece { generation, number, record }).await?;
        self.pieces += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// No more pieces come.
    pub(crate) fn finish(self) -> Image {
        let Draft { kept, meta, pieces, bytes } = self;
        let manifest = Manifest { meta, generation: kept.generation, pieces, bytes };
        Image { kept: Arc::new(kept), manifest }
    }
}

impl From<Image> for Snapshot {
    fn from(image: Image) -> Snapshot {
        Snapshot { meta: image.meta().clone(), snapshot: image }
    }
}

impl Image {
    /// Its number in this store: no two snapshots of a group share one.
    pub(crate) fn generation(&self) -> u64 {
        self.manifest.generation
    }

    /// Of what it is a snapshot.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.manifest.meta
    }

    /// How many pieces it has.
    pub(crate) fn pieces(&self) -> u32 {
        self.manifest.pieces
    }

    fn last(&self) -> Option<LogId> {
        self.manifest.meta.last_log_id
    }

    /// One piece as it lies on disk, checked.
    pub(crate) async fn piece(&self, number: u32) -> io::Result<Bytes> {
        let Kept { writer, generation, .. } = &*self.kept;
        let missing =
            || io::Error::new(io::ErrorKind::InvalidData, "a piece of the snapshot is missing");
        let record = writer.piece(*generation, number).await?.ok_or_else(missing);
        let opened = record.and_then(|record| {
            open(writer, &record, self.meta(), number)?;
            Ok(record)
        });
        if opened.is_err() {
            self.kept.damaged.store(true, Ordering::Relaxed);
            self.kept.told.store(true, Ordering::Relaxed);
        }
        opened
    }

    /// The whole state.
    pub(crate) async fn whole(&self) -> io::Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(usize::try_from(self.manifest.bytes).unwrap_or(0));
        for number in 0..self.pieces() {
            let record = self.piece(number).await?;
            whole.extend_from_slice(open(&self.kept.writer, &record, self.meta(), number)?);
        }
        Ok(whole)
    }
}

/// What a piece holds, if it is the one that is meant.
fn open<'a>(
    writer: &GroupWriter,
    record: &'a [u8],
    meta: &SnapshotMeta,
    number: u32,
) -> io::Result<&'a [u8]> {
    let (place, data) = store::open_with::<Place>(writer.group(), record)?;
    if place.meta != *meta || place.number != number {
        let why = format!("piece {number} of the snapshot is piece {} of another", place.number);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(data)
}

/// The last entry in the snapshot that counts.
pub(crate) fn last_of(group: GroupId, stored: &Stored) -> io::Result<Option<LogId>> {
    let manifest = stored.snapshot.as_deref().map(|it| store::open::<Manifest>(group, it));
    Ok(manifest.transpose()?.and_then(|manifest| manifest.meta.last_log_id))
}

/// The membership of which a piece of a snapshot tells, though its manifest may not be readable.
pub(crate) async fn membership(writer: &GroupWriter, generation: u64) -> Option<StoredMembership> {
    for number in 0.. {
        let record = writer.piece(generation, number).await.ok().flatten()?;
        if let Ok((place, _)) = store::open_with::<Place>(writer.group(), &record) {
            return Some(place.meta.last_membership);
        }
    }
    None
}

impl Kept {
    fn new(writer: &GroupWriter, generation: u64, counts: bool, told: &Arc<AtomicBool>) -> Kept {
        let (writer, told) = (writer.clone(), Arc::clone(told));
        let (counts, damaged) = (AtomicBool::new(counts), AtomicBool::new(false));
        Kept { writer, generation, counts, damaged, told }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !*self.counts.get_mut() {
            self.writer.forget(self.generation);
        }
    }
}

/// Cuts what is written into pieces, and waits while one is on its way.
struct Cutter {
    filled: BytesMut,
    ready: mpsc::Sender<BytesMut>,
}

impl Cutter {
    fn hand_over(&mut self) -> io::Result<()> {
        if self.filled.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.filled);
        self.ready.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled.capacity() == 0 {
            self.filled.reserve(PIECE_BYTES);
        }
        let taken = bytes.len().min(PIECE_BYTES - self.filled.len());
        self.filled.extend_from_slice(&bytes[..taken]);
        if self.filled.len() == PIECE_BYTES {
            self.hand_over()?;
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

//! Snapshots of a store that no node uses: read and written in place.

use std::io;

use bytes::Bytes;
use pushonce_core::ClusterVersion;

use super::{Manifest, PIECE_BYTES, Place};
use crate::store::{self, Change, Store, Stored};
use crate::types::SnapshotMeta;
use crate::{Capture, GroupId};

/// The snapshot that counts, if there is one.
pub(crate) fn read(
    store: &mut impl Store,
    group: GroupId,
    stored: &Stored,
) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
    let Some(record) = stored.snapshot.as_deref() else { return Ok(None) };
    let Manifest { meta, generation, pieces, .. } = store::open(group, record)?;
    let damaged = |what: &str| {
        let why = format!("a piece of the snapshot {what}");
        io::Error::new(io::ErrorKind::InvalidData, why)
    };
    let mut whole = Vec::new();
    for number in 0..pieces {
        let record = store.read_piece(group, generation, number)?;
        let record = record.ok_or_else(|| damaged("is missing"))?;
        let (place, data) = store::open_with::<Place>(group, &record)?;
        if place.meta != meta || place.number != number {
            return Err(damaged("is one of another snapshot"));
        }
        whole.extend_from_slice(data);
    }
    Ok(Some((meta, whole)))
}

/// Writes, in a version, the pieces of another snapshot, which count for nothing yet. Returns the record that
/// makes them count.
pub(crate) fn write(
    store: &mut impl Store,
    group: GroupId,
    version: ClusterVersion,
    stored: &Stored,
    meta: SnapshotMeta,
    state: Capture,
) -> io::Result<Bytes> {
    let generation = stored.generations.iter().max().map_or(1, |last| last + 1);
    let mut whole = Vec::new();
    state.encode(&mut whole)?;
    let (mut pieces, mut bytes) = (0, 0);
    for data in whole.chunks(PIECE_BYTES) {
        let place = Place { meta: meta.clone(), number: pieces };
        let record = store::seal_with(group, version, &place, data)?;
        bytes += record.len() as u64;
        store.write(&[(group, Change::Piece { generation, number: pieces, record })])?;
        pieces += 1;
    }
    store::seal(group, version, &Manifest { meta, generation, pieces, bytes })
}

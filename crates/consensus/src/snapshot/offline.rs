//! Reads and writes the snapshots of a store that no node uses.

use std::io;

use bytes::Bytes;
use pushonce_core::ClusterVersion;

use super::{PIECE_BYTES, PieceHeader, SnapshotManifest};
use crate::store::{self, RaftStore, StoreChange, StoredGroup};
use crate::types::SnapshotMeta;
use crate::{GroupId, StateSnapshot};

/// Reads the current snapshot, if there is one.
pub(crate) fn read(
    store: &mut impl RaftStore,
    group: GroupId,
    stored: &StoredGroup,
) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
    let Some(record) = stored.snapshot.as_deref() else { return Ok(None) };
    let SnapshotManifest { meta, generation, piece_count, .. } =
        store::decode_record(group, record)?;
    let damaged = |problem: &str| {
        let message = format!("a piece of the snapshot {problem}");
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let mut state = Vec::new();
    for number in 0..piece_count {
        let record = store.read_piece(group, generation, number)?;
        let record = record.ok_or_else(|| damaged("is missing"))?;
        let (header, data) = store::decode_record_with_data::<PieceHeader>(group, &record)?;
        if header.meta != meta || header.number != number {
            return Err(damaged("belongs to another snapshot"));
        }
        state.extend_from_slice(data);
    }
    Ok(Some((meta, state)))
}

/// Writes the pieces of a new snapshot in a version, without making it current. Returns the manifest record
/// that makes it current.
pub(crate) fn write(
    store: &mut impl RaftStore,
    group: GroupId,
    version: ClusterVersion,
    stored: &StoredGroup,
    meta: SnapshotMeta,
    state: StateSnapshot,
) -> io::Result<Bytes> {
    let generation = stored.generations.iter().max().map_or(1, |last| last + 1);
    let mut encoded = Vec::new();
    state.encode(&mut encoded)?;
    let (mut piece_count, mut bytes) = (0, 0);
    for data in encoded.chunks(PIECE_BYTES) {
        let header = PieceHeader { meta: meta.clone(), number: piece_count };
        let record = store::encode_record_with_data(group, version, &header, data)?;
        bytes += record.len() as u64;
        store
            .write(&[(group, StoreChange::PutPiece { generation, number: piece_count, record })])?;
        piece_count += 1;
    }
    store::encode_record(group, version, &SnapshotManifest { meta, generation, piece_count, bytes })
}

//! Encoding of openraft's messages: postcard after the cluster version, in the bodies of the peer protocol. A
//! request is written in the version of its link; its response has the version of the request.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, SnapshotResponse};
use pushonce_core::ClusterVersion;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_proto::pb::peer::v1 as pb;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{LogId, SnapshotMeta, TypeConfig, Vote};

pub(crate) use pb::raft_request::Kind;

/// Maximum size of a frame. The largest has a single append with one entry of the maximum size; all others are
/// below 2 MiB. A larger one is rejected before it is received.
pub(crate) const FRAME_BYTES_MAX: usize = 10 << 20;

/// Maximum size of a frame unless it contains a single larger request.
pub(super) const FRAME_BYTES_TARGET: usize = 1 << 20;

/// Maximum size of a snapshot that is accepted.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// Maximum size of a piece of a snapshot that is accepted: pieces are made with fewer than 256 KiB.
pub(super) const PIECE_RECORD_BYTES_MAX: usize = 256 << 10;

/// A request of a snapshot transfer.
///
/// The leader offers its snapshot, sends the pieces that the follower lacks one after another, and
/// asks it to install them. Each answer says how many pieces the follower holds, so a transfer
/// continues there after a broken connection or a late answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotRequest {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    /// The leader's number of this snapshot. Two snapshots of one leader with equal metadata may be encoded
    /// differently, so their pieces must not be mixed.
    pub(super) generation: u64,
    /// Number of pieces of the snapshot; 0 for an empty state.
    pub(super) piece_count: u32,
    /// The last entry that the leader holds.
    pub(super) leader_last_log_id: Option<LogId>,
    pub(super) step: SnapshotStep,
}

/// The steps of a snapshot transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SnapshotStep {
    /// Asks how many pieces of this snapshot the follower holds.
    Offer,
    /// One piece, numbered from 0. It is sent in `data` as stored on the leader's disk, with its checksum.
    Piece(u32),
    /// All pieces were sent: the follower installs the snapshot.
    Install,
}

/// The answer to each step of a snapshot transfer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SnapshotReply {
    /// The follower holds the first pieces, up to this count.
    Holds(u32),
    /// The transfer is over: the snapshot is installed, or the follower knows a higher vote.
    Finished(SnapshotResponse<TypeConfig>),
}

/// An append and the last entry that the leader holds.
pub(super) type AppendMessage = (AppendEntriesRequest<TypeConfig>, Option<LogId>);

/// The response to an entry that was forwarded to the leader.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProposalOutcome {
    /// Committed and applied, with the response of the machine.
    Applied(Bytes),
    /// The entry was not proposed; the leader, if known.
    Rejected(Option<u64>),
    /// The entry may have been committed, or may be later, for this reason.
    Unknown(String),
}

/// Encodes a body in a version.
pub(crate) fn encode<T: Serialize>(version: ClusterVersion, value: &T) -> Bytes {
    versioned::encode(version, value).into()
}

/// Decodes a body and returns its version.
pub(crate) fn decode<T: DeserializeOwned>(
    body: &[u8],
) -> Result<(ClusterVersion, T), VersionedDecodeError> {
    versioned::decode(body)
}

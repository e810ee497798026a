//! The receiving side of a snapshot transfer.
//!
//! Pieces arrive in order and are written to disk one by one. They outlive the connection that carried them: the
//! same leader's next offer of the same snapshot continues at the missing piece.

use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use pushonce_core::{CoverageMark, FailPoint, NodeId};

use super::request_check::{self, RequestRejection};
use super::requests::RequestError;
use super::wire::{
    PIECE_RECORD_BYTES_MAX, SNAPSHOT_BYTES_MAX, SnapshotReply, SnapshotRequest, SnapshotStep,
};
use crate::RaftGroup;
use crate::snapshot::{PartialSnapshot, StoredSnapshot};
use crate::store::unsupported_version;
use crate::types::{RaftSnapshot, SnapshotMeta, TypeConfig, Vote};

/// The snapshot that is being received.
pub(crate) struct IncomingSnapshot {
    /// The leader that sends the snapshot. `generation` is its number of the snapshot.
    from: u64,
    generation: u64,
    partial: PartialSnapshot,
}

impl IncomingSnapshot {
    fn matches(&self, request: &SnapshotRequest) -> bool {
        self.from == request.vote.leader_id.voted_for
            && self.generation == request.generation
            && *self.partial.meta() == request.meta
    }
}

/// Handles one step of a transfer.
///
/// # Errors
/// With a reason for the leader's log: the step had no effect and may be repeated.
pub(super) async fn on_request(
    group: RaftGroup,
    from: NodeId,
    request: SnapshotRequest,
    data: Bytes,
) -> Result<SnapshotReply, RequestError> {
    check_request(&group, from, &request, &data)?;
    group.on_leader_contact(&request.vote);
    group.on_leader_log(&request.vote, request.leader_last_log_id).await?;
    // A deposed leader must not displace the snapshot that its successor sends.
    if let Some(known) = group.0.log.vote().filter(|known| *known > request.vote) {
        return Ok(SnapshotReply::Finished(SnapshotResponse::new(known)));
    }
    let mut incoming = Arc::clone(&group.0.incoming_snapshot).lock_owned().await;
    match request.step {
        SnapshotStep::Offer if is_covered(&group, &request.meta).await => {
            // Installed earlier, but the response was lost. openraft checks the vote and does nothing else.
            let own = group.0.snapshot_store.current().await.map(RaftSnapshot::from);
            let replaced = || "the snapshot of this replica was replaced: offer again".to_owned();
            let own = own.ok_or_else(replaced)?;
            Ok(SnapshotReply::Finished(install(&group, request.vote, own).await?))
        }
        SnapshotStep::Offer => {
            if FailPoint::SnapshotTransferRestarts.is_active() {
                *incoming = None;
            }
            let held = partial_snapshot(&mut incoming, &group, &request).piece_count();
            if held > 0 {
                CoverageMark::SnapshotResumes.reach();
            }
            Ok(SnapshotReply::Holds(held))
        }
        SnapshotStep::Piece(number) => {
            let partial = partial_snapshot(&mut incoming, &group, &request);
            if partial.bytes() > SNAPSHOT_BYTES_MAX {
                let bytes = partial.bytes();
                *incoming = None;
                return Err(malformed(format!("a snapshot of more than {bytes} bytes")));
            }
            if partial.piece_count() == number {
                partial.check_record(&data).map_err(|error| match unsupported_version(&error) {
                    Some(reason) => RequestError::Failed(reason.to_string()),
                    None => malformed(error.to_string()),
                })?;
                partial.write_piece(data).await.map_err(|error| error.to_string())?;
            }
            Ok(SnapshotReply::Holds(partial.piece_count()))
        }
        SnapshotStep::Install => {
            let held = partial_snapshot(&mut incoming, &group, &request).piece_count();
            if held < request.piece_count {
                return Ok(SnapshotReply::Holds(held));
            }
            let Some(complete) = incoming.take() else { return Ok(SnapshotReply::Holds(0)) };
            let snapshot = RaftSnapshot { meta: request.meta, snapshot: complete.partial.finish() };
            let (tasks, vote) = (group.0.tasks.clone(), request.vote);
            // A task of its own: it continues when the connection breaks and holds the lock until the snapshot is
            // installed, so that the leader's next offer finds it.
            let installing = tasks.spawn(async move {
                let _guard = incoming;
                check_readable(&group, &snapshot.snapshot).await?;
                Ok::<_, RequestError>(install(&group, vote, snapshot).await?)
            });
            let installed = installing.await.map_err(|error| error.to_string())??;
            Ok(SnapshotReply::Finished(installed))
        }
    }
}

/// Checks a request before it has any effect.
fn check_request(
    group: &RaftGroup,
    from: NodeId,
    request: &SnapshotRequest,
    data: &Bytes,
) -> Result<(), RequestError> {
    group.check_leader(from, &request.vote, request.leader_last_log_id)?;
    let log = &group.0.log;
    let (committed, last) = (log.committed(), log.last_log_id());
    request_check::check_snapshot_meta(&request.meta, &request.vote, committed, last)?;
    if data.len() > PIECE_RECORD_BYTES_MAX {
        return Err(malformed(format!("a piece of {} bytes", data.len())));
    }
    Ok(())
}

/// Decodes a complete snapshot before it replaces the log and the state. openraft has discarded both when
/// the machine restores it.
async fn check_readable(group: &RaftGroup, snapshot: &StoredSnapshot) -> Result<(), RequestError> {
    if FailPoint::ReceivedSnapshotUnchecked.is_active() {
        return Ok(());
    }
    let state = snapshot.read_all().await.map_err(|error| error.to_string())?;
    let (id, check) = (group.id(), group.0.check_snapshot);
    let decoded = tokio::task::spawn_blocking(move || check(id, &state)).await;
    // A panic of the decoder is an error of the snapshot, too.
    let decoded = decoded.map_err(|error| malformed(error.to_string()))?;
    request_check::readable(decoded).map_err(RequestError::from)
}

fn malformed(reason: String) -> RequestError {
    RequestRejection::Malformed(reason).into()
}

/// The partial snapshot for the request. A new snapshot replaces the one that was arriving before.
fn partial_snapshot<'a>(
    incoming: &'a mut Option<IncomingSnapshot>,
    group: &RaftGroup,
    request: &SnapshotRequest,
) -> &'a mut PartialSnapshot {
    if incoming.as_ref().is_some_and(|known| !known.matches(request)) {
        *incoming = None;
    }
    let begin = || IncomingSnapshot {
        from: request.vote.leader_id.voted_for,
        generation: request.generation,
        partial: group.0.snapshot_store.begin_snapshot(request.meta.clone()),
    };
    &mut incoming.get_or_insert_with(begin).partial
}

/// Whether the current snapshot covers the offered one. Both were committed, so the later one contains the
/// earlier one.
async fn is_covered(group: &RaftGroup, offered: &SnapshotMeta) -> bool {
    let own = group.0.snapshot_store.current().await;
    own.is_some_and(|own| own.meta().last_log_id >= offered.last_log_id)
}

async fn install(
    group: &RaftGroup,
    vote: Vote,
    snapshot: RaftSnapshot,
) -> Result<SnapshotResponse<TypeConfig>, String> {
    CoverageMark::SnapshotInstalled.reach();
    let installed = group.raft().install_full_snapshot(vote, snapshot).await;
    group.try_finish_recovery().await;
    installed.map_err(|error| error.to_string())
}

//! The receiving side of a snapshot transfer.
//!
//! Pieces arrive in order and go to disk one by one. What arrived outlives the stream that brought
//! it: the same leader's next offer of the same snapshot continues at the piece that is missing.

use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use pushonce_core::FailPoint;

use super::wire::{SNAPSHOT_BYTES_MAX, SnapshotReply, SnapshotRequest, SnapshotStep};
use crate::RaftGroup;
use crate::snapshot::PartialSnapshot;
use crate::types::{RaftSnapshot, SnapshotMeta, TypeConfig, Vote};

/// The snapshot that is arriving, as far as it has come.
pub(crate) struct IncomingSnapshot {
    /// The leader that sends it, and that leader's number of it.
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

/// Takes one step of a transfer.
///
/// # Errors
/// In words for the leader's log: nothing of this step happened, and it may be repeated.
pub(super) async fn on_request(
    group: RaftGroup,
    request: SnapshotRequest,
    data: Bytes,
) -> Result<SnapshotReply, String> {
    group.on_leader_contact(&request.vote);
    group.on_leader_log(&request.vote, request.leader_last_log_id).await?;
    // A leader that was replaced must not displace what its successor sends.
    if let Some(known) = group.0.log.vote().filter(|known| *known > request.vote) {
        return Ok(SnapshotReply::Finished(SnapshotResponse::new(known)));
    }
    let mut incoming = Arc::clone(&group.0.incoming_snapshot).lock_owned().await;
    match request.step {
        SnapshotStep::Offer if is_covered(&group, &request.meta).await => {
            // Installed earlier, but the answer was lost. openraft checks the vote and does no more.
            let own = group.0.snapshot_store.current().await.map(RaftSnapshot::from);
            let own = own.ok_or("the snapshot of this replica was replaced: offer again")?;
            install(&group, request.vote, own).await.map(SnapshotReply::Finished)
        }
        SnapshotStep::Offer => {
            if FailPoint::SnapshotTransferRestarts.is_active() {
                *incoming = None;
            }
            Ok(SnapshotReply::Holds(
                partial_snapshot(&mut incoming, &group, &request).piece_count(),
            ))
        }
        SnapshotStep::Piece(number) => {
            let partial = partial_snapshot(&mut incoming, &group, &request);
            if partial.bytes() > SNAPSHOT_BYTES_MAX {
                let bytes = partial.bytes();
                *incoming = None;
                return Err(format!("a snapshot of more than {bytes} bytes is too large"));
            }
            if partial.piece_count() == number {
                partial.add_record(data).await.map_err(|error| error.to_string())?;
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
            // A task of its own: it goes on when the stream breaks, and holds the place until it is
            // done, so that the leader's next offer finds the snapshot installed.
            let installing = tasks.spawn(async move {
                let _guard = incoming;
                install(&group, vote, snapshot).await
            });
            let ended = installing.await.map_err(|error| error.to_string())?;
            ended.map(SnapshotReply::Finished)
        }
    }
}

/// The draft of the snapshot that is meant; a new one displaces whatever was arriving before.
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

/// Whether the snapshot that counts here holds all that is offered. Both were committed, so the later
/// one contains the earlier.
async fn is_covered(group: &RaftGroup, offered: &SnapshotMeta) -> bool {
    let own = group.0.snapshot_store.current().await;
    own.is_some_and(|own| own.meta().last_log_id >= offered.last_log_id)
}

async fn install(
    group: &RaftGroup,
    vote: Vote,
    snapshot: RaftSnapshot,
) -> Result<SnapshotResponse<TypeConfig>, String> {
    let installed = group.raft().install_full_snapshot(vote, snapshot).await;
    group.try_finish_recovery().await;
    installed.map_err(|error| error.to_string())
}

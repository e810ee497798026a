//! The receiving side of a snapshot transfer.
//!
//! Pieces arrive in order and go to disk one by one. What arrived outlives the stream that brought
//! it: the same leader's next offer of the same snapshot continues at the piece that is missing.

use std::sync::Arc;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;

use super::wire::{SNAPSHOT_BYTES_MAX, SnapshotAnswer, SnapshotRequest, SnapshotStep};
use crate::Group;
use crate::snapshot::Draft;
use crate::types::{Snapshot, SnapshotMeta, Types, Vote};

/// The snapshot that is arriving, as far as it has come.
pub(crate) struct Incoming {
    /// The leader that sends it, and that leader's number of it.
    from: u64,
    generation: u64,
    draft: Draft,
}

impl Incoming {
    fn is(&self, request: &SnapshotRequest) -> bool {
        self.from == request.vote.leader_id.voted_for
            && self.generation == request.generation
            && *self.draft.meta() == request.meta
    }
}

/// Takes one step of a transfer.
///
/// # Errors
/// In words for the leader's log: nothing of this step happened, and it may be repeated.
pub(super) async fn on_request(
    group: Group,
    request: SnapshotRequest,
    data: Bytes,
) -> Result<SnapshotAnswer, String> {
    group.hear(&request.vote);
    group.meet(&request.vote, request.last).await?;
    // A leader that was replaced must not displace what its successor sends.
    if let Some(known) = group.0.log.vote().filter(|known| *known > request.vote) {
        return Ok(SnapshotAnswer::Ended(SnapshotResponse::new(known)));
    }
    let mut incoming = Arc::clone(&group.0.incoming).lock_owned().await;
    match request.step {
        SnapshotStep::Offer if is_covered(&group, &request.meta).await => {
            // Installed earlier, but the answer was lost. openraft checks the vote and does no more.
            let own = group.0.shelf.current().await.map(Snapshot::from);
            let own = own.ok_or("the snapshot of this replica was replaced: offer again")?;
            install(&group, request.vote, own).await.map(SnapshotAnswer::Ended)
        }
        SnapshotStep::Offer => {
            #[cfg(feature = "planted-bugs")]
            if crate::planted::drops_pieces() {
                *incoming = None;
            }
            Ok(SnapshotAnswer::Holds(draft(&mut incoming, &group, &request).pieces()))
        }
        SnapshotStep::Piece(number) => {
            let draft = draft(&mut incoming, &group, &request);
            if draft.bytes() > SNAPSHOT_BYTES_MAX {
                let bytes = draft.bytes();
                *incoming = None;
                return Err(format!("a snapshot of more than {bytes} bytes is too large"));
            }
            if draft.pieces() == number {
                draft.take(data).await.map_err(|error| error.to_string())?;
            }
            Ok(SnapshotAnswer::Holds(draft.pieces()))
        }
        SnapshotStep::Install => {
            let held = draft(&mut incoming, &group, &request).pieces();
            if held < request.pieces {
                return Ok(SnapshotAnswer::Holds(held));
            }
            let Some(whole) = incoming.take() else { return Ok(SnapshotAnswer::Holds(0)) };
            let snapshot = Snapshot { meta: request.meta, snapshot: whole.draft.finish() };
            let (tasks, vote) = (group.0.tasks.clone(), request.vote);
            // A task of its own: it goes on when the stream breaks, and holds the place until it is
            // done, so that the leader's next offer finds the snapshot installed.
            let installing = tasks.spawn(async move {
                let _held = incoming;
                install(&group, vote, snapshot).await
            });
            let ended = installing.await.map_err(|error| error.to_string())?;
            ended.map(SnapshotAnswer::Ended)
        }
    }
}

/// The draft of the snapshot that is meant; a new one displaces whatever was arriving before.
fn draft<'a>(
    incoming: &'a mut Option<Incoming>,
    group: &Group,
    request: &SnapshotRequest,
) -> &'a mut Draft {
    if incoming.as_ref().is_some_and(|known| !known.is(request)) {
        *incoming = None;
    }
    let begin = || Incoming {
        from: request.vote.leader_id.voted_for,
        generation: request.generation,
        draft: group.0.shelf.draft(request.meta.clone()),
    };
    &mut incoming.get_or_insert_with(begin).draft
}

/// Whether the snapshot that counts here holds all that is offered. Both were committed, so the later
/// one contains the earlier.
async fn is_covered(group: &Group, offered: &SnapshotMeta) -> bool {
    let own = group.0.shelf.current().await;
    own.is_some_and(|own| own.meta().last_log_id >= offered.last_log_id)
}

async fn install(
    group: &Group,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<SnapshotResponse<Types>, String> {
    let installed = group.raft().install_full_snapshot(vote, snapshot).await;
    group.recover().await;
    installed.map_err(|error| error.to_string())
}

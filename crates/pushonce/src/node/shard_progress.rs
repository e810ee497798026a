//! The progress of shard moves in the whole cluster, as each owner reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pushonce_control::health::LAG_ENTRIES;
use pushonce_control::reconcile;
use pushonce_core::{NodeId, ShardId, ShardOwners};
use pushonce_peer::{DialError, PeerTransport};
use pushonce_proto::cluster::ShardMoveProgress;
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;
use tokio::time::{Instant, timeout_at};

/// Timeout for all responses. An operator waits for the slowest, so nodes without a response are left out.
const GATHER_TIMEOUT: Duration = Duration::from_secs(1);

/// The progress of the shards that this node leads.
pub(super) fn local_progress(
    progress: BTreeMap<ShardId, reconcile::ReconcileProgress>,
) -> BTreeMap<ShardId, ShardMoveProgress> {
    let to_wire = |(shard, progress): (ShardId, reconcile::ReconcileProgress)| {
        let (has, of) = match progress {
            reconcile::ReconcileProgress::CatchingUp { matched: has, last_log: of, .. } => {
                (has, of)
            }
            _ => (0, 0),
        };
        let silent = matches!(progress, reconcile::ReconcileProgress::Unresponsive(_));
        let (text, node) = (progress.to_string(), progress.node());
        (
            shard,
            ShardMoveProgress {
                text,
                node,
                matched_index: has,
                last_index: of,
                unresponsive: silent,
            },
        )
    };
    progress.into_iter().map(to_wire).collect()
}

/// The progress of moving shards and lagging replicas, as their owners report it, with `known` included.
pub(super) async fn gather_from_owners(
    transport: &PeerTransport,
    owners: &ShardOwners,
    reachable: &BTreeSet<NodeId>,
    mut known: BTreeMap<ShardId, ShardMoveProgress>,
) -> BTreeMap<ShardId, ShardMoveProgress> {
    let deadline = Instant::now() + GATHER_TIMEOUT;
    let owners: BTreeSet<NodeId> = owners.claims().map(|claim| claim.owner).collect();
    let mut requests: FuturesUnordered<_> = owners
        .into_iter()
        .filter(|node| reachable.contains(node))
        .map(|node| request_progress(transport, node))
        .collect();
    while let Ok(Some(moves)) = timeout_at(deadline, requests.next()).await {
        // A node that cannot answer reports nothing.
        known.extend(moves.unwrap_or_default());
    }
    known
}

/// The replicas that lag or do not answer, as the owners of their shards report.
pub(super) fn lagging_replicas(
    progress: &BTreeMap<ShardId, ShardMoveProgress>,
) -> BTreeMap<ShardId, NodeId> {
    let is_lagging = |shard_progress: &&ShardMoveProgress| {
        shard_progress.unresponsive
            || shard_progress.last_index.saturating_sub(shard_progress.matched_index) >= LAG_ENTRIES
    };
    let node = |(&shard, shard_progress): (&ShardId, &ShardMoveProgress)| {
        Some((
            shard,
            Some(shard_progress)
                .filter(is_lagging)
                .and_then(|shard_progress| shard_progress.node)?,
        ))
    };
    progress.iter().filter_map(node).collect()
}

async fn request_progress(
    transport: &PeerTransport,
    node: NodeId,
) -> Result<BTreeMap<ShardId, ShardMoveProgress>, DialError> {
    let mut client = MembershipServiceClient::new(transport.data_channel(node)?);
    let call = client.moves(pb::MovesRequest {});
    let (_version, response) = transport.check_response(node, GATHER_TIMEOUT, call).await?;
    let from_wire = |moved: pb::Move| {
        let shard = ShardId(u16::try_from(moved.shard).ok()?);
        let node = (moved.node != 0).then_some(NodeId(moved.node));
        let pb::Move { text, has, of, silent, .. } = moved;
        Some((
            shard,
            ShardMoveProgress {
                text,
                node,
                matched_index: has,
                last_index: of,
                unresponsive: silent,
            },
        ))
    };
    Ok(response.into_inner().moves.into_iter().filter_map(from_wire).collect())
}

/// The response to a node that asks this one.
pub(super) fn to_response(moves: BTreeMap<ShardId, ShardMoveProgress>) -> pb::MovesResponse {
    let to_wire = |(shard, progress): (ShardId, ShardMoveProgress)| pb::Move {
        shard: u32::from(shard.0),
        text: progress.text,
        node: progress.node.map_or(0, |node| node.0),
        has: progress.matched_index,
        of: progress.last_index,
        silent: progress.unresponsive,
    };
    pb::MovesResponse { moves: moves.into_iter().map(to_wire).collect() }
}

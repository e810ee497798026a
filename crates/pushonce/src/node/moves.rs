//! What the shards of the whole cluster do on their way: each owner says it of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pushonce_control::condition::LAG_ENTRIES;
use pushonce_control::reconcile;
use pushonce_core::{ClusterView, NodeId, Owners, ShardId};
use pushonce_proto::cluster::Progress;
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_client::MembershipClient;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Endpoint;

/// An operator waits for the slowest: who has not answered within this is left out.
const PATIENCE: Duration = Duration::from_secs(1);

/// What this node says of the shards it leads.
pub(super) fn local(
    progress: BTreeMap<ShardId, reconcile::Progress>,
) -> BTreeMap<ShardId, Progress> {
    let said = |(shard, progress): (ShardId, reconcile::Progress)| {
        let (has, of) = match progress {
            reconcile::Progress::CatchesUp { has, of, .. } => (has, of),
            _ => (0, 0),
        };
        let silent = matches!(progress, reconcile::Progress::Silent(_));
        let (text, node) = (progress.to_string(), progress.node());
        (shard, Progress { text, node, has, of, silent })
    };
    progress.into_iter().map(said).collect()
}

/// What the owners of shards say of those that move, or of which a replica lags, `known` among them.
pub(super) async fn gather(
    view: &ClusterView,
    owners: &Owners,
    reachable: &BTreeSet<NodeId>,
    mut known: BTreeMap<ShardId, Progress>,
) -> BTreeMap<ShardId, Progress> {
    let until = Instant::now() + PATIENCE;
    let owners: BTreeSet<NodeId> = owners.claims().map(|claim| claim.owner).collect();
    let mut asked: FuturesUnordered<_> = owners
        .into_iter()
        .filter(|node| reachable.contains(node))
        .filter_map(|node| view.member(node))
        .map(|member| ask(member.addresses.peer.clone()))
        .collect();
    while let Ok(Some(moves)) = timeout_at(until, asked.next()).await {
        // Who cannot answer says nothing.
        known.extend(moves.unwrap_or_default());
    }
    known
}

/// The replicas that lack much or answer nothing, by what the owners of their shards say.
pub(super) fn lagging(progress: &BTreeMap<ShardId, Progress>) -> BTreeMap<ShardId, NodeId> {
    let lags = |said: &&Progress| said.silent || said.of.saturating_sub(said.has) >= LAG_ENTRIES;
    let node = |(&shard, said): (&ShardId, &Progress)| {
        Some((shard, Some(said).filter(lags).and_then(|said| said.node)?))
    };
    progress.iter().filter_map(node).collect()
}

async fn ask(address: String) -> Result<BTreeMap<ShardId, Progress>, anyhow::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(PATIENCE);
    let mut client = MembershipClient::new(endpoint.connect().await?);
    let answer = client.moves(pb::MovesRequest {}).await?.into_inner();
    let progress = |said: pb::Move| {
        let shard = ShardId(u16::try_from(said.shard).ok()?);
        let node = (said.node != 0).then_some(NodeId(said.node));
        let pb::Move { text, has, of, silent, .. } = said;
        Some((shard, Progress { text, node, has, of, silent }))
    };
    Ok(answer.moves.into_iter().filter_map(progress).collect())
}

/// For those who ask this node.
pub(super) fn answer(moves: BTreeMap<ShardId, Progress>) -> pb::MovesResponse {
    let said = |(shard, progress): (ShardId, Progress)| pb::Move {
        shard: u32::from(shard.0),
        text: progress.text,
        node: progress.node.map_or(0, |node| node.0),
        has: progress.has,
        of: progress.of,
        silent: progress.silent,
    };
    pb::MovesResponse { moves: moves.into_iter().map(said).collect() }
}

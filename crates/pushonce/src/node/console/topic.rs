//! `GET /console/data/topic` and `GET /console/data/explain`: the state of one topic, and the route of its messages.

use pushonce_core::{
    ClusterView, Durability, FetchError, Namespace, NodeId, Offset, Position, ShardId, ShardOwners,
    Topic, UnavailableReason, UpstreamRoute, select_upstream,
};
use pushonce_proto::cluster::TopicInfo;
use pushonce_publish::TopicDirectory as _;
use serde::Serialize;

use super::ConsoleData;

/// Maximum length of a route. It has at most three nodes while all of them know the same view.
const HOPS_MAX: usize = 4;

#[derive(Serialize)]
pub(super) struct TopicJson {
    topic: String,
    shard: u16,
    owner: String,
    replicas: Vec<String>,
    /// The position of the newest message.
    position: String,
    /// The position of the oldest message in the history, if there is one.
    oldest: Option<String>,
    history_messages: u64,
    history_bytes: u64,
    /// Absent while a new owner still counts.
    audience: Option<u64>,
    namespace: NamespaceJson,
}

/// The settings of the namespace of a topic.
#[derive(Serialize)]
struct NamespaceJson {
    name: String,
    /// Whether the namespace has settings of its own.
    is_named: bool,
    durability: &'static str,
    delivery: String,
    rate_max: Option<u16>,
    history_count_max: u32,
    history_bytes_max: u32,
    history_age_max_ms: u64,
    payload_bytes_max: u32,
    anonymous_read: bool,
    client_publish: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ExplainJson {
    topic: String,
    namespace: String,
    shard: u16,
    shards: u16,
    replicas: Vec<String>,
    /// From the owner to this node. Empty while the owner is not known.
    route: Vec<HopJson>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct HopJson {
    node: String,
    region: String,
    /// `owner`, `region_head` or `edge`. The owner that is this node is `owner`.
    role: &'static str,
}

/// The state of a topic, as its owner reports it.
///
/// # Errors
/// [`FetchError`] while the owner is unknown or does not respond.
pub(super) async fn topic(data: &ConsoleData, topic: Topic) -> Result<TopicJson, FetchError> {
    let info = data.topics.describe(topic).await?;
    let view = data.overview.view.borrow().clone();
    let replicas = replicas_of(&view, info.shard);
    let oldest = oldest(&info).map(|position| position.to_string());
    let name = info.topic.namespace().to_owned();
    let is_named = view.namespaces.named.contains_key(&name);
    let settings = view.namespaces.for_topic(&info.topic);
    Ok(TopicJson {
        namespace: NamespaceJson::new(name, is_named, settings),
        topic: info.topic.to_string(),
        shard: info.shard.0,
        owner: info.owner.to_string(),
        replicas,
        position: info.head.to_string(),
        oldest,
        history_messages: info.history_count,
        history_bytes: info.history_bytes,
        audience: info.audience,
    })
}

/// The shard of a topic, and the route of its messages to this node, as this node sees it: another region's nodes may see
/// other links.
///
/// # Errors
/// [`FetchError::Unavailable`] while this node does not know how many shards there are.
pub(super) fn explain(data: &ConsoleData, topic: &Topic) -> Result<ExplainJson, FetchError> {
    let overview = &data.overview;
    let view = overview.view.borrow().clone();
    let owners = overview.owners.borrow().clone();
    let reachable = overview.reachable_nodes.borrow().clone();
    let shard = view.shard_of(topic).ok_or(UnavailableReason::NoView)?;
    let route = route(&view, &owners, shard, overview.me, |node| reachable.contains(&node));
    Ok(ExplainJson {
        topic: topic.to_string(),
        namespace: topic.namespace().to_owned(),
        shard: shard.0,
        shards: view.shards.get(),
        replicas: replicas_of(&view, shard),
        route: route
            .unwrap_or_default()
            .into_iter()
            .rev()
            .map(|hop| hop_json(&view, hop))
            .collect(),
    })
}

/// The nodes from `me` to the owner, each with its role; `None` without a known owner.
fn route(
    view: &ClusterView,
    owners: &ShardOwners,
    shard: ShardId,
    me: NodeId,
    is_reachable: impl Fn(NodeId) -> bool,
) -> Option<Vec<(NodeId, &'static str)>> {
    let (mut route, mut node) = (Vec::new(), me);
    while route.len() < HOPS_MAX {
        let heads = view.region_heads(view.region_of(node));
        match select_upstream(shard, node, view, owners, &heads, &is_reachable) {
            UpstreamRoute::Local => {
                route.push((node, "owner"));
                return Some(route);
            }
            UpstreamRoute::Node(upstream) => {
                let crosses = view.region_of(upstream) != view.region_of(node);
                route.push((node, if crosses { "region_head" } else { "edge" }));
                node = upstream;
            }
            UpstreamRoute::Unknown => return None,
        }
    }
    None
}

fn hop_json(view: &ClusterView, (node, role): (NodeId, &'static str)) -> HopJson {
    HopJson { node: node.to_string(), region: view.region_of(node).to_owned(), role }
}

fn replicas_of(view: &ClusterView, shard: ShardId) -> Vec<String> {
    view.placement.replicas_of(shard).iter().map(NodeId::to_string).collect()
}

fn oldest(info: &TopicInfo) -> Option<Position> {
    let before = info.history_count.checked_sub(1)?;
    let offset = info.head.offset.0.checked_sub(before)?;
    Some(Position { epoch: info.head.epoch, offset: Offset(offset) })
}

impl NamespaceJson {
    fn new(name: String, is_named: bool, settings: &Namespace) -> NamespaceJson {
        NamespaceJson {
            name,
            is_named,
            durability: match settings.durability {
                Durability::Replicated => "replicated",
                Durability::Memory => "memory",
            },
            delivery: settings.delivery.to_string(),
            rate_max: settings.rate_max.map(std::num::NonZeroU16::get),
            history_count_max: settings.history.count_max,
            history_bytes_max: settings.history.bytes_max,
            history_age_max_ms: settings.history.age_max_ms,
            payload_bytes_max: settings.payload_bytes_max,
            anonymous_read: settings.access.anonymous_read,
            client_publish: settings.access.client_publish,
        }
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util::{claim, owners, view_in_regions};

    use super::*;

    /// The route from `me`, with the owner `owner` of the shard and all nodes reachable.
    fn route_from(me: u64, view: &ClusterView, owner: u64) -> Vec<(u64, &'static str)> {
        let shard = ShardId(7);
        let owners = owners([claim(shard.0, owner, 1)]);
        let route = route(view, &owners, shard, NodeId(me), |_| true).expect("a known owner");
        route.into_iter().map(|(node, role)| (node.0, role)).collect()
    }

    #[test]
    fn route_enters_a_region_at_its_head() {
        let view = view_in_regions(&["eu", "eu", "us", "us", "us"]);
        assert_eq!(route_from(1, &view, 1), [(1, "owner")]);
        assert_eq!(route_from(2, &view, 1), [(2, "edge"), (1, "owner")]);
        let heads = view.region_heads("us");
        let order: Vec<u64> = heads.candidates(ShardId(7)).iter().map(|node| node.0).collect();
        let (head, other) = (order[0], order[1]);
        assert_eq!(route_from(head, &view, 1), [(head, "region_head"), (1, "owner")]);
        let expected = [(other, "edge"), (head, "region_head"), (1, "owner")];
        assert_eq!(route_from(other, &view, 1), expected);
    }

    #[test]
    fn route_without_a_known_owner_is_unknown() {
        let view = view_in_regions(&["eu", "eu"]);
        assert_eq!(route(&view, &owners([]), ShardId(7), NodeId(1), |_| true), None);
    }
}

//! Queries about the topics of the whole cluster: which node to ask, stored messages, subscriber counts.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, join_all};
use pushonce_core::{
    FetchError, NodeId, ShardId, ShardOwners, Topic, TopicRemoval, UnavailableReason,
};
use pushonce_peer::{DialError, PeerChannel};
use pushonce_proto::cluster::{self, RemovedMessages, TopicInfo, TopicList, TopicQuery};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::topics_service_client::TopicsServiceClient;
use pushonce_publish::{AdminError, TOPICS_MAX};
use tokio::sync::watch;
use tonic::{Response, Status};

use super::owned_topics::OwnedTopics;
use super::stored_messages::StoredMessages;

/// Timeout of a request to another node: longer than a busy node takes, shorter than a user's patience.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout of a removal at another node: longer than the owner waits for its majority.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum age of a cached audience. A page that a million people load costs the owner one request per
/// second and node.
const AUDIENCE_AGE_MAX: Duration = Duration::from_secs(1);

/// Maximum number of cached audiences (one to two MiB). Beyond it each request goes to the owner.
const CACHED_AUDIENCES_MAX: usize = 4_096;

/// A client of all owners. Cheap to clone.
#[derive(Clone)]
pub(super) struct ClusterTopics {
    owned: OwnedTopics,
    owners: watch::Receiver<Arc<ShardOwners>>,
    audience_cache: Arc<Mutex<HashMap<Topic, CachedAudience>>>,
}

/// Maximum number of pages of topics counted before a namespace becomes memory-only: 100,000 topics.
const COUNTED_PAGES_MAX: usize = 100;

type AudienceResult = Result<u64, FetchError>;

/// The number of subscribers, and when the owner reported it.
struct CachedAudience {
    requested_at: Instant,
    result: Shared<BoxFuture<'static, AudienceResult>>,
}

impl ClusterTopics {
    pub(super) fn new(
        owned: OwnedTopics,
        owners: watch::Receiver<Arc<ShardOwners>>,
    ) -> ClusterTopics {
        ClusterTopics { owned, owners, audience_cache: Arc::default() }
    }

    async fn describe(self, topic: Topic) -> Result<TopicInfo, FetchError> {
        let shard = self.owned.shard_of(&topic)?;
        let owner = self.owners.borrow().owner_of(shard);
        match owner {
            None => Err(UnavailableReason::OwnerUnknown(shard).into()),
            Some(owner) if owner == self.owned.me => self.owned.describe(&topic).await,
            Some(owner) => {
                let mut client = self.client(owner)?;
                let call = client.topic(pb::TopicRequest { topic: topic.into() });
                self.response_of(owner, REQUEST_TIMEOUT, call).await
            }
        }
    }

    async fn remove(
        self,
        topic: Topic,
        removal: TopicRemoval,
    ) -> Result<RemovedMessages, AdminError> {
        let unavailable = |error: FetchError| AdminError::Unavailable(error.into());
        let shard = self.owned.shard_of(&topic).map_err(unavailable)?;
        let owner = self.owners.borrow().owner_of(shard);
        let owner =
            owner.ok_or_else(|| unavailable(UnavailableReason::OwnerUnknown(shard).into()))?;
        if owner == self.owned.me {
            let removed = self.owned.remove(topic, removal).await;
            return removed.map_err(|error| AdminError::Unavailable(error.into()));
        }
        let mut client = self.client(owner).map_err(unavailable)?;
        let call = client.remove_topic(cluster::removal_request(topic, removal));
        self.response_of(owner, REMOVAL_TIMEOUT, call).await.map_err(unavailable)
    }

    async fn list(self, query: TopicQuery) -> TopicList {
        let owners = self.owners.borrow().clone();
        let nodes: BTreeSet<_> = owners.claims().map(|claim| claim.owner).collect();
        let requests = nodes.into_iter().map(|node| {
            let list = self.list_node(node, &query);
            list.map(move |list| Some((node, list.ok()?)))
        });
        let lists = join_all(requests).await.into_iter().flatten();
        let shards = self.owned.view.borrow().shards;
        merge_lists(lists, &owners, shards.ids(), query.count_max as usize)
    }

    /// Counts the messages of a namespace's topics that are on the replicas' disks, as their owners report.
    pub(super) async fn count_stored(&self, namespace: &str) -> StoredMessages {
        let mut stored = StoredMessages::default();
        // The topic with the name of the namespace sorts before all topics inside the namespace.
        let query = TopicQuery { prefix: namespace.to_owned(), after: None, count_max: 1 };
        let first = self.clone().list(query).await;
        stored.add(&first, |topic| topic.as_str() == namespace);
        let (prefix, mut after) = (format!("{namespace}/"), None);
        for _ in 0..COUNTED_PAGES_MAX {
            let query =
                TopicQuery { prefix: prefix.clone(), after: after.take(), count_max: TOPICS_MAX };
            let page = self.clone().list(query).await;
            stored.add(&page, |_| true);
            let is_last_page = page.topics.len() < TOPICS_MAX as usize;
            after = page.topics.into_iter().next_back().map(|info| info.topic);
            if is_last_page || after.is_none() {
                return stored;
            }
        }
        stored.is_truncated = true;
        stored
    }

    async fn list_node(&self, node: NodeId, query: &TopicQuery) -> Result<TopicList, FetchError> {
        if node == self.owned.me {
            return Ok(self.owned.list(query).await);
        }
        let mut client = self.client(node)?;
        let request = pb::TopicsRequest::from(query.clone());
        self.response_of(node, REQUEST_TIMEOUT, client.topics(request)).await
    }

    /// The client of a node.
    fn client(&self, node: NodeId) -> Result<TopicsServiceClient<PeerChannel>, FetchError> {
        let channel = self.owned.transport.data_channel(node);
        let channel = channel.map_err(|error| request_failed(node, error.to_string()))?;
        Ok(TopicsServiceClient::new(channel))
    }

    /// Awaits the response of a node and converts it.
    async fn response_of<W, T>(
        &self,
        node: NodeId,
        within: Duration,
        call: impl Future<Output = Result<Response<W>, Status>>,
    ) -> Result<T, FetchError>
    where
        T: TryFrom<W, Error: std::fmt::Display>,
    {
        let failed = |error| match error {
            DialError::TimedOut(within) => {
                UnavailableReason::NoReply { node: Some(node), within }.into()
            }
            error => request_failed(node, error.to_string()),
        };
        let invalid = |error: T::Error| request_failed(node, format!("invalid response: {error}"));
        let response = self.owned.transport.check_response(node, within, call).await;
        let (_version, response) = response.map_err(failed)?;
        T::try_from(response.into_inner()).map_err(invalid)
    }

    fn request_audience(&self, topic: Topic) -> Shared<BoxFuture<'static, AudienceResult>> {
        let description = self.clone().describe(topic);
        let still_counting = FetchError::from(UnavailableReason::CountIncomplete);
        let audience = description.map(move |info| info?.audience.ok_or(still_counting));
        audience.boxed().shared()
    }
}

/// Merges the lists of several nodes. A claim may outlive the lease of its owner, and only the owner can
/// tell: a shard is unknown unless the node that claims it lists it.
pub(super) fn merge_lists(
    lists: impl Iterator<Item = (NodeId, TopicList)>,
    owners: &ShardOwners,
    shards: impl Iterator<Item = ShardId>,
    count_max: usize,
) -> TopicList {
    let (mut topics, mut unknown_shards) = (Vec::new(), shards.collect::<BTreeSet<_>>());
    for (node, list) in lists {
        let not_owned: BTreeSet<_> = list.unknown_shards.into_iter().collect();
        unknown_shards
            .retain(|&shard| owners.owner_of(shard) != Some(node) || not_owned.contains(&shard));
        topics.extend(list.topics);
    }
    topics.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    // Both nodes may list a shard that moves during the query.
    topics.dedup_by(|a, b| a.topic == b.topic);
    topics.truncate(count_max);
    TopicList { topics, unknown_shards: unknown_shards.into_iter().collect() }
}

fn request_failed(node: NodeId, error: impl Into<String>) -> FetchError {
    UnavailableReason::RequestFailed { node, error: error.into() }.into()
}

impl pushonce_publish::TopicDirectory for ClusterTopics {
    fn describe(&self, topic: Topic) -> BoxFuture<'static, Result<TopicInfo, FetchError>> {
        self.clone().describe(topic).boxed()
    }

    fn list(&self, query: TopicQuery) -> BoxFuture<'static, TopicList> {
        self.clone().list(query).boxed()
    }

    fn remove(
        &self,
        topic: Topic,
        removal: TopicRemoval,
    ) -> BoxFuture<'static, Result<RemovedMessages, AdminError>> {
        self.clone().remove(topic, removal).boxed()
    }
}

impl pushonce_gateway::AudienceSource for ClusterTopics {
    fn count(&self, topic: Topic) -> BoxFuture<'static, AudienceResult> {
        let mut cache = lock(&self.audience_cache);
        let is_fresh = |count: &CachedAudience| count.requested_at.elapsed() < AUDIENCE_AGE_MAX;
        if let Some(cached) = cache.get(&topic).filter(|count| is_fresh(count)) {
            return cached.result.clone().boxed();
        }
        if cache.len() >= CACHED_AUDIENCES_MAX {
            cache.retain(|_, count| is_fresh(count));
        }
        let result = self.request_audience(topic.clone());
        if cache.len() < CACHED_AUDIENCES_MAX {
            cache.insert(
                topic,
                CachedAudience { requested_at: Instant::now(), result: result.clone() },
            );
        }
        result.boxed()
    }
}

/// Ignores poisoning: each change behind these locks is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use pushonce_core::test_util;

    use super::*;

    #[test]
    fn shard_not_listed_by_its_owner_is_unknown() {
        let list = |unknown: &[u16]| TopicList {
            topics: Vec::new(),
            unknown_shards: unknown.iter().copied().map(ShardId).collect(),
        };
        let claims = [(0, 1), (1, 2), (2, 2), (3, 3)];
        let owners =
            test_util::owners(claims.map(|(shard, owner)| test_util::claim(shard, owner, 1)));
        let merged = |lists: Vec<(u64, TopicList)>| {
            let lists = lists.into_iter().map(|(node, list)| (NodeId(node), list));
            merge_lists(lists, &owners, (0..4).map(ShardId), 9).unknown_shards
        };
        // The second node has a claim of shard 2 but no lease; the third node does not answer.
        let lists = vec![(1, list(&[1, 2, 3])), (2, list(&[0, 2, 3]))];
        assert_eq!(merged(lists), [ShardId(2), ShardId(3)]);
        assert_eq!(
            merged(vec![(2, list(&[]))]),
            [ShardId(0), ShardId(3)],
            "lists of shards that the node does not claim do not count"
        );
        assert_eq!(merged(vec![]).len(), 4, "no node answered");
    }
}

//! Queries about the topics of the whole cluster: which node to ask, stored messages, subscriber counts.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, join_all};
use pushonce_core::{FailPoint, FetchError, NodeId, ShardId, ShardOwners, Topic};
use pushonce_peer::{DialError, PeerChannel};
use pushonce_proto::cluster::{TopicInfo, TopicList};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::topics_service_client::TopicsServiceClient;
use pushonce_publish::TOPICS_MAX;
use tokio::sync::watch;
use tonic::{Response, Status};

use super::owned_topics::OwnedTopics;

/// Timeout of a request to another node: longer than a busy node takes, shorter than a user's patience.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

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

/// The stored messages of the topics of a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoredMessages {
    topic_count: u64,
    message_count: u64,
    /// Shards whose owner did not answer.
    unknown_shards: BTreeSet<ShardId>,
    /// Whether there may be more topics: the count is limited to [`ClusterTopics::COUNTED_PAGES_MAX`].
    is_truncated: bool,
}

impl StoredMessages {
    fn add(&mut self, list: &TopicList, counts: impl Fn(&Topic) -> bool) {
        self.unknown_shards.extend(&list.unknown_shards);
        let has_counted_messages =
            |info: &&TopicInfo| info.history_count > 0 && counts(&info.topic);
        for info in list.topics.iter().filter(has_counted_messages) {
            self.topic_count += 1;
            self.message_count += info.history_count;
        }
    }

    /// Why the namespace may not become memory-only without `--force`; `None` when it may.
    pub(super) fn force_required(&self, namespace: &str) -> Option<String> {
        if FailPoint::StoredMessagesUncounted.is_active() {
            return None;
        }
        let StoredMessages {
            topic_count: topics,
            message_count: messages,
            unknown_shards,
            is_truncated: is_cut_off,
        } = self;
        if *topics == 0 && unknown_shards.is_empty() && !is_cut_off {
            return None;
        }
        let at_least = if *is_cut_off { "at least " } else { "" };
        let mut reason = format!(
            "{namespace} would move from its replicas' disks to its owners' memory, and \
             {at_least}{messages} stored messages of {topics} topics would be dropped"
        );
        if !unknown_shards.is_empty() {
            let shards: Vec<_> = unknown_shards.iter().map(ToString::to_string).collect();
            reason += &format!("; the owners of {} did not answer", shards.join(", "));
        }
        Some(reason + ": repeat with --force, or choose a new name")
    }
}

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
            None => Err(FetchError::Unavailable(format!(
                "the owner of {shard} is not known yet; retry"
            ))),
            Some(owner) if owner == self.owned.me => self.owned.describe(&topic).await,
            Some(owner) => {
                let mut client = self.client(owner)?;
                let call = client.topic(pb::TopicRequest { topic: topic.into() });
                self.response_of(owner, call).await
            }
        }
    }

    async fn list(self, prefix: String, after: Option<Topic>, count_max: usize) -> TopicList {
        let owners = self.owners.borrow().clone();
        let nodes: BTreeSet<_> = owners.claims().map(|claim| claim.owner).collect();
        let requests = nodes.into_iter().map(|node| {
            let list = self.list_node(node, &prefix, after.as_ref(), count_max);
            list.map(move |list| Some((node, list.ok()?)))
        });
        let lists = join_all(requests).await.into_iter().flatten();
        let shards = self.owned.view.borrow().shards;
        merge_lists(lists, &owners, shards.ids(), count_max)
    }

    /// Counts the messages of a namespace's topics that are on the replicas' disks, as their owners report.
    pub(super) async fn count_stored(&self, namespace: &str) -> StoredMessages {
        let mut stored = StoredMessages::default();
        // The topic with the name of the namespace sorts before all topics inside the namespace.
        let first = self.clone().list(namespace.to_owned(), None, 1).await;
        stored.add(&first, |topic| topic.as_str() == namespace);
        let (prefix, mut after) = (format!("{namespace}/"), None);
        for _ in 0..COUNTED_PAGES_MAX {
            let page = self.clone().list(prefix.clone(), after.take(), TOPICS_MAX).await;
            stored.add(&page, |_| true);
            let is_last_page = page.topics.len() < TOPICS_MAX;
            after = page.topics.into_iter().next_back().map(|info| info.topic);
            if is_last_page || after.is_none() {
                return stored;
            }
        }
        stored.is_truncated = true;
        stored
    }

    async fn list_node(
        &self,
        node: NodeId,
        prefix: &str,
        after: Option<&Topic>,
        count_max: usize,
    ) -> Result<TopicList, FetchError> {
        if node == self.owned.me {
            return Ok(self.owned.list(prefix, after, count_max).await);
        }
        let request = pb::TopicsRequest {
            prefix: prefix.to_owned(),
            after: after.map_or_else(String::new, Topic::to_string),
            count_max: u32::try_from(count_max).unwrap_or(u32::MAX),
        };
        let mut client = self.client(node)?;
        self.response_of(node, client.topics(request)).await
    }

    /// The client of a node.
    fn client(&self, node: NodeId) -> Result<TopicsServiceClient<PeerChannel>, FetchError> {
        let unavailable = |error: DialError| FetchError::Unavailable(error.to_string());
        let channel = self.owned.transport.data_channel(node).map_err(unavailable)?;
        Ok(TopicsServiceClient::new(channel))
    }

    /// Awaits the response of a node and converts it.
    async fn response_of<W, T>(
        &self,
        node: NodeId,
        call: impl Future<Output = Result<Response<W>, Status>>,
    ) -> Result<T, FetchError>
    where
        T: TryFrom<W, Error: std::fmt::Display>,
    {
        let unavailable = FetchError::Unavailable;
        let failed = |error| match error {
            DialError::TimedOut(timeout) => {
                unavailable(format!("{node} did not answer within {timeout:?}"))
            }
            error => unavailable(error.to_string()),
        };
        let invalid =
            |error: T::Error| unavailable(format!("{node} sent an invalid response: {error}"));
        let response = self.owned.transport.check_response(node, REQUEST_TIMEOUT, call).await;
        let (_version, response) = response.map_err(failed)?;
        T::try_from(response.into_inner()).map_err(invalid)
    }

    fn request_audience(&self, topic: Topic) -> Shared<BoxFuture<'static, AudienceResult>> {
        let description = self.clone().describe(topic);
        let still_counting =
            || FetchError::Unavailable("the topic's new owner is still counting; retry".to_owned());
        let audience = description.map(move |info| info?.audience.ok_or_else(still_counting));
        audience.boxed().shared()
    }
}

/// Merges the lists of several nodes. A claim may outlive the lease of its owner, and only the owner can
/// tell: a shard is unknown unless the node that claims it lists it.
fn merge_lists(
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

impl pushonce_publish::TopicDirectory for ClusterTopics {
    fn describe(&self, topic: Topic) -> BoxFuture<'static, Result<TopicInfo, FetchError>> {
        self.clone().describe(topic).boxed()
    }

    fn list(
        &self,
        prefix: String,
        after: Option<Topic>,
        count_max: usize,
    ) -> BoxFuture<'static, TopicList> {
        self.clone().list(prefix, after, count_max).boxed()
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
    fn namespace_without_stored_messages_may_become_memory_only() {
        assert_eq!(StoredMessages::default().force_required("chat"), None);
    }

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

    #[test]
    fn change_that_drops_stored_messages_names_them_and_the_unreachable_shards() {
        let stored =
            StoredMessages { topic_count: 2, message_count: 40, ..StoredMessages::default() };
        let reason = stored.force_required("chat").expect("a reason");
        assert!(
            reason.contains("40 stored messages of 2 topics") && reason.contains("--force"),
            "{reason}"
        );
        let unknown =
            StoredMessages { unknown_shards: [ShardId(3)].into(), ..StoredMessages::default() };
        assert!(
            unknown.force_required("chat").is_some_and(|reason| reason.contains("owners of s3"))
        );
        let many = StoredMessages { is_truncated: true, ..StoredMessages::default() };
        assert!(many.force_required("chat").is_some_and(|reason| reason.contains("at least 0")));
    }
}

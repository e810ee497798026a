//! The topics of the whole cluster: whom to ask for what there is of them, and how many watch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, join_all};
use pushonce_core::{FetchError, NodeId, Owners, ShardId, Topic};
use pushonce_proto::cluster::{TopicInfo, TopicList};
use pushonce_proto::pb::cluster::v1 as pb;
use pushonce_proto::pb::peer::v1::topics_client::TopicsClient;
use pushonce_proto::status::describe;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Response;
use tonic::transport::{Channel, Endpoint};

use super::owned::Owned;

/// A node that has not answered within this is not waited for any longer: longer than a busy one takes,
/// shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer that is younger serves everybody who asks: a page that a million people load costs the owner
/// one question a second and node.
const COUNT_AGE_MAX: Duration = Duration::from_secs(1);

/// Topics whose answers are kept. Over it each question goes to the owner; a mebibyte or two.
const COUNTS_MAX: usize = 4_096;

/// The way to every owner. Cheap to clone.
#[derive(Clone)]
pub(super) struct Topics {
    owned: Owned,
    owners: watch::Receiver<Arc<Owners>>,
    channels: Arc<Mutex<HashMap<NodeId, (String, Channel)>>>,
    counts: Arc<Mutex<HashMap<Topic, Count>>>,
}

type Answer = Result<u64, FetchError>;

/// How many watch, as was asked then.
struct Count {
    asked: Instant,
    answer: Shared<BoxFuture<'static, Answer>>,
}

impl Topics {
    pub(super) fn new(owned: Owned, owners: watch::Receiver<Arc<Owners>>) -> Topics {
        Topics { owned, owners, channels: Arc::default(), counts: Arc::default() }
    }

    async fn describe(self, topic: Topic) -> Result<TopicInfo, FetchError> {
        let shard = self.owned.shard_of(&topic);
        let owner = self.owners.borrow().of(shard);
        match owner {
            None => Err(FetchError::Unavailable(format!("the owner of {shard} is not known yet"))),
            Some(owner) if owner == self.owned.me => self.owned.describe(&topic).await,
            Some(owner) => {
                let mut client = self.client(owner)?;
                let asked = client.topic(pb::TopicRequest { topic: topic.into() });
                answered(owner, timeout(PATIENCE, asked).await)
            }
        }
    }

    async fn list(self, prefix: String, after: Option<Topic>, count_max: usize) -> TopicList {
        let shards = self.owned.view.borrow().shards;
        let owners = self.owners.borrow().clone();
        let mut unknown: BTreeSet<ShardId> =
            shards.ids().filter(|&shard| owners.of(shard).is_none()).collect();
        let mut nodes: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for claim in owners.claims() {
            nodes.entry(claim.owner).or_default().push(claim.shard);
        }
        let asked = nodes.into_iter().map(|(node, shards)| {
            let list = self.list_of(node, &prefix, after.as_ref(), count_max);
            list.map(|list| list.map_err(|_| shards))
        });
        let mut topics = Vec::new();
        for answer in join_all(asked).await {
            match answer {
                Ok(listed) => topics.extend(listed),
                Err(shards) => unknown.extend(shards),
            }
        }
        topics.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        // A shard that moves just now may be listed by both.
        topics.dedup_by(|a, b| a.topic == b.topic);
        topics.truncate(count_max);
        TopicList { topics, unknown_shards: unknown.into_iter().collect() }
    }

    async fn list_of(
        &self,
        node: NodeId,
        prefix: &str,
        after: Option<&Topic>,
        count_max: usize,
    ) -> Result<Vec<TopicInfo>, FetchError> {
        if node == self.owned.me {
            return Ok(self.owned.list(prefix, after, count_max).await);
        }
        let request = pb::TopicsRequest {
            prefix: prefix.to_owned(),
            after: after.map_or_else(String::new, Topic::to_string),
            count_max: u32::try_from(count_max).unwrap_or(u32::MAX),
        };
        let asked = timeout(PATIENCE, self.client(node)?.topics(request)).await;
        answered(node, asked).map(|list: TopicList| list.topics)
    }

    /// The connection to a node is made when it is first asked, and kept.
    fn client(&self, node: NodeId) -> Result<TopicsClient<Channel>, FetchError> {
        let view = self.owned.view.borrow().clone();
        let unknown = || FetchError::Unavailable(format!("{node} is no member of the cluster"));
        let address = &view.member(node).ok_or_else(unknown)?.addresses.peer;
        let mut channels = lock(&self.channels);
        channels.retain(|node, _| view.member(*node).is_some());
        if let Some((_, channel)) = channels.get(&node).filter(|(known, _)| known == address) {
            return Ok(TopicsClient::new(channel.clone()));
        }
        let wrong = |why| FetchError::Unavailable(format!("{node} has no address: {why}"));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(wrong)?;
        let channel = endpoint.connect_timeout(PATIENCE).tcp_nodelay(true).connect_lazy();
        channels.insert(node, (address.clone(), channel.clone()));
        Ok(TopicsClient::new(channel))
    }

    fn ask_audience(&self, topic: Topic) -> Shared<BoxFuture<'static, Answer>> {
        let described = self.clone().describe(topic);
        let counting = || FetchError::Unavailable("the topic's new owner still counts".to_owned());
        let count = described.map(move |info| info?.audience.ok_or_else(counting));
        count.boxed().shared()
    }
}

/// What came of a question to a node.
fn answered<W, T>(
    node: NodeId,
    answer: Result<Result<Response<W>, tonic::Status>, tokio::time::error::Elapsed>,
) -> Result<T, FetchError>
where
    T: TryFrom<W, Error: std::fmt::Display>,
{
    let unavailable = FetchError::Unavailable;
    let late = |_| unavailable(format!("{node} did not answer within {PATIENCE:?}"));
    let refused = |status: tonic::Status| unavailable(describe(&status));
    let unread = |why: T::Error| unavailable(format!("{node} gave no answer: {why}"));
    T::try_from(answer.map_err(late)?.map_err(refused)?.into_inner()).map_err(unread)
}

impl pushonce_publish::Topics for Topics {
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

impl pushonce_gateway::Audience for Topics {
    fn of(&self, topic: Topic) -> BoxFuture<'static, Answer> {
        let mut counts = lock(&self.counts);
        let young = |count: &Count| count.asked.elapsed() < COUNT_AGE_MAX;
        if let Some(count) = counts.get(&topic).filter(|count| young(count)) {
            return count.answer.clone().boxed();
        }
        if counts.len() >= COUNTS_MAX {
            counts.retain(|_, count| young(count));
        }
        let answer = self.ask_audience(topic.clone());
        if counts.len() < COUNTS_MAX {
            counts.insert(topic, Count { asked: Instant::now(), answer: answer.clone() });
        }
        answer.boxed()
    }
}

/// Each change behind these locks is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The topics of the whole cluster: whom to ask for what there is of them, and how many watch.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, join_all};
use pushonce_core::{FetchError, NodeId, Owners, ShardId, Topic};
use pushonce_proto::cluster::{TopicInfo, TopicList};
use pushonce_proto::pb::cluster::v1 as pb;
use pushonce_proto::pb::peer::v1::topics_client::TopicsClient;
use pushonce_proto::status::describe;
use pushonce_publish::TOPICS_MAX;
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

/// Pages of topics that are counted before a namespace goes into memory: a hundred thousand topics.
const STORED_PAGES_MAX: usize = 100;

type Answer = Result<u64, FetchError>;

/// What the topics of a namespace have stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    topics: u64,
    messages: u64,
    /// Shards whose owner could not be asked.
    unknown_shards: BTreeSet<ShardId>,
    /// Whether there may be more: only so many are counted.
    is_cut_off: bool,
}

impl Stored {
    fn add(&mut self, list: &TopicList, counts: impl Fn(&Topic) -> bool) {
        self.unknown_shards.extend(&list.unknown_shards);
        let stores = |info: &&TopicInfo| info.history_count > 0 && counts(&info.topic);
        for info in list.topics.iter().filter(stores) {
            self.topics += 1;
            self.messages += info.history_count;
        }
    }

    /// Why the namespace may not go into its owners' memory without force; `None` when it may.
    pub(super) fn obstacle(&self, namespace: &str) -> Option<String> {
        #[cfg(feature = "planted-bugs")]
        if super::planted::counts_nothing_stored() {
            return None;
        }
        let Stored { topics, messages, unknown_shards, is_cut_off } = self;
        if *topics == 0 && unknown_shards.is_empty() && !is_cut_off {
            return None;
        }
        let at_least = if *is_cut_off { "at least " } else { "" };
        let mut why = format!(
            "{namespace} would go from its replicas' disks into its owners' memory, and \
             {at_least}{messages} stored messages of {topics} topics would be dropped"
        );
        if !unknown_shards.is_empty() {
            let shards: Vec<_> = unknown_shards.iter().map(ToString::to_string).collect();
            why += &format!("; the owners of {} could not be asked", shards.join(", "));
        }
        Some(why + ": say --force, or choose a new name")
    }
}

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
        let shard = self.owned.shard_of(&topic)?;
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
        let owners = self.owners.borrow().clone();
        let nodes: BTreeSet<_> = owners.claims().map(|claim| claim.owner).collect();
        let asked = nodes.into_iter().map(|node| {
            let list = self.list_of(node, &prefix, after.as_ref(), count_max);
            list.map(move |list| Some((node, list.ok()?)))
        });
        let lists = join_all(asked).await.into_iter().flatten();
        let shards = self.owned.view.borrow().shards;
        merged(lists, &owners, shards.ids(), count_max)
    }

    /// What the topics of a namespace have on the replicas' disks, as their owners say.
    pub(super) async fn stored(&self, namespace: &str) -> Stored {
        let mut stored = Stored::default();
        // The topic that is called as its namespace comes before all others that begin so.
        let first = self.clone().list(namespace.to_owned(), None, 1).await;
        stored.add(&first, |topic| topic.as_str() == namespace);
        let (prefix, mut after) = (format!("{namespace}/"), None);
        for _ in 0..STORED_PAGES_MAX {
            let page = self.clone().list(prefix.clone(), after.take(), TOPICS_MAX).await;
            stored.add(&page, |_| true);
            let ended = page.topics.len() < TOPICS_MAX;
            after = page.topics.into_iter().next_back().map(|info| info.topic);
            if ended || after.is_none() {
                return stored;
            }
        }
        stored.is_cut_off = true;
        stored
    }

    async fn list_of(
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
        answered(node, timeout(PATIENCE, self.client(node)?.topics(request)).await)
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

/// The answers of several nodes as one. A claim may outlive the lease of its owner, and only an owner
/// can tell: a shard is unknown unless the node that claims it lists it.
fn merged(
    lists: impl Iterator<Item = (NodeId, TopicList)>,
    owners: &Owners,
    shards: impl Iterator<Item = ShardId>,
    count_max: usize,
) -> TopicList {
    let (mut topics, mut unknown) = (Vec::new(), shards.collect::<BTreeSet<_>>());
    for (node, list) in lists {
        let others: BTreeSet<_> = list.unknown_shards.into_iter().collect();
        unknown.retain(|&shard| owners.of(shard) != Some(node) || others.contains(&shard));
        topics.extend(list.topics);
    }
    topics.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    // A shard that moves just now may be listed by both.
    topics.dedup_by(|a, b| a.topic == b.topic);
    topics.truncate(count_max);
    TopicList { topics, unknown_shards: unknown.into_iter().collect() }
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

#[cfg(test)]
mod tests {
    use pushonce_core::{Claim, Term};

    use super::*;

    #[test]
    fn a_namespace_without_stored_messages_may_go_into_memory() {
        assert_eq!(Stored::default().obstacle("chat"), None);
    }

    #[test]
    fn a_shard_that_its_owner_does_not_list_is_unknown() {
        let list = |unknown: &[u16]| TopicList {
            topics: Vec::new(),
            unknown_shards: unknown.iter().copied().map(ShardId).collect(),
        };
        let mut owners = Owners::default();
        for (shard, owner) in [(0, 1), (1, 2), (2, 2), (3, 3)] {
            owners.hear(Claim {
                shard: ShardId(shard),
                owner: NodeId(owner),
                term: Term(1),
                membership: 1,
                voters: vec![NodeId(owner)],
                learners: Vec::new(),
            });
        }
        let merged = |lists: Vec<(u64, TopicList)>| {
            let lists = lists.into_iter().map(|(node, list)| (NodeId(node), list));
            merged(lists, &owners, (0..4).map(ShardId), 9).unknown_shards
        };
        // The second node has a claim of shard 2 and no lease, and the third does not answer.
        let said = vec![(1, list(&[1, 2, 3])), (2, list(&[0, 2, 3]))];
        assert_eq!(merged(said), [ShardId(2), ShardId(3)]);
        assert_eq!(merged(vec![(2, list(&[]))]), [ShardId(0), ShardId(3)], "of another's shards");
        assert_eq!(merged(vec![]).len(), 4, "nobody answered");
    }

    #[test]
    fn stored_messages_and_shards_that_could_not_be_asked_are_named() {
        let stored = Stored { topics: 2, messages: 40, ..Stored::default() };
        let why = stored.obstacle("chat").expect("there are some");
        assert!(why.contains("40 stored messages of 2 topics") && why.contains("--force"), "{why}");
        let unknown = Stored { unknown_shards: [ShardId(3)].into(), ..Stored::default() };
        assert!(unknown.obstacle("chat").is_some_and(|why| why.contains("owners of s3")));
        let many = Stored { is_cut_off: true, ..Stored::default() };
        assert!(many.obstacle("chat").is_some_and(|why| why.contains("at least 0")));
    }
}

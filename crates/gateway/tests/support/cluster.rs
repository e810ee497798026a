//! An in-memory cluster behind the gateway. One task handles all requests, so that they have one order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::LocalBoxStream;
use futures::{FutureExt, StreamExt};
use pushonce_core::{
    Acknowledgement, ContentType, FetchError, Gap, GapReason, History, HistoryPage, HistoryRange,
    Message, Position, Publish, PublishError, Timestamp, Topic, UnavailableReason,
};
use pushonce_fanout::{Hub, Retention, Upstream};
use pushonce_gateway::{AudienceSource, PublishRouter};
use tokio::sync::{mpsc, oneshot, watch};

use super::with_timeout;

/// The epoch of every topic.
pub const EPOCH: u64 = 7;

#[derive(Clone)]
pub struct FakeCluster {
    requests: mpsc::UnboundedSender<ClusterRequest>,
    watched: watch::Receiver<HashSet<Topic>>,
}

pub struct FakeClusterTask {
    requests: mpsc::UnboundedReceiver<ClusterRequest>,
    topics: HashMap<Topic, Vec<Arc<Message>>>,
    /// How many messages of a topic are no longer in its history.
    expired: HashMap<Topic, usize>,
    payload_bytes_max: usize,
    watched: watch::Sender<HashSet<Topic>>,
}

enum ClusterRequest {
    PayloadMax(usize),
    SetLive(Topic, bool),
    SetAudience(Topic, u64),
    Expire(Topic, usize),
    Watch(Topic),
    Unwatch(Topic),
    Fetch(Topic, HistoryRange, oneshot::Sender<Result<HistoryPage, FetchError>>),
    Publish(Publish, oneshot::Sender<Result<Acknowledgement, PublishError>>),
}

impl FakeCluster {
    pub fn new() -> (FakeCluster, FakeClusterTask) {
        let (sender, requests) = mpsc::unbounded_channel();
        let (watched_sender, watched) = watch::channel(HashSet::new());
        let payload_bytes_max = Publish::PAYLOAD_BYTES_DEFAULT;
        let task = FakeClusterTask {
            requests,
            topics: HashMap::new(),
            expired: HashMap::new(),
            payload_bytes_max,
            watched: watched_sender,
        };
        (FakeCluster { requests: sender, watched }, task)
    }

    pub fn upstream(&self) -> Arc<dyn Upstream> {
        Arc::new(self.clone())
    }

    pub fn publisher(&self) -> Arc<dyn PublishRouter> {
        Arc::new(self.clone())
    }

    pub fn audience_source(&self) -> Arc<dyn AudienceSource> {
        Arc::new(self.clone())
    }

    /// Publishes a text without going through the gateway.
    pub async fn publish_text(&self, topic: &str, text: &str) -> Position {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        let (topic, content_type) = (Topic::new(topic).expect("valid"), ContentType::Text);
        let publish = Publish { topic, content_type, key: None, publish_id: None, payload };
        PublishRouter::publish(self, publish).await.expect("published").position
    }

    /// Sets the maximum payload size.
    pub fn set_payload_bytes_max(&self, max: usize) {
        self.requests.send(ClusterRequest::PayloadMax(max)).ok();
    }

    /// Marks a topic live or stale.
    pub fn set_live(&self, name: &str, live: bool) {
        let topic = Topic::new(name).expect("valid");
        self.requests.send(ClusterRequest::SetLive(topic, live)).ok();
    }

    /// Reports the number of subscribers of a topic to the hub.
    pub fn set_audience(&self, name: &str, sessions: u64) {
        let topic = Topic::new(name).expect("valid");
        self.requests.send(ClusterRequest::SetAudience(topic, sessions)).ok();
    }

    /// Drops the history of a topic but the newest `keep` messages.
    pub fn expire(&self, name: &str, keep: usize) {
        let topic = Topic::new(name).expect("valid");
        self.requests.send(ClusterRequest::Expire(topic, keep)).ok();
    }

    /// Waits until the node watches no topic.
    pub async fn wait_until_unwatched(&self) {
        let mut watched = self.watched.clone();
        with_timeout(watched.wait_for(HashSet::is_empty)).await.expect("the cluster task runs");
    }

    fn request<T: Send + 'static>(
        &self,
        make_request: impl FnOnce(oneshot::Sender<T>) -> ClusterRequest,
    ) -> BoxFuture<'static, T> {
        let (sender, reply) = oneshot::channel();
        self.requests.send(make_request(sender)).ok();
        reply.map(|reply| reply.expect("the cluster task runs")).boxed()
    }
}

impl Upstream for FakeCluster {
    fn watch(&self, topic: &Topic, _: Option<Position>) {
        self.requests.send(ClusterRequest::Watch(topic.clone())).ok();
    }

    fn unwatch(&self, topic: &Topic) {
        self.requests.send(ClusterRequest::Unwatch(topic.clone())).ok();
    }

    fn fetch(
        &self,
        topic: Topic,
        range: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        self.request(|sender| ClusterRequest::Fetch(topic, range, sender))
    }

    /// The fake cluster keeps all messages, so it returns the largest history that a namespace may have.
    fn retention(&self, _: &Topic) -> Retention {
        let history = History { count_max: History::COUNT_CAP, ..History::default() };
        Retention { history, ..Retention::default() }
    }
}

impl PublishRouter for FakeCluster {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        self.request(|sender| ClusterRequest::Publish(publish, sender))
    }

    fn publish_ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Acknowledgement, PublishError>> {
        let cluster = self.clone();
        input
            .map(move |publish| PublishRouter::publish(&cluster, publish))
            .buffered(64)
            .boxed_local()
    }
}

/// The count is the length of the topic name. Counts of topics that begin with `away` are unavailable.
impl AudienceSource for FakeCluster {
    fn count(&self, topic: Topic) -> BoxFuture<'static, Result<u64, FetchError>> {
        let known = !topic.as_str().starts_with("away");
        let count = topic.as_str().len() as u64;
        let unknown = FetchError::from(UnavailableReason::NoMajority);
        async move { known.then_some(count).ok_or(unknown) }.boxed()
    }
}

impl FakeClusterTask {
    pub async fn run(mut self, hub: Hub) {
        while let Some(request) = self.requests.recv().await {
            match request {
                ClusterRequest::Watch(topic) => {
                    hub.mark_live_at(&topic, self.head(&topic));
                    self.watched.send_modify(|watched| _ = watched.insert(topic));
                }
                ClusterRequest::Unwatch(topic) => {
                    self.watched.send_modify(|watched| _ = watched.remove(&topic));
                }
                ClusterRequest::PayloadMax(max) => self.payload_bytes_max = max,
                ClusterRequest::SetLive(topic, true) => hub.mark_live(&topic),
                ClusterRequest::SetLive(topic, false) => hub.mark_stale(&topic),
                ClusterRequest::SetAudience(topic, sessions) => hub.set_audience(&topic, sessions),
                ClusterRequest::Expire(topic, keep) => {
                    let messages = self.topics.get_mut(&topic).expect("published");
                    let first = messages.len() - keep;
                    self.expired.insert(topic, first);
                }
                ClusterRequest::Fetch(topic, range, sender) => {
                    sender.send(self.page(&topic, range)).ok();
                }
                ClusterRequest::Publish(publish, sender) => {
                    sender.send(self.publish(&hub, publish)).ok();
                }
            }
        }
    }

    fn head(&self, topic: &Topic) -> Position {
        let newest = self.topics.get(topic).and_then(|messages| messages.last());
        newest.map_or(Position::ZERO, |message| message.position)
    }

    fn page(&self, topic: &Topic, range: HistoryRange) -> Result<HistoryPage, FetchError> {
        let head = self.head(topic);
        let expired = self.expired.get(topic).copied().unwrap_or(0);
        let all = self.topics.get(topic).map_or(&[][..], |messages| &messages[expired..]);
        let mut gap = None;
        let messages = match range {
            HistoryRange::After(requested) if requested > head => {
                return Err(FetchError::FuturePosition { requested, head });
            }
            HistoryRange::After(requested) => {
                let to = Position::new(EPOCH, expired as u64);
                if to > requested && expired > 0 {
                    gap = Some(Gap { from: requested.next(), to, reason: GapReason::Expired });
                }
                all.iter().filter(|message| message.position > requested).cloned().collect()
            }
            HistoryRange::Last(n) => all[all.len().saturating_sub(n as usize)..].to_vec(),
            HistoryRange::All => all.to_vec(),
        };
        Ok(HistoryPage { messages, head, gap })
    }

    fn publish(&mut self, hub: &Hub, publish: Publish) -> Result<Acknowledgement, PublishError> {
        publish.validate(self.payload_bytes_max)?;
        let messages = self.topics.entry(publish.topic.clone()).or_default();
        let message = Arc::new(Message {
            position: Position::new(EPOCH, messages.len() as u64 + 1),
            time: Timestamp(1_790_000_000_000),
            content_type: publish.content_type,
            key: publish.key,
            payload: publish.payload,
        });
        messages.push(message.clone());
        let acknowledgement = Acknowledgement {
            position: message.position,
            time: message.time,
            durability: Default::default(),
        };
        if self.watched.borrow().contains(&publish.topic) {
            hub.deliver(&publish.topic, &[message], None);
        }
        Ok(acknowledgement)
    }
}

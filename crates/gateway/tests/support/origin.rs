//! The cluster as the gateway sees it, in memory: one task, so that everything has one order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::LocalBoxStream;
use futures::{FutureExt, StreamExt};
use pushonce_core::{
    ContentType, FetchError, History, Message, Page, Placed, Position, Publish, PublishError,
    Timestamp, Topic, Want,
};
use pushonce_fanout::{Hub, Retention, Upstream};
use pushonce_gateway::{Audience, Publisher};
use tokio::sync::{mpsc, oneshot, watch};

use super::within;

/// Every topic lives its seventh life.
pub const EPOCH: u64 = 7;

#[derive(Clone)]
pub struct Origin {
    asks: mpsc::UnboundedSender<Ask>,
    watched: watch::Receiver<HashSet<Topic>>,
}

pub struct Feed {
    asks: mpsc::UnboundedReceiver<Ask>,
    topics: HashMap<Topic, Vec<Arc<Message>>>,
    payload_bytes_max: usize,
    watched: watch::Sender<HashSet<Topic>>,
}

enum Ask {
    PayloadMax(usize),
    Stand(Topic, bool),
    Audience(Topic, u64),
    Watch(Topic),
    Unwatch(Topic),
    Fetch(Topic, Want, oneshot::Sender<Result<Page, FetchError>>),
    Publish(Publish, oneshot::Sender<Result<Placed, PublishError>>),
}

impl Origin {
    pub fn new() -> (Origin, Feed) {
        let (tell, asks) = mpsc::unbounded_channel();
        let (now, watched) = watch::channel(HashSet::new());
        let payload_bytes_max = Publish::PAYLOAD_BYTES_DEFAULT;
        let feed = Feed { asks, topics: HashMap::new(), payload_bytes_max, watched: now };
        (Origin { asks: tell, watched }, feed)
    }

    pub fn upstream(&self) -> Arc<dyn Upstream> {
        Arc::new(self.clone())
    }

    pub fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.clone())
    }

    pub fn count(&self) -> Arc<dyn Audience> {
        Arc::new(self.clone())
    }

    /// Publishes text from somewhere else.
    pub async fn say(&self, topic: &str, text: &str) -> Position {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        let (topic, content_type) = (Topic::new(topic).expect("valid"), ContentType::Text);
        let publish = Publish { topic, content_type, key: None, stamp: None, payload };
        Publisher::publish(self, publish).await.expect("published").position
    }

    /// Takes payloads up to this from now on.
    pub fn set_payload_bytes_max(&self, max: usize) {
        self.asks.send(Ask::PayloadMax(max)).ok();
    }

    /// The node hears of a topic, or does not.
    pub fn stand(&self, name: &str, live: bool) {
        let topic = Topic::new(name).expect("valid");
        self.asks.send(Ask::Stand(topic, live)).ok();
    }

    /// The cluster says how many watch a topic.
    pub fn audience(&self, name: &str, sessions: u64) {
        let topic = Topic::new(name).expect("valid");
        self.asks.send(Ask::Audience(topic, sessions)).ok();
    }

    /// Ends when nobody on the node wants any topic.
    pub async fn left_alone(&self) {
        let mut watched = self.watched.clone();
        within(watched.wait_for(HashSet::is_empty)).await.expect("the origin lives");
    }

    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> BoxFuture<'static, T> {
        let (tell, answer) = oneshot::channel();
        self.asks.send(ask(tell)).ok();
        answer.map(|answer| answer.expect("the origin lives")).boxed()
    }
}

impl Upstream for Origin {
    fn watch(&self, topic: &Topic, _: Option<Position>) {
        self.asks.send(Ask::Watch(topic.clone())).ok();
    }

    fn unwatch(&self, topic: &Topic) {
        self.asks.send(Ask::Unwatch(topic.clone())).ok();
    }

    fn fetch(&self, topic: Topic, want: Want) -> BoxFuture<'static, Result<Page, FetchError>> {
        self.ask(|tell| Ask::Fetch(topic, want, tell))
    }

    /// It keeps everything, so it shows as much as any namespace may.
    fn retention(&self, _: &Topic) -> Retention {
        let history = History { count_max: History::COUNT_CAP, ..History::default() };
        Retention { history, ..Retention::default() }
    }
}

impl Publisher for Origin {
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        self.ask(|tell| Ask::Publish(publish, tell))
    }

    fn ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Placed, PublishError>> {
        let origin = self.clone();
        input.map(move |publish| Publisher::publish(&origin, publish)).buffered(64).boxed_local()
    }
}

/// As many as the topic's name has letters; nobody knows of one whose owner is away.
impl Audience for Origin {
    fn of(&self, topic: Topic) -> BoxFuture<'static, Result<u64, FetchError>> {
        let known = !topic.as_str().starts_with("away");
        let count = topic.as_str().len() as u64;
        let unknown = FetchError::Unavailable("its owner is away".to_owned());
        async move { known.then_some(count).ok_or(unknown) }.boxed()
    }
}

impl Feed {
    pub async fn run(mut self, hub: Hub) {
        while let Some(ask) = self.asks.recv().await {
            match ask {
                Ask::Watch(topic) => {
                    hub.live(&topic, self.head(&topic));
                    self.watched.send_modify(|watched| _ = watched.insert(topic));
                }
                Ask::Unwatch(topic) => {
                    self.watched.send_modify(|watched| _ = watched.remove(&topic));
                }
                Ask::PayloadMax(max) => self.payload_bytes_max = max,
                Ask::Stand(topic, true) => hub.fresh(&topic),
                Ask::Stand(topic, false) => hub.stale(&topic),
                Ask::Audience(topic, sessions) => hub.audience(&topic, sessions),
                Ask::Fetch(topic, want, tell) => {
                    tell.send(self.page(&topic, want)).ok();
                }
                Ask::Publish(publish, tell) => {
                    tell.send(self.publish(&hub, publish)).ok();
                }
            }
        }
    }

    fn head(&self, topic: &Topic) -> Position {
        let newest = self.topics.get(topic).and_then(|messages| messages.last());
        newest.map_or(Position::ZERO, |message| message.position)
    }

    fn page(&self, topic: &Topic, want: Want) -> Result<Page, FetchError> {
        let head = self.head(topic);
        let all = self.topics.get(topic).map_or(&[][..], Vec::as_slice);
        let messages = match want {
            Want::After(asked) if asked > head => return Err(FetchError::Future { asked, head }),
            Want::After(asked) => {
                all.iter().filter(|message| message.position > asked).cloned().collect()
            }
            Want::Last(n) => all[all.len().saturating_sub(n as usize)..].to_vec(),
            Want::All => all.to_vec(),
        };
        Ok(Page { messages, head, gap: None })
    }

    fn publish(&mut self, hub: &Hub, publish: Publish) -> Result<Placed, PublishError> {
        publish.check(self.payload_bytes_max)?;
        let messages = self.topics.entry(publish.topic.clone()).or_default();
        let message = Arc::new(Message {
            position: Position::new(EPOCH, messages.len() as u64 + 1),
            time: Timestamp(1_790_000_000_000),
            content_type: publish.content_type,
            key: publish.key,
            payload: publish.payload,
        });
        messages.push(message.clone());
        let placed = Placed {
            position: message.position,
            time: message.time,
            durability: Default::default(),
        };
        if self.watched.borrow().contains(&publish.topic) {
            hub.deliver(&publish.topic, &[message]);
        }
        Ok(placed)
    }
}

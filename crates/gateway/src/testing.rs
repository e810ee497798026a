//! A lane for the tests of what lives on one: no thread, no listener, and topics without a past.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::LocalBoxStream;
use futures::{FutureExt, StreamExt};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use pushonce_core::{
    ClusterId, ClusterView, ContentType, FetchError, Message, Page, Placed, Position, Publish,
    PublishError, Refusal, Timestamp, Topic, Want,
};
use pushonce_fanout::{Driver, Hub, Retention, Upstream, hub};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::lane::Local;
use crate::{Config, Encoder, MemoryUse, Publisher};

/// Far beyond what anything here takes; met only when something is lost.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Bench {
    pub(crate) local: Rc<Local>,
    /// The fan-out's, until it runs.
    driver: Option<Driver>,
    hub: Hub,
    pub(crate) interests: mpsc::UnboundedReceiver<Interest>,
}

/// What the hub tells the cluster behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Begins(Topic),
    Ends(Topic),
}

struct Nowhere(mpsc::UnboundedSender<Interest>);

/// Runs what lives on a lane, for no longer than a test may wait for what was lost.
pub(crate) async fn on_a_lane(life: impl Future<Output = ()>) {
    let lane = LocalSet::new();
    tokio::time::timeout(PATIENCE, lane.run_until(life)).await.expect("within patience");
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let (tell, interests) = mpsc::unbounded_channel();
        let nowhere = Arc::new(Nowhere(tell));
        let hub = Hub::new(hub::Config::default(), nowhere.clone(), Arc::new(Encoder));
        let (room, leaving) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
        let config = Arc::new(Config::default());
        let (fanout, driver) = hub.lane();
        let view = watch::channel(Arc::new(ClusterView::unknown(ClusterId(1)))).1;
        let local =
            Rc::new(Local::new(config, fanout, nowhere, view, room, MemoryUse::default(), leaving));
        Bench { local, driver: Some(driver), hub, interests }
    }

    /// Lets frames flow. On a lane only.
    pub(crate) fn fan_out(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.local.spawn(driver.run(CancellationToken::new()));
        }
    }

    /// The first message of a topic comes.
    pub(crate) fn publish(&self, topic: &Topic) {
        let message = Message {
            position: Position::new(1, 1),
            time: Timestamp(0),
            content_type: ContentType::Text,
            key: None,
            payload: "goal".into(),
        };
        self.hub.deliver(topic, &[message.into()]);
    }

    /// Waits until the hub wants the topic, and says that it has it.
    pub(crate) async fn live(&mut self, topic: &Topic) {
        assert_eq!(self.interests.recv().await, Some(Interest::Begins(topic.clone())));
        self.hub.live(topic, Position::ZERO);
    }
}

/// What one of a lane's meters counted.
pub(crate) struct Count {
    name: &'static str,
    transport: &'static str,
    so_far: Arc<AtomicU64>,
}

impl Count {
    pub(crate) fn of(name: &'static str, transport: &'static str) -> Count {
        Count { name, transport, so_far: Arc::default() }
    }

    pub(crate) fn so_far(&self) -> u64 {
        self.so_far.load(Ordering::Relaxed)
    }
}

impl Recorder for Count {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut labels = key.labels();
        let is_it = key.name() == self.name && labels.any(|label| label.value() == self.transport);
        if is_it { Counter::from_arc(self.so_far.clone()) } else { Counter::noop() }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

impl Upstream for Nowhere {
    fn watch(&self, topic: &Topic, _: Option<Position>) {
        self.0.send(Interest::Begins(topic.clone())).ok();
    }

    fn unwatch(&self, topic: &Topic) {
        self.0.send(Interest::Ends(topic.clone())).ok();
    }

    fn fetch(&self, _: Topic, want: Want) -> BoxFuture<'static, Result<Page, FetchError>> {
        let head = Position::ZERO;
        let page = match want {
            Want::After(asked) if asked > head => Err(FetchError::Future { asked, head }),
            _ => Ok(Page { messages: Vec::new(), head, gap: None }),
        };
        std::future::ready(page).boxed()
    }

    fn retention(&self, _: &Topic) -> Retention {
        Retention::default()
    }
}

fn refused() -> Result<Placed, PublishError> {
    Err(Refusal::Overloaded("nobody is behind this lane".to_owned()).into())
}

impl Publisher for Nowhere {
    fn publish(&self, _: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        std::future::ready(refused()).boxed()
    }

    fn ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Placed, PublishError>> {
        input.map(|_| refused()).boxed_local()
    }
}

//! Test support: a lane without a thread or a listener, whose topics have no history.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::LocalBoxStream;
use futures::{FutureExt, StreamExt};
use pushonce_auth::AccessControl;
use pushonce_core::{
    Acknowledgement, ClusterId, ClusterView, ContentType, FetchError, HistoryPage, HistoryRange,
    Message, OverloadReason, Position, Publish, PublishError, PublishRejection, Timestamp, Topic,
};
use pushonce_fanout::{Hub, LaneDriver, Retention, Upstream, hub};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::lane::LaneState;
use crate::reactor::{Reactor, ReactorDriver, SessionTcp};
use crate::socket::HttpSocket as _;
use crate::{ClientLimits, Config, Encoder, MemoryUse, PublishRouter};

/// Test timeout, far beyond the duration of any test. It expires only when something is lost.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct LaneHarness {
    pub(crate) lane: Rc<LaneState>,
    /// The driver of the fan-out, until [`LaneHarness::start_fanout`] runs it.
    fanout_driver: Option<LaneDriver>,
    /// The driver of the sockets, until [`LaneHarness::start_reactor`] runs it.
    reactor_driver: Option<ReactorDriver>,
    hub: Hub,
    pub(crate) upstream_events: mpsc::UnboundedReceiver<UpstreamEvent>,
}

/// A call of the hub to its upstream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UpstreamEvent {
    Watch(Topic),
    Unwatch(Topic),
}

struct FakeBackend(mpsc::UnboundedSender<UpstreamEvent>);

/// Runs a future that needs a lane, with a timeout.
pub(crate) async fn run_on_lane(future: impl Future<Output = ()>) {
    let local_set = LocalSet::new();
    tokio::time::timeout(TIMEOUT, local_set.run_until(future)).await.expect("the test timed out");
}

/// A client, and its connection on a reactor.
pub(crate) async fn connected_pair(reactor: &Rc<Reactor>) -> (TcpStream, SessionTcp) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).await.expect("a connection");
    let (accepted, _) = listener.accept().await.expect("a client");
    (client, accepted.into_session(reactor).expect("a registration"))
}

impl LaneHarness {
    pub(crate) fn new() -> LaneHarness {
        let (sender, upstream_events) = mpsc::unbounded_channel();
        let backend = Arc::new(FakeBackend(sender));
        let hub = Hub::new(hub::Config::default(), backend.clone(), Arc::new(Encoder));
        let draining = CancellationToken::new();
        let config = Arc::new(Config { connections_max: 0, ..Config::default() });
        let limits = ClientLimits::new(&config);
        let (fanout, fanout_driver) = hub.new_lane();
        let view = watch::channel(Arc::new(ClusterView::unknown(ClusterId(1)))).1;
        let created = LaneState::new(
            config,
            fanout,
            backend,
            AccessControl::open(view),
            MemoryUse::default(),
            limits,
            draining,
        );
        let (lane, reactor_driver) = created.expect("a lane");
        let lane = Rc::new(lane);
        LaneHarness {
            lane,
            reactor_driver: Some(reactor_driver),
            fanout_driver: Some(fanout_driver),
            hub,
            upstream_events,
        }
    }

    /// Starts the delivery of frames. Must be called within [`run_on_lane`].
    pub(crate) fn start_fanout(&mut self) {
        if let Some(fanout_driver) = self.fanout_driver.take() {
            self.lane.spawn(fanout_driver.run(CancellationToken::new()));
        }
    }

    /// Starts the tasks of the sessions. Must be called within [`run_on_lane`].
    pub(crate) fn start_reactor(&mut self) {
        if let Some(driver) = self.reactor_driver.take() {
            self.lane.spawn(driver.run().map(drop));
        }
    }

    /// Delivers the first message of a topic.
    pub(crate) fn publish(&self, topic: &Topic) {
        let message = Message {
            position: Position::new(1, 1),
            time: Timestamp(0),
            content_type: ContentType::Text,
            key: None,
            payload: "goal".into(),
        };
        self.hub.deliver(topic, &[message.into()], None);
    }

    /// Waits until the hub watches the topic, then marks it live.
    pub(crate) async fn set_live(&mut self, topic: &Topic) {
        assert_eq!(self.upstream_events.recv().await, Some(UpstreamEvent::Watch(topic.clone())));
        self.hub.mark_live_at(topic, Position::ZERO);
    }
}

impl Upstream for FakeBackend {
    fn watch(&self, topic: &Topic, _: Option<Position>) {
        self.0.send(UpstreamEvent::Watch(topic.clone())).ok();
    }

    fn unwatch(&self, topic: &Topic) {
        self.0.send(UpstreamEvent::Unwatch(topic.clone())).ok();
    }

    fn fetch(
        &self,
        _: Topic,
        range: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        let head = Position::ZERO;
        let page = match range {
            HistoryRange::After(requested) if requested > head => {
                Err(FetchError::FuturePosition { requested, head })
            }
            _ => Ok(HistoryPage { messages: Vec::new(), head, gap: None }),
        };
        std::future::ready(page).boxed()
    }

    fn retention(&self, _: &Topic) -> Retention {
        Retention::default()
    }
}

fn overloaded() -> Result<Acknowledgement, PublishError> {
    Err(PublishRejection::Overloaded(OverloadReason::PublishesToPeers).into())
}

impl PublishRouter for FakeBackend {
    fn publish(&self, _: Publish) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        std::future::ready(overloaded()).boxed()
    }

    fn publish_ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Acknowledgement, PublishError>> {
        input.map(|_| overloaded()).boxed_local()
    }
}

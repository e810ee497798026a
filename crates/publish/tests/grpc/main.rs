//! Tests of the gRPC server over loopback with the clients of a publisher, a back end and an operator,
//! against a fake node that owns every shard and stores every message.

mod access;
mod cluster;
mod limits;
mod publish;
mod subscribe;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use pushonce_auth::AccessControl;
use pushonce_core::{
    Acknowledgement, ClusterVersion, ClusterView, Delivery, FetchError, Gap, GapReason,
    JoinTokenId, Message, Namespace, NamespaceChange, Namespaces, NodeId, Placement, Position,
    Publish, PublishError, RevokedTokens, ShardId, ShardOwners, StartFrom, SubscribeAck,
    SubscribeOptions, Timestamp, Topic, TopicEvent, TopicRemoval, UnavailableReason, test_util,
};
use pushonce_listener::{AddressLimits, CallerRates, NamespaceRates, ReceiveBudget};
use pushonce_proto::cluster::{
    ControlGroupStatus, RemovedMessages, ReportedProblem, ShardMoveProgress, TopicInfo, TopicList,
    TopicQuery,
};
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::pb::publisher::v1::{PublishRequest, SubscribeRequest};
use pushonce_publish::{
    AdminError, ClusterAdmin, ClusterSnapshot, ClusterStatusProvider, LocalPublisher, NewJoinToken,
    PeerPublisher, Readiness, Router, Server, SubscriptionSource, SubscriptionSourceError,
    TopicDirectory, router, server,
};
use pushonce_telemetry::test_util::TestRecorder;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

const ME: NodeId = NodeId(1);
const LIVE: &str = "worldcup/2026/live";

struct FakeNode {
    view: Arc<ClusterView>,
    owners: Arc<ShardOwners>,
    head_offsets: Mutex<BTreeMap<Topic, u64>>,
}

impl LocalPublisher for FakeNode {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let mut head_offsets = self.head_offsets.lock().expect("not poisoned");
        let offset = head_offsets.entry(publish.topic).or_default();
        *offset += 1;
        let ack = Acknowledgement { time: Timestamp(1), ..test_util::acknowledgement(7, *offset) };
        future::ready(Ok(ack)).boxed()
    }
}

impl PeerPublisher for FakeNode {
    fn publish(
        &self,
        owner: NodeId,
        _: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        panic!("a publish was sent to {owner}, but this node owns every shard");
    }
}

impl SubscriptionSource for FakeNode {
    fn subscribe(
        &self,
        _: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> BoxFuture<
        'static,
        Result<(SubscribeAck, BoxStream<'static, TopicEvent>), SubscriptionSourceError>,
    > {
        let head = Position::new(7, 3);
        let result = match from {
            StartFrom::Position(asked) if asked > head => {
                Err(FetchError::FuturePosition { requested: asked, head }.into())
            }
            StartFrom::Start => Err(SubscriptionSourceError::Overloaded),
            _ => Ok((SubscribeAck { position: head, recovered: false }, items(options))),
        };
        future::ready(result).boxed()
    }
}

/// A gap if the options ask for it, a message, and then nothing until the stream is dropped.
fn items(options: SubscribeOptions) -> BoxStream<'static, TopicEvent> {
    let (from, to) = (Position::new(7, 1), Position::new(7, 2));
    let gap = TopicEvent::Gap(Gap { from, to, reason: GapReason::Expired });
    let message = TopicEvent::Message(Arc::new(Message {
        time: Timestamp(1),
        payload: Bytes::from_static(b"goal!"),
        ..test_util::message(7, 3)
    }));
    let reports_gaps =
        options.delivery.unwrap_or_default() == Delivery::All || options.report_conflated;
    stream::iter(reports_gaps.then_some(gap).into_iter().chain([message]))
        .chain(stream::pending())
        .boxed()
}

impl ClusterStatusProvider for FakeNode {
    fn snapshot(&self) -> ClusterSnapshot {
        ClusterSnapshot {
            node_id: ME,
            view: self.view.clone(),
            owners: self.owners.clone(),
            round_trips: BTreeMap::new(),
            reachable: BTreeSet::from([ME]),
            control_group: ControlGroupStatus {
                leader: Some(ME),
                voters: vec![ME],
                ..ControlGroupStatus::default()
            },
            conflicting_cluster: None,
        }
    }

    fn problems(&self, progress: &BTreeMap<ShardId, ShardMoveProgress>) -> Vec<ReportedProblem> {
        let problem = |shard: &ShardId| ReportedProblem {
            severity: "degraded".to_owned(),
            kind: "too_few_copies".to_owned(),
            text: format!("{shard} has one copy"),
        };
        progress.keys().map(problem).collect()
    }

    fn shard_progress(&self) -> BoxFuture<'static, BTreeMap<ShardId, ShardMoveProgress>> {
        let text = "n2 is to lead".to_owned();
        let progress = ShardMoveProgress {
            text,
            node: Some(NodeId(2)),
            matched_index: 0,
            last_index: 0,
            unresponsive: false,
        };
        future::ready(BTreeMap::from([(ShardId(3), progress)])).boxed()
    }
}

impl TopicDirectory for FakeNode {
    fn describe(&self, topic: Topic) -> BoxFuture<'static, Result<TopicInfo, FetchError>> {
        let unavailable = || Err(UnavailableReason::OwnerUnknown(ShardId(3)).into());
        future::ready(if topic.as_str() == LIVE { Ok(live_topic()) } else { unavailable() }).boxed()
    }

    fn list(&self, query: TopicQuery) -> BoxFuture<'static, TopicList> {
        assert_eq!((query.prefix.as_str(), query.count_max), ("worldcup/", 1_000));
        let topics = if query.after.is_none() { vec![live_topic()] } else { vec![] };
        future::ready(TopicList { topics, unknown_shards: vec![ShardId(3)] }).boxed()
    }

    fn remove(
        &self,
        topic: Topic,
        removal: TopicRemoval,
    ) -> BoxFuture<'static, Result<RemovedMessages, AdminError>> {
        assert_eq!(removal, TopicRemoval::Purge);
        let unavailable = || Err(AdminError::Unavailable("the owner does not answer".into()));
        let removed = RemovedMessages { count: 1, bytes: 5 };
        future::ready(if topic.as_str() == LIVE { Ok(removed) } else { unavailable() }).boxed()
    }
}

fn live_topic() -> TopicInfo {
    TopicInfo {
        topic: Topic::new(LIVE).expect("valid"),
        shard: ShardId(1),
        owner: ME,
        head: Position::new(7, 3),
        history_count: 1,
        history_bytes: 5,
        audience: Some(41_877),
    }
}

impl ClusterAdmin for FakeNode {
    fn drain(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>> {
        let rejected = AdminError::FailedPrecondition(format!("{node} is the last").into());
        future::ready(if node == ME && !force { Err(rejected) } else { Ok(()) }).boxed()
    }

    fn undrain(&self, _: NodeId) -> BoxFuture<'static, Result<(), AdminError>> {
        future::ready(Ok(())).boxed()
    }

    fn remove(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), AdminError>> {
        let rejected = AdminError::FailedPrecondition(format!("{node} holds s3").into());
        future::ready(if force { Ok(()) } else { Err(rejected) }).boxed()
    }

    fn finalize_upgrade(&self) -> BoxFuture<'static, Result<ClusterVersion, AdminError>> {
        future::ready(Ok(ClusterVersion::FIRST)).boxed()
    }

    fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        force: bool,
    ) -> BoxFuture<'static, Result<Namespace, AdminError>> {
        let settings = Namespace::default().with_change(change.unwrap_or_default());
        future::ready(match (settings.validate(), name.as_deref()) {
            (Err(error), _) => Err(AdminError::Invalid(error.into())),
            (_, Some("one more")) => Err(AdminError::FailedPrecondition("too many".into())),
            (_, Some("stored")) if !force => Err(AdminError::FailedPrecondition("3 topics".into())),
            (_, Some("later")) => Err(AdminError::Unavailable("no leader".into())),
            _ => Ok(settings),
        })
        .boxed()
    }

    fn revoke(
        &self,
        tokens: RevokedTokens,
        _: Timestamp,
        _: Timestamp,
    ) -> BoxFuture<'static, Result<(), AdminError>> {
        let rejected = Err(AdminError::FailedPrecondition("too many".into()));
        let is_full = tokens == RevokedTokens::WithId("one more".to_owned());
        future::ready(if is_full { rejected } else { Ok(()) }).boxed()
    }

    fn set_consensus_times(
        &self,
        times: pushonce_core::ConsensusTimes,
    ) -> BoxFuture<'static, Result<(), AdminError>> {
        let rejected = AdminError::Invalid(format!("{times} do not fit together").into());
        future::ready(if times.heartbeat_ms == 0 { Err(rejected) } else { Ok(()) }).boxed()
    }

    fn create_join_token(
        &self,
        validity: Duration,
    ) -> BoxFuture<'static, Result<NewJoinToken, AdminError>> {
        let (id, expires) = (JoinTokenId(7), Timestamp(validity.as_millis() as u64));
        future::ready(Ok(NewJoinToken { text: "secret".to_owned(), id, expires })).boxed()
    }

    fn revoke_join_token(&self, id: JoinTokenId) -> BoxFuture<'static, Result<(), AdminError>> {
        assert_eq!(id, JoinTokenId(7));
        future::ready(Ok(())).boxed()
    }
}

/// The settings of the fake node: one message a second of each caller to `limited`.
fn namespaces() -> Namespaces {
    let mut limited = Namespace::default();
    limited.access.publish_rate_max = NonZeroU32::new(1);
    let named = [("limited".to_owned(), limited)].into();
    Namespaces { named, ..Namespaces::default() }
}

fn cluster_view() -> ClusterView {
    let placement = Placement { version: 4, replicas: vec![vec![ME]; 16] };
    ClusterView { version: 9, placement, namespaces: namespaces(), ..test_util::view([]) }
}

fn fake_node() -> Arc<FakeNode> {
    let view = cluster_view();
    let claims = view.shards.ids().map(|shard| test_util::claim(shard.0, ME.0, 2));
    let owners = test_util::owners(claims);
    Arc::new(FakeNode {
        view: Arc::new(view),
        owners: Arc::new(owners),
        head_offsets: Mutex::default(),
    })
}

struct TestServer {
    addr: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), server::Error>>,
    recorder: TestRecorder,
}

/// The access control of a server without issuers.
fn open_access() -> AccessControl {
    AccessControl::open(watch::channel(Arc::new(cluster_view())).1)
}

async fn bind(
    addr: &str,
    access: AccessControl,
    tls: Option<Arc<rustls::ServerConfig>>,
    ready: watch::Receiver<Readiness>,
    recorder: &TestRecorder,
) -> Result<Server, server::Error> {
    let node = fake_node();
    let parts = router::RouterParts {
        node_id: ME,
        view: watch::channel(Some(node.view.clone())).1,
        owners: watch::channel(node.owners.clone()).1,
        shards: node.clone(),
        peers: node.clone(),
    };
    let router = recorder.run(|| Router::new(router::Config::default(), parts));
    let addr = addr.parse().expect("an address");
    let (feed, overview, topics, operations) = (node.clone(), node.clone(), node.clone(), node);
    let heartbeat = HEARTBEAT;
    let grace = GRACE;
    let parts = server::ServerParts {
        addr,
        access,
        tls,
        router,
        subscriptions: feed,
        heartbeat_interval: heartbeat,
        status: overview,
        topics,
        admin: operations,
        readiness: ready,
        address_limits: AddressLimits::new(0),
        receive_budget: ReceiveBudget::new(RECEIVE_BYTES_MAX),
        namespace_rates: NamespaceRates::default(),
        caller_rates: recorder.run(|| CallerRates::new(SUBSCRIBE_RATE, NEW_TOPIC_RATE)),
        grace,
    };
    Server::bind(parts).await
}

/// Less than two of the largest messages.
const RECEIVE_BYTES_MAX: usize = 3 << 20;

/// Subscriptions and new topics a second of each caller, ten and a hundred times as many at once.
const SUBSCRIBE_RATE: u32 = 1;
const NEW_TOPIC_RATE: u32 = 1;

/// Short, to keep the tests that wait for a heartbeat short.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Streams end within this period after a shutdown.
const GRACE: Duration = Duration::from_millis(500);

const READY: Readiness = Readiness { can_publish: true, can_subscribe: true };

impl TestServer {
    async fn start() -> TestServer {
        TestServer::with_readiness(watch::channel(READY).1).await
    }

    /// Starts a server with a given readiness.
    async fn with_readiness(ready: watch::Receiver<Readiness>) -> TestServer {
        TestServer::bind(open_access(), None, ready).await
    }

    /// Starts a server with given access control.
    async fn with_access(access: AccessControl) -> TestServer {
        TestServer::bind(access, None, watch::channel(READY).1).await
    }

    async fn bind(
        access: AccessControl,
        tls: Option<Arc<rustls::ServerConfig>>,
        ready: watch::Receiver<Readiness>,
    ) -> TestServer {
        let recorder = TestRecorder::default();
        let server = bind("127.0.0.1:0", access, tls, ready, &recorder).await;
        let server = server.expect("a free port");
        let (addr, shutdown) = (server.addr(), CancellationToken::new());
        TestServer { addr, task: tokio::spawn(server.run(shutdown.clone())), shutdown, recorder }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr)).expect("a URL");
        endpoint.connect().await.expect("the server accepts connections")
    }

    /// A publisher at 127.0.0.2, which is not exempt from limits as 127.0.0.1 is.
    async fn stranger(&self) -> PublisherServiceClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr)).expect("a URL");
        let endpoint = endpoint.local_address(Some([127, 0, 0, 2].into()));
        PublisherServiceClient::new(endpoint.connect().await.expect("connected"))
    }

    async fn publisher(&self) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel().await)
    }
}

fn request(topic: &str, payload: impl Into<Bytes>) -> PublishRequest {
    let (topic, payload) = (topic.to_owned(), payload.into());
    PublishRequest { topic, payload, ..PublishRequest::default() }
}

/// A request for live messages with default options.
fn subscribe_request(topic: &str) -> SubscribeRequest {
    SubscribeRequest { topic: topic.to_owned(), ..SubscribeRequest::default() }
}

#[tokio::test]
async fn streams_end_with_unavailable_on_shutdown() {
    let node = TestServer::start().await;
    let mut publisher = node.publisher().await;
    let subscribe = subscribe_request(LIVE);
    let events = publisher.subscribe(subscribe).await.expect("open").into_inner();
    let open = stream::iter([request("a", "x").into()]).chain(stream::pending());
    let mut replies = publisher.publish_stream(open).await.expect("open").into_inner();
    assert!(replies.next().await.expect("an acknowledgement").is_ok());
    node.shutdown.cancel();
    let mut ends = events.filter_map(|event| future::ready(event.err()));
    assert_eq!(ends.next().await.expect("an end").code(), Code::Unavailable);
    let last = replies.next().await.expect("an end").expect_err("an error");
    assert_eq!(last.code(), Code::Unavailable);
    node.task.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn streams_end_one_by_one_on_shutdown_and_publishes_are_accepted_until_the_last() {
    let node = TestServer::start().await;
    let mut publisher = node.publisher().await;
    let mut ends = JoinSet::new();
    for _ in 0..20 {
        let events = publisher.subscribe(subscribe_request(LIVE)).await.expect("open").into_inner();
        ends.spawn(async move {
            let ended = events.filter(|event| future::ready(event.is_err())).next().await;
            assert!(ended.is_some(), "the stream ends with a reason");
            Instant::now()
        });
    }
    let started_at = Instant::now();
    node.shutdown.cancel();
    publisher
        .publish(request("a", "x"))
        .await
        .expect("publishes are accepted while streams are open");
    let ends = ends.join_all().await;
    let (first, last) =
        (ends.iter().min().expect("a stream"), ends.iter().max().expect("a stream"));
    assert!(*last - *first >= GRACE / 5, "the streams ended within {:?}", *last - *first);
    assert!(*last - started_at <= 20 * GRACE, "{:?}", *last - started_at);
    node.task.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn bind_error_names_the_port_in_use() {
    let node = TestServer::start().await;
    let (addr, ready) = (node.addr.to_string(), watch::channel(READY).1);
    let error = bind(&addr, open_access(), None, ready, &node.recorder).await.err();
    let error = error.expect("an error");
    let text = error.to_string();
    assert!(text.contains(&node.addr.to_string()) && text.contains("choose another"), "{text}");
}

#[tokio::test]
async fn health_and_reflection_services_respond() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

    let node = TestServer::start().await;
    let check = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(node.channel().await).check(check).await.expect("a reply");
    assert_eq!(health.into_inner().status, 1);

    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut reflection = ServerReflectionClient::new(node.channel().await);
    let replies = reflection.server_reflection_info(stream::iter([request])).await.expect("open");
    let reply = replies.into_inner().next().await.expect("a reply").expect("not an error");
    let Some(MessageResponse::ListServicesResponse(services)) = reply.message_response else {
        panic!("{reply:?}")
    };
    let listed = |name: &str| services.service.contains(&ServiceResponse { name: name.to_owned() });
    assert!(
        listed("pushonce.publisher.v1.PublisherService")
            && listed("pushonce.cluster.v1.ClusterService")
    );
    let between_nodes = |service: &ServiceResponse| service.name.starts_with("pushonce.peer.");
    assert!(
        !services.service.iter().any(between_nodes),
        "peer services must not be listed: {services:?}"
    );
}

#[tokio::test]
async fn health_service_reports_node_readiness() {
    use pushonce_proto::pb::publisher::v1::publisher_service_server::SERVICE_NAME;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let (readiness, readiness_receiver) = watch::channel(READY);
    let node = TestServer::with_readiness(readiness_receiver).await;
    let publish_only = Readiness { can_publish: true, can_subscribe: false };
    for (service, half) in [("", 2), (SERVICE_NAME, 1)] {
        let mut health = HealthClient::new(node.channel().await);
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut updates = health.watch(request).await.expect("a reply").into_inner();
        let steps = [(READY, 1), (Readiness::default(), 2), (publish_only, half), (READY, 1)];
        for (is_ready, status) in steps {
            readiness.send_replace(is_ready);
            while updates.message().await.expect("readable").expect("an update").status != status {}
        }
    }
}

//! Tests of the gRPC server over loopback with the clients of a publisher, a back end and an operator,
//! against a fake node that owns every shard and stores every message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use pushonce_core::{
    Acknowledgement, ClusterVersion, ClusterView, Delivery, FetchError, Gap, GapReason, Message,
    Namespace, NamespaceChange, Namespaces, NodeId, Placement, Position, Publish, PublishError,
    ShardId, ShardOwners, StartFrom, SubscribeAck, SubscribeOptions, Timestamp, Topic, TopicEvent,
    UnavailableReason, test_util,
};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::cluster::{
    ControlGroupStatus, ReportedProblem, ShardMoveProgress, TopicInfo, TopicList, TopicQuery,
};
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::pb::cluster::v1::{
    DrainRequest, ExplainRequest, NamespacesRequest, RemoveRequest, SetNamespaceRequest,
    StatusRequest, TopicRequest, TopicsRequest, UndrainRequest,
};
use pushonce_proto::pb::publisher::v1::publish_stream_response::Outcome;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::pb::publisher::v1::subscribe_response::Event;
use pushonce_proto::pb::publisher::v1::{
    PublishRequest, PublishStreamRequest, SubscribeRequest, start_from,
};
use pushonce_proto::publisher;
use pushonce_publish::{
    AdminError, ClusterAdmin, ClusterSnapshot, ClusterStatusProvider, LocalPublisher,
    PeerPublisher, Readiness, Router, Server, SubscriptionSource, SubscriptionSourceError,
    TopicDirectory, router, server,
};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

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

    fn set_consensus_times(
        &self,
        times: pushonce_core::ConsensusTimes,
    ) -> BoxFuture<'static, Result<(), AdminError>> {
        let rejected = AdminError::Invalid(format!("{times} do not fit together").into());
        future::ready(if times.heartbeat_ms == 0 { Err(rejected) } else { Ok(()) }).boxed()
    }
}

fn fake_node() -> Arc<FakeNode> {
    let placement = Placement { version: 4, replicas: vec![vec![ME]; 16] };
    let view = ClusterView { version: 9, placement, ..test_util::view([]) };
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
}

async fn bind(addr: &str, ready: watch::Receiver<Readiness>) -> Result<Server, server::Error> {
    let node = fake_node();
    let parts = router::RouterParts {
        node_id: ME,
        view: watch::channel(Some(node.view.clone())).1,
        owners: watch::channel(node.owners.clone()).1,
        shards: node.clone(),
        peers: node.clone(),
    };
    let router = Router::new(router::Config::default(), parts);
    let addr = addr.parse().expect("an address");
    let (feed, overview, topics, operations) = (node.clone(), node.clone(), node.clone(), node);
    let heartbeat = HEARTBEAT;
    let grace = GRACE;
    let parts = server::ServerParts {
        addr,
        router,
        subscriptions: feed,
        heartbeat_interval: heartbeat,
        status: overview,
        topics,
        admin: operations,
        readiness: ready,
        grace,
    };
    Server::bind(parts).await
}

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
        let server = bind("127.0.0.1:0", ready).await.expect("a free port");
        let (addr, shutdown) = (server.addr(), CancellationToken::new());
        TestServer { addr, task: tokio::spawn(server.run(shutdown.clone())), shutdown }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr)).expect("a URL");
        endpoint.connect().await.expect("the server accepts connections")
    }

    async fn publisher(&self) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel().await)
    }
}

fn request(topic: &str, payload: impl Into<Bytes>) -> PublishRequest {
    let (topic, payload) = (topic.to_owned(), payload.into());
    PublishRequest { topic, payload, ..PublishRequest::default() }
}

#[tokio::test]
async fn publish_is_acknowledged_with_its_position() {
    let mut publisher = TestServer::start().await.publisher().await;
    for offset in 1..=2 {
        let reply = publisher.publish(request("a", "{}")).await.expect("acknowledged");
        assert_eq!(reply.into_inner().position, format!("7:{offset}"));
    }
}

#[tokio::test]
async fn invalid_publish_is_rejected_with_a_hint() {
    let mut publisher = TestServer::start().await.publisher().await;
    for (invalid, hint, reason) in [
        (request("a//b", "x"), "segment 2 of the topic is empty", ErrorCode::BadTopic),
        (request("", "x"), "the topic is empty", ErrorCode::BadTopic),
        (request("$sys/nodes", "x"), "choose another name", ErrorCode::NotAllowed),
        (request("a", vec![b'x'; (64 << 10) + 1]), "at most 65536", ErrorCode::TooLarge),
        (
            PublishRequest { key: "k".repeat(129), ..request("a", "x") },
            "a key is 1 to 128",
            ErrorCode::BadRequest,
        ),
        (
            PublishRequest { content_type: "application/json".to_owned(), ..request("a", "{") },
            "not JSON",
            ErrorCode::BadRequest,
        ),
    ] {
        let status = publisher.publish(invalid).await.expect_err("rejected");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(ErrorReason::from_status(&status), Some(reason.into()), "{status:?}");
        assert!(status.message().contains(hint), "{status:?}");
    }
}

#[tokio::test]
async fn oversized_message_is_rejected_and_the_connection_stays_open() {
    let mut publisher = TestServer::start().await.publisher().await;
    let status = publisher.publish(request("a", vec![0; 3 << 20])).await.expect_err("rejected");
    // The outcome must be set: without it a publisher treats the status as unknown and retries.
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let reason = Some(ErrorCode::TooLarge.into());
    assert_eq!(ErrorReason::from_status(&status), reason, "{status:?}");
    assert_eq!(
        status.metadata().get(publisher::OUTCOME_HEADER),
        Some(&"refused".parse().expect("ASCII")),
        "{status:?}"
    );
    assert!(publisher.publish(request("a", "x")).await.is_ok());
    let requests =
        [request("a", "x"), request("a", vec![0; 3 << 20])].map(PublishStreamRequest::from);
    let replies = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    let mut replies = replies.into_inner();
    assert_eq!(replies.message().await.expect("acknowledged").expect("a reply").sequence, 1);
    let status = replies.message().await.expect_err("the stream ends");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

/// A codec that sends bytes unchanged.
#[derive(Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(bytes);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A `PublishStreamRequest` with the topic `a` and nothing else.
const MESSAGE: Bytes = Bytes::from_static(b"\x0a\x03\x0a\x01a");

/// A topic that is longer than the message.
const GARBAGE: Bytes = Bytes::from_static(b"\x0a\xffgarbage");

/// Asserts a rejection that a publisher does not retry.
fn assert_rejected_permanently(status: &Status, text: &str) {
    assert!(status.message().contains(text), "{status:?}");
    let failure = publisher::PublishFailure::from(status);
    let is_rejected = matches!(failure, publisher::PublishFailure::Rejected { retry: false, .. });
    assert!(is_rejected, "{failure:?}: {status:?}");
}

#[tokio::test]
async fn undecodable_message_is_rejected_permanently() {
    let mut grpc = tonic::client::Grpc::new(TestServer::start().await.channel().await);
    let path = |call: &str| {
        let path = format!("/pushonce.publisher.v1.PublisherService/{call}");
        tonic::codegen::http::uri::PathAndQuery::try_from(path).expect("a path")
    };
    grpc.ready().await.expect("ready");
    let rejected = grpc.unary(tonic::Request::new(GARBAGE), path("Publish"), RawCodec).await;
    assert_rejected_permanently(&rejected.expect_err("rejected"), "cannot be decoded");

    grpc.ready().await.expect("ready");
    let requests = tonic::Request::new(stream::iter([MESSAGE, GARBAGE, MESSAGE]));
    let replies = grpc.streaming(requests, path("PublishStream"), RawCodec).await.expect("open");
    let mut replies = replies.into_inner();
    assert!(replies.message().await.expect("a reply to the first message").is_some());
    let end = replies.message().await.expect_err("the stream ends");
    assert_rejected_permanently(&end, "cannot be decoded");
}

#[tokio::test]
async fn compressed_message_is_rejected_permanently() {
    let publisher = TestServer::start().await.publisher().await;
    let mut publisher = publisher.send_compressed(CompressionEncoding::Gzip);
    let status = publisher.publish(request("a", "x")).await.expect_err("rejected");
    assert_rejected_permanently(&status, "without compression");
    let accepted = status.metadata().get("grpc-accept-encoding");
    assert_eq!(accepted, Some(&"identity".parse().expect("ASCII")), "{status:?}");

    let replies = publisher.publish_stream(stream::iter([request("a", "x").into()])).await;
    assert_rejected_permanently(&replies.expect_err("rejected"), "without compression");
}

#[tokio::test]
async fn idempotency_key_in_metadata_is_rejected() {
    let mut publisher = TestServer::start().await.publisher().await;
    let mut misplaced = tonic::Request::new(request("a", "x"));
    misplaced.metadata_mut().insert("idempotency-key", "k".parse().expect("ASCII"));
    let status = publisher.publish(misplaced).await.expect_err("rejected");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(
        status.metadata().get(publisher::OUTCOME_HEADER),
        Some(&"refused".parse().expect("ASCII")),
        "{status:?}"
    );
    assert!(status.message().contains("`key`"), "{status:?}");
}

#[tokio::test]
async fn publish_stream_is_acknowledged_in_order_and_continues_after_a_rejection() {
    let mut publisher = TestServer::start().await.publisher().await;
    let topics = (0..1_000).map(|n| if n == 500 { "$no" } else { ["a", "b", "c"][n % 3] });
    let requests: Vec<_> = topics.map(|topic| request(topic, "x").into()).collect();
    let replies = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    let replies: Vec<_> = replies.into_inner().map(|reply| reply.expect("a reply")).collect().await;
    let sequences: Vec<_> = replies.iter().map(|reply| reply.sequence).collect();
    assert_eq!(sequences, (1..=1_000).collect::<Vec<_>>());
    for (n, reply) in replies.into_iter().enumerate() {
        match reply.outcome.expect("an outcome") {
            Outcome::Published(_) => assert_ne!(n, 500),
            Outcome::Failed(failure) => {
                assert_eq!(
                    (n, failure.code, failure.retry),
                    (500, Code::InvalidArgument as i32, false)
                );
            }
        }
    }
}

/// A request for live messages with default options.
fn subscribe_request(topic: &str) -> SubscribeRequest {
    SubscribeRequest { topic: topic.to_owned(), ..SubscribeRequest::default() }
}

#[tokio::test]
async fn subscription_starts_with_subscribed_and_reports_gaps() {
    let mut publisher = TestServer::start().await.publisher().await;
    let request = subscribe_request(LIVE);
    let events = publisher.subscribe(request).await.expect("open").into_inner();
    let events: Vec<_> = events.take(3).map(|event| event.expect("an event").event).collect().await;
    let [Some(Event::Subscribed(subscribed)), Some(Event::Gap(gap)), Some(Event::Message(message))] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((subscribed.position.as_str(), subscribed.recovered), ("7:3", false));
    assert_eq!(
        (gap.first.as_str(), gap.last.as_str(), gap.reason.as_str()),
        ("7:1", "7:2", "expired")
    );
    assert_eq!((message.position.as_str(), &message.payload[..]), ("7:3", &b"goal!"[..]));
}

#[tokio::test]
async fn subscription_with_latest_or_rate_delivery_reports_gaps_only_if_conflated() {
    let mut publisher = TestServer::start().await.publisher().await;
    for (delivery, conflated, gaps) in
        [("latest", false, 0), ("rate:3", true, 1), ("all", false, 1)]
    {
        let request = SubscribeRequest {
            delivery: delivery.to_owned(),
            conflated,
            ..subscribe_request(LIVE)
        };
        let events = publisher.subscribe(request).await.expect("open").into_inner();
        let events = events.skip(1).map(|event| event.expect("an event").event.expect("not empty"));
        let before = events.take_while(|event| future::ready(!matches!(event, Event::Message(_))));
        assert_eq!(before.count().await, gaps, "{delivery}");
    }
}

#[tokio::test]
async fn rejected_subscription_returns_the_reason() {
    let mut publisher = TestServer::start().await.publisher().await;
    for (topic, position, code, reason) in [
        ("a//b", "7:1", Code::InvalidArgument, ErrorCode::BadTopic),
        ("$sys/nodes", "7:1", Code::InvalidArgument, ErrorCode::NotAllowed),
        (LIVE, "seven", Code::InvalidArgument, ErrorCode::BadPosition),
        (LIVE, "7:4", Code::OutOfRange, ErrorCode::FuturePosition),
    ] {
        let kind = Some(start_from::Kind::Position(position.to_owned()));
        let start_from = Some(pushonce_proto::pb::publisher::v1::StartFrom { kind });
        let request = SubscribeRequest { start_from, ..subscribe_request(topic) };
        let status = publisher.subscribe(request).await.expect_err("rejected");
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(ErrorReason::from_status(&status), Some(reason.into()), "{status:?}");
    }
    let start_from = Some(pushonce_proto::pb::publisher::v1::StartFrom {
        kind: Some(start_from::Kind::Start(true)),
    });
    let request = SubscribeRequest { start_from, ..subscribe_request(LIVE) };
    let status = publisher.subscribe(request).await;
    let status = status.expect_err("the node is overloaded");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let retry_delay = Some(Duration::from_secs(10));
    let reason = ErrorReason { retry_delay, ..ErrorCode::Overloaded.into() };
    assert_eq!(ErrorReason::from_status(&status), Some(reason), "{status:?}");
    assert!(status.message().contains("raise --memory-max"), "{status:?}");
    let request = SubscribeRequest { delivery: "newest".to_owned(), ..subscribe_request(LIVE) };
    let status = publisher.subscribe(request).await.expect_err("rejected");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("latest"), "{status:?}");
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
async fn status_and_explain_return_cluster_and_topic_placement() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let status = cluster.status(StatusRequest {}).await.expect("a reply").into_inner();
    assert_eq!((status.node_id, status.version, status.placement_version), (1, 9, 4));
    assert_eq!(status.shards.len(), 16);
    let problems: Vec<_> = status.problems.iter().map(|p| (&*p.severity, &*p.kind)).collect();
    assert_eq!(problems, [("degraded", "too_few_copies")]);
    assert!(status.shards.iter().all(|shard| shard.owner == 1 && !shard.moving));
    let topic = "football/final".to_owned();
    let explained = cluster.explain(ExplainRequest { topic }).await.expect("a reply").into_inner();
    assert_eq!((explained.shard, explained.owner, explained.wanted), (9, 1, vec![1]));
    let rejected = cluster.explain(ExplainRequest { topic: "/".to_owned() }).await;
    assert_eq!(rejected.expect_err("rejected").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn topic_and_topics_return_topic_info() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let info = cluster.topic(TopicRequest { topic: LIVE.to_owned() }).await.expect("a reply");
    assert_eq!(TopicInfo::try_from(info.into_inner()), Ok(live_topic()));
    for (topic, code) in [("a", Code::Unavailable), ("a//b", Code::InvalidArgument)] {
        let rejected = cluster.topic(TopicRequest { topic: topic.to_owned() }).await;
        assert_eq!(rejected.expect_err(topic).code(), code);
    }
    for (after, found) in [("", 1), (LIVE, 0)] {
        let (prefix, after) = ("worldcup/".to_owned(), after.to_owned());
        let listed = cluster.topics(TopicsRequest { prefix, after, count_max: 9_999 }).await;
        let listed = listed.expect("a reply").into_inner();
        assert_eq!((listed.topics.len(), listed.unknown_shards), (found, vec![3]));
    }
}

#[tokio::test]
async fn drain_and_remove_return_the_reason_for_a_rejection() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    cluster.drain(DrainRequest { node: 2, force: false }).await.expect("accepted");
    cluster.undrain(UndrainRequest { node: 2 }).await.expect("accepted");
    cluster.drain(DrainRequest { node: 1, force: true }).await.expect("accepted");
    let last = cluster.drain(DrainRequest { node: 1, force: false }).await.expect_err("rejected");
    assert_eq!((last.code(), last.message()), (Code::FailedPrecondition, "n1 is the last"));
    let held = cluster.remove(RemoveRequest { node: 2, force: false }).await.expect_err("rejected");
    assert_eq!((held.code(), held.message()), (Code::FailedPrecondition, "n2 holds s3"));
    cluster.remove(RemoveRequest { node: 2, force: true }).await.expect("accepted");
    let status = cluster.status(StatusRequest {}).await.expect("a reply").into_inner();
    let shard = &status.shards[3];
    assert_eq!((shard.progress.as_str(), shard.progress_node), ("n2 is to lead", 2));
}

#[tokio::test]
async fn bind_error_names_the_port_in_use() {
    let node = TestServer::start().await;
    let error =
        bind(&node.addr.to_string(), watch::channel(READY).1).await.err().expect("an error");
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
async fn heartbeat_carries_the_last_sent_position() {
    let mut publisher = TestServer::start().await.publisher().await;
    let request = subscribe_request("a");
    let mut events = publisher.subscribe(request).await.expect("open").into_inner();
    let mut received = Vec::new();
    while received.len() < 4 {
        let event = events.message().await.expect("readable").expect("an event");
        received.push(publisher::SubscribeEvent::try_from(event).expect("an event"));
    }
    assert!(matches!(received[0], publisher::SubscribeEvent::Subscribed { .. }));
    assert!(matches!(received[2], publisher::SubscribeEvent::Item(TopicEvent::Message(_))));
    let position = Some(Position::new(7, 3));
    assert_eq!(received[3], publisher::SubscribeEvent::Heartbeat { position });
}

#[tokio::test]
async fn namespace_settings_are_changed_and_returned() {
    let mut cluster = ClusterServiceClient::new(TestServer::start().await.channel().await);
    let change = NamespaceChange { history_count_max: Some(3), ..NamespaceChange::default() };
    let set = |name: Option<&str>, change: NamespaceChange| SetNamespaceRequest {
        name: name.map(str::to_owned),
        change: Some(change.into()),
        force: false,
    };
    let reply = cluster.set_namespace(set(Some("chat"), change)).await.expect("accepted");
    let settings = reply.into_inner().settings.expect("settings");
    assert_eq!((settings.history_count_max, settings.history_bytes_max), (3, 1 << 20));

    let namespaces = cluster.namespaces(NamespacesRequest {}).await.expect("a reply").into_inner();
    assert_eq!(Namespaces::try_from(namespaces), Ok(Namespaces::default()));

    let over = NamespaceChange { payload_bytes_max: Some(2 << 20), ..change };
    for (invalid, code) in [
        (set(None, over), Code::InvalidArgument),
        (set(Some("one more"), change), Code::FailedPrecondition),
        (set(Some("later"), change), Code::Unavailable),
        (set(Some("stored"), change), Code::FailedPrecondition),
    ] {
        let status = cluster.set_namespace(invalid).await.expect_err("rejected");
        assert_eq!(status.code(), code, "{status:?}");
    }
    let forced = SetNamespaceRequest { force: true, ..set(Some("stored"), change) };
    cluster.set_namespace(forced).await.expect("accepted");
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

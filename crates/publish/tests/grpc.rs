//! The gRPC door over loopback, as a publisher, a back end and an operator meet it. Behind it
//! stands a node that owns every shard and places what comes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use pushonce_core::{
    Claim, ClusterId, ClusterVersion, ClusterView, ContentType, Delivery, FetchError, From, Gap,
    GapReason, Item, Message, Namespace, NamespaceChange, Namespaces, NodeId, Options, Owners,
    Placed, Placement, Position, Publish, PublishError, ShardCount, ShardId, Spread, Term,
    Timestamp, Topic,
};
use pushonce_proto::cluster::{Control, Problem, Progress, TopicInfo, TopicList};
use pushonce_proto::pb::cluster::v1::cluster_client::ClusterClient;
use pushonce_proto::pb::cluster::v1::{
    DrainRequest, ExplainRequest, NamespacesRequest, RemoveRequest, SetNamespaceRequest,
    StatusRequest, TopicRequest, TopicsRequest, UndrainRequest,
};
use pushonce_proto::pb::publisher::v1::publish_stream_response::Outcome;
use pushonce_proto::pb::publisher::v1::publisher_client::PublisherClient;
use pushonce_proto::pb::publisher::v1::subscribe_response::Event;
use pushonce_proto::pb::publisher::v1::{PublishRequest, SubscribeRequest, from};
use pushonce_proto::publisher;
use pushonce_publish::{
    Feed, OperationError, Operations, Overview, Peers, Ready, Router, Server, Shards, Snapshot,
    SubscribeError, Subscribed, Topics, router, server,
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

struct World {
    view: Arc<ClusterView>,
    owners: Arc<Owners>,
    placed: Mutex<BTreeMap<Topic, u64>>,
}

impl Shards for World {
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        let mut placed = self.placed.lock().expect("whole");
        let offset = placed.entry(publish.topic).or_default();
        *offset += 1;
        let position = Position::new(7, *offset);
        future::ready(Ok(Placed { position, time: Timestamp(1), durability: Default::default() }))
            .boxed()
    }
}

impl Peers for World {
    fn publish(
        &self,
        owner: NodeId,
        _: Publish,
    ) -> BoxFuture<'static, Result<Placed, PublishError>> {
        panic!("{owner} was asked, and this node owns everything");
    }
}

impl Feed for World {
    fn subscribe(
        &self,
        _: Topic,
        from: From,
        options: Options,
    ) -> BoxFuture<'static, Result<(Subscribed, BoxStream<'static, Item>), SubscribeError>> {
        let head = Position::new(7, 3);
        let answer = match from {
            From::Position(asked) if asked > head => Err(FetchError::Future { asked, head }.into()),
            From::Start => Err(SubscribeError::Overloaded("raise --memory-max")),
            _ => Ok((Subscribed { position: head, recovered: false }, items(options))),
        };
        future::ready(answer).boxed()
    }
}

/// A gap for who wants to hear of all that is missing, a message, and nothing more for as long as
/// anybody listens.
fn items(options: Options) -> BoxStream<'static, Item> {
    let (from, to) = (Position::new(7, 1), Position::new(7, 2));
    let gap = Item::Gap(Gap { from, to, reason: GapReason::Expired });
    let message = Item::Message(Arc::new(Message {
        position: Position::new(7, 3),
        time: Timestamp(1),
        content_type: ContentType::Text,
        key: None,
        payload: Bytes::from_static(b"goal!"),
    }));
    let told = options.delivery.unwrap_or_default() == Delivery::All || options.conflated;
    stream::iter(told.then_some(gap).into_iter().chain([message])).chain(stream::pending()).boxed()
}

impl Overview for World {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            me: ME,
            view: self.view.clone(),
            owners: self.owners.clone(),
            reachable: BTreeSet::from([ME]),
            control: Control { leader: Some(ME), voters: vec![ME], ..Control::default() },
            conflict: None,
        }
    }

    fn problems(&self, progress: &BTreeMap<ShardId, Progress>) -> Vec<Problem> {
        let problem = |shard: &ShardId| Problem {
            severity: "degraded".to_owned(),
            kind: "too_few_copies".to_owned(),
            text: format!("{shard} has one copy"),
        };
        progress.keys().map(problem).collect()
    }

    fn progress(&self) -> BoxFuture<'static, BTreeMap<ShardId, Progress>> {
        let text = "n2 is to lead".to_owned();
        let progress = Progress { text, node: Some(NodeId(2)), has: 0, of: 0, silent: false };
        future::ready(BTreeMap::from([(ShardId(3), progress)])).boxed()
    }
}

impl Topics for World {
    fn describe(&self, topic: Topic) -> BoxFuture<'static, Result<TopicInfo, FetchError>> {
        let away = || Err(FetchError::Unavailable("s3 has no owner".to_owned()));
        future::ready(if topic.as_str() == LIVE { Ok(live()) } else { away() }).boxed()
    }

    fn list(
        &self,
        prefix: String,
        after: Option<Topic>,
        count_max: usize,
    ) -> BoxFuture<'static, TopicList> {
        assert_eq!((prefix.as_str(), count_max), ("worldcup/", 1_000));
        let topics = if after.is_none() { vec![live()] } else { vec![] };
        future::ready(TopicList { topics, unknown_shards: vec![ShardId(3)] }).boxed()
    }
}

fn live() -> TopicInfo {
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

impl Operations for World {
    fn drain(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), OperationError>> {
        let refused = OperationError::Refused(format!("{node} is the last"));
        future::ready(if node == ME && !force { Err(refused) } else { Ok(()) }).boxed()
    }

    fn undrain(&self, _: NodeId) -> BoxFuture<'static, Result<(), OperationError>> {
        future::ready(Ok(())).boxed()
    }

    fn remove(&self, node: NodeId, force: bool) -> BoxFuture<'static, Result<(), OperationError>> {
        let held = OperationError::Refused(format!("{node} holds s3"));
        future::ready(if force { Ok(()) } else { Err(held) }).boxed()
    }

    fn finalize(&self) -> BoxFuture<'static, Result<ClusterVersion, OperationError>> {
        future::ready(Ok(ClusterVersion::FIRST)).boxed()
    }

    fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        force: bool,
    ) -> BoxFuture<'static, Result<Namespace, OperationError>> {
        let settings = Namespace::default().with(change.unwrap_or_default());
        future::ready(match (settings.check(), name.as_deref()) {
            (Err(why), _) => Err(OperationError::Invalid(why.to_string())),
            (_, Some("one more")) => Err(OperationError::Refused("too many".to_owned())),
            (_, Some("stored")) if !force => Err(OperationError::Refused("3 topics".to_owned())),
            (_, Some("later")) => Err(OperationError::Unavailable("no leader".to_owned())),
            _ => Ok(settings),
        })
        .boxed()
    }

    fn set_times(
        &self,
        times: pushonce_core::ConsensusTimes,
    ) -> BoxFuture<'static, Result<(), OperationError>> {
        let refused = OperationError::Invalid(format!("{times} do not fit together"));
        future::ready(if times.heartbeat_ms == 0 { Err(refused) } else { Ok(()) }).boxed()
    }
}

fn world() -> Arc<World> {
    let view = ClusterView {
        cluster: ClusterId(1),
        version: 9,
        shards: ShardCount::DEFAULT,
        replicas: 3,
        spread: Spread::Zones,
        members: BTreeMap::new(),
        next_id: NodeId(0),
        placement: Placement { version: 4, replicas: vec![vec![ME]; 16] },
        namespaces: Namespaces::default(),
        times: Default::default(),
        cluster_version: Default::default(),
    };
    let mut owners = Owners::default();
    for shard in view.shards.ids() {
        let (voters, learners) = (vec![ME], vec![]);
        owners.hear(Claim { shard, owner: ME, term: Term(2), membership: 1, voters, learners });
    }
    Arc::new(World { view: Arc::new(view), owners: Arc::new(owners), placed: Mutex::default() })
}

struct Node {
    addr: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), server::Error>>,
}

async fn bind(addr: &str, ready: watch::Receiver<Ready>) -> Result<Server, server::Error> {
    let world = world();
    let parts = router::Parts {
        me: ME,
        view: watch::channel(Some(world.view.clone())).1,
        owners: watch::channel(world.owners.clone()).1,
        shards: world.clone(),
        peers: world.clone(),
    };
    let router = Router::new(router::Config::default(), parts);
    let addr = addr.parse().expect("an address");
    let (feed, overview, topics, operations) = (world.clone(), world.clone(), world.clone(), world);
    let heartbeat = HEARTBEAT;
    let grace = GRACE;
    let parts =
        server::Parts { addr, router, feed, heartbeat, overview, topics, operations, ready, grace };
    Server::bind(parts).await
}

/// Short, so that the tests that wait for one do not take long.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Streams end within this after a node was told to stop.
const GRACE: Duration = Duration::from_millis(500);

const READY: Ready = Ready { publish: true, viewers: true };

impl Node {
    async fn start() -> Node {
        Node::that_is(watch::channel(READY).1).await
    }

    /// As ready as that says.
    async fn that_is(ready: watch::Receiver<Ready>) -> Node {
        let server = bind("127.0.0.1:0", ready).await.expect("a free port");
        let (addr, shutdown) = (server.addr(), CancellationToken::new());
        Node { addr, running: tokio::spawn(server.run(shutdown.clone())), shutdown }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr)).expect("a URL");
        endpoint.connect().await.expect("up")
    }

    async fn publisher(&self) -> PublisherClient<Channel> {
        PublisherClient::new(self.channel().await)
    }
}

fn request(topic: &str, payload: impl Into<Bytes>) -> PublishRequest {
    let (topic, payload) = (topic.to_owned(), payload.into());
    PublishRequest { topic, payload, ..PublishRequest::default() }
}

#[tokio::test]
async fn a_publish_is_answered_with_its_position() {
    let mut publisher = Node::start().await.publisher().await;
    for offset in 1..=2 {
        let answer = publisher.publish(request("a", "{}")).await.expect("acknowledged");
        assert_eq!(answer.into_inner().position, format!("7:{offset}"));
    }
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_with_what_to_change() {
    let mut publisher = Node::start().await.publisher().await;
    for (refused, hint) in [
        (request("a//b", "x"), "segment 2 of the topic is empty"),
        (request("", "x"), "the topic is empty"),
        (request("$sys/nodes", "x"), "choose another name"),
        (request("a", vec![b'x'; (64 << 10) + 1]), "at most 65536"),
        (PublishRequest { key: "k".repeat(129), ..request("a", "x") }, "a key is 1 to 128"),
        (
            PublishRequest { content_type: "application/json".to_owned(), ..request("a", "{") },
            "not JSON",
        ),
    ] {
        let status = publisher.publish(refused).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(hint), "{status:?}");
    }
}

#[tokio::test]
async fn a_frame_past_every_limit_is_refused_and_the_connection_lives() {
    let mut publisher = Node::start().await.publisher().await;
    let status = publisher.publish(request("a", vec![0; 3 << 20])).await.expect_err("refused");
    // With the outcome: a publisher that is not told takes it for unknown and sends it again.
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(
        status.metadata().get(publisher::OUTCOME_HEADER),
        Some(&"refused".parse().expect("ASCII")),
        "{status:?}"
    );
    assert!(publisher.publish(request("a", "x")).await.is_ok());
    let requests = [request("a", "x"), request("a", vec![0; 3 << 20])];
    let answers = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    let mut answers = answers.into_inner();
    assert_eq!(answers.message().await.expect("acknowledged").expect("one").sequence, 1);
    let status = answers.message().await.expect_err("the stream ends");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

/// Sends bytes as they are, whatever a message should be.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The topic `a` and nothing else.
const MESSAGE: Bytes = Bytes::from_static(b"\x0a\x01a");

/// A topic that is longer than the message.
const GARBAGE: Bytes = Bytes::from_static(b"\x0a\xffgarbage");

/// Refused for ever: a publisher does not send it again.
fn assert_refused_for_good(status: &Status, says: &str) {
    assert!(status.message().contains(says), "{status:?}");
    let failure = publisher::Failure::from(status);
    let refused = matches!(failure, publisher::Failure::Refused { retry: false, .. });
    assert!(refused, "{failure:?}: {status:?}");
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_for_good() {
    let mut grpc = tonic::client::Grpc::new(Node::start().await.channel().await);
    let path = |call: &str| {
        let path = format!("/pushonce.publisher.v1.Publisher/{call}");
        tonic::codegen::http::uri::PathAndQuery::try_from(path).expect("a path")
    };
    grpc.ready().await.expect("up");
    let refused = grpc.unary(tonic::Request::new(GARBAGE), path("Publish"), Raw).await;
    assert_refused_for_good(&refused.expect_err("refused"), "cannot be read");

    grpc.ready().await.expect("up");
    let requests = tonic::Request::new(stream::iter([MESSAGE, GARBAGE, MESSAGE]));
    let answers = grpc.streaming(requests, path("PublishStream"), Raw).await.expect("open");
    let mut answers = answers.into_inner();
    assert!(answers.message().await.expect("an answer to the first").is_some());
    let end = answers.message().await.expect_err("the stream ends");
    assert_refused_for_good(&end, "cannot be read");
}

#[tokio::test]
async fn compressed_messages_are_refused_for_good() {
    let publisher = Node::start().await.publisher().await;
    let mut publisher = publisher.send_compressed(CompressionEncoding::Gzip);
    let status = publisher.publish(request("a", "x")).await.expect_err("refused");
    assert_refused_for_good(&status, "without compression");
    let accepted = status.metadata().get("grpc-accept-encoding");
    assert_eq!(accepted, Some(&"identity".parse().expect("ASCII")), "{status:?}");

    let answers = publisher.publish_stream(stream::iter([request("a", "x")])).await;
    assert_refused_for_good(&answers.expect_err("refused"), "without compression");
}

#[tokio::test]
async fn idempotency_key_in_the_metadata_is_refused_instead_of_ignored() {
    let mut publisher = Node::start().await.publisher().await;
    let mut misplaced = tonic::Request::new(request("a", "x"));
    misplaced.metadata_mut().insert("idempotency-key", "k".parse().expect("ASCII"));
    let status = publisher.publish(misplaced).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(
        status.metadata().get(publisher::OUTCOME_HEADER),
        Some(&"refused".parse().expect("ASCII")),
        "{status:?}"
    );
    assert!(status.message().contains("`key`"), "{status:?}");
}

#[tokio::test]
async fn a_stream_is_acknowledged_in_order_and_goes_on_after_a_refusal() {
    let mut publisher = Node::start().await.publisher().await;
    let topics = (0..1_000).map(|n| if n == 500 { "$no" } else { ["a", "b", "c"][n % 3] });
    let requests: Vec<_> = topics.map(|topic| request(topic, "x")).collect();
    let answers = publisher.publish_stream(stream::iter(requests)).await.expect("open");
    let answers: Vec<_> = answers.into_inner().map(|answer| answer.expect("whole")).collect().await;
    let sequences: Vec<_> = answers.iter().map(|answer| answer.sequence).collect();
    assert_eq!(sequences, (1..=1_000).collect::<Vec<_>>());
    for (n, answer) in answers.into_iter().enumerate() {
        match answer.outcome.expect("said") {
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

/// A subscription to what comes next, with no wishes.
fn now(topic: &str) -> SubscribeRequest {
    SubscribeRequest { topic: topic.to_owned(), ..SubscribeRequest::default() }
}

#[tokio::test]
async fn a_subscription_begins_with_subscribed_and_tells_its_gaps() {
    let mut publisher = Node::start().await.publisher().await;
    let request = now(LIVE);
    let events = publisher.subscribe(request).await.expect("open").into_inner();
    let events: Vec<_> = events.take(3).map(|event| event.expect("whole").event).collect().await;
    let [Some(Event::Subscribed(begun)), Some(Event::Gap(gap)), Some(Event::Message(message))] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((begun.position.as_str(), begun.recovered), ("7:3", false));
    assert_eq!(
        (gap.from.as_str(), gap.to.as_str(), gap.reason.as_str()),
        ("7:1", "7:2", "expired")
    );
    assert_eq!((message.position.as_str(), &message.payload[..]), ("7:3", &b"goal!"[..]));
}

#[tokio::test]
async fn a_subscription_may_wish_for_the_newest_alone() {
    let mut publisher = Node::start().await.publisher().await;
    for (delivery, conflated, gaps) in
        [("latest", false, 0), ("rate:3", true, 1), ("all", false, 1)]
    {
        let request = SubscribeRequest { delivery: delivery.to_owned(), conflated, ..now(LIVE) };
        let events = publisher.subscribe(request).await.expect("open").into_inner();
        let events = events.skip(1).map(|event| event.expect("whole").event.expect("one"));
        let before = events.take_while(|event| future::ready(!matches!(event, Event::Message(_))));
        assert_eq!(before.count().await, gaps, "{delivery}");
    }
}

#[tokio::test]
async fn a_subscription_that_cannot_begin_says_why() {
    let mut publisher = Node::start().await.publisher().await;
    for (topic, position, code) in [
        ("a//b", "7:1", Code::InvalidArgument),
        ("$sys/nodes", "7:1", Code::InvalidArgument),
        (LIVE, "seven", Code::InvalidArgument),
        (LIVE, "7:4", Code::OutOfRange),
    ] {
        let from = Some(from::From::Position(position.to_owned()));
        let from = Some(pushonce_proto::pb::publisher::v1::From { from });
        let request = SubscribeRequest { from, ..now(topic) };
        let status = publisher.subscribe(request).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status:?}");
    }
    let from = Some(from::From::Start(true));
    let from = Some(pushonce_proto::pb::publisher::v1::From { from });
    let status = publisher.subscribe(SubscribeRequest { from, ..now(LIVE) }).await;
    let status = status.expect_err("the node is overloaded");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("raise --memory-max"), "{status:?}");
    let request = SubscribeRequest { delivery: "newest".to_owned(), ..now(LIVE) };
    let status = publisher.subscribe(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("latest"), "{status:?}");
}

#[tokio::test]
async fn when_the_node_goes_down_its_streams_say_so_and_it_ends() {
    let node = Node::start().await;
    let mut publisher = node.publisher().await;
    let subscribe = now(LIVE);
    let events = publisher.subscribe(subscribe).await.expect("open").into_inner();
    let open = stream::iter([request("a", "x")]).chain(stream::pending());
    let mut answers = publisher.publish_stream(open).await.expect("open").into_inner();
    assert!(answers.next().await.expect("an acknowledgement").is_ok());
    node.shutdown.cancel();
    let mut ends = events.filter_map(|event| future::ready(event.err()));
    assert_eq!(ends.next().await.expect("an end").code(), Code::Unavailable);
    let last = answers.next().await.expect("an end").expect_err("an error");
    assert_eq!(last.code(), Code::Unavailable);
    node.running.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn streams_end_one_by_one_and_publishes_are_taken_in_until_the_last() {
    let node = Node::start().await;
    let mut publisher = node.publisher().await;
    let mut ends = JoinSet::new();
    for _ in 0..20 {
        let events = publisher.subscribe(now(LIVE)).await.expect("open").into_inner();
        ends.spawn(async move {
            let ended = events.filter(|event| future::ready(event.is_err())).next().await;
            assert!(ended.is_some(), "it says why");
            Instant::now()
        });
    }
    let begun = Instant::now();
    node.shutdown.cancel();
    publisher.publish(request("a", "x")).await.expect("streams are left");
    let ends = ends.join_all().await;
    let (first, last) = (ends.iter().min().expect("some"), ends.iter().max().expect("some"));
    assert!(*last - *first >= GRACE / 5, "{:?} lie between", *last - *first);
    assert!(*last - begun <= 20 * GRACE, "{:?}", *last - begun);
    node.running.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn operators_see_the_cluster_and_where_a_topic_falls() {
    let mut cluster = ClusterClient::new(Node::start().await.channel().await);
    let status = cluster.status(StatusRequest {}).await.expect("answered").into_inner();
    assert_eq!((status.node_id, status.version, status.placement_version), (1, 9, 4));
    assert_eq!(status.shards.len(), 16);
    let problems: Vec<_> = status.problems.iter().map(|p| (&*p.severity, &*p.kind)).collect();
    assert_eq!(problems, [("degraded", "too_few_copies")]);
    assert!(status.shards.iter().all(|shard| shard.owner == 1 && !shard.moving));
    let topic = "football/final".to_owned();
    let explained = cluster.explain(ExplainRequest { topic }).await.expect("answered").into_inner();
    assert_eq!((explained.shard, explained.owner, explained.wanted), (9, 1, vec![1]));
    let refused = cluster.explain(ExplainRequest { topic: "/".to_owned() }).await;
    assert_eq!(refused.expect_err("malformed").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn operators_see_what_there_is_of_topics() {
    let mut cluster = ClusterClient::new(Node::start().await.channel().await);
    let known = cluster.topic(TopicRequest { topic: LIVE.to_owned() }).await.expect("answered");
    assert_eq!(TopicInfo::try_from(known.into_inner()), Ok(live()));
    for (topic, code) in [("a", Code::Unavailable), ("a//b", Code::InvalidArgument)] {
        let refused = cluster.topic(TopicRequest { topic: topic.to_owned() }).await;
        assert_eq!(refused.expect_err(topic).code(), code);
    }
    for (after, found) in [("", 1), (LIVE, 0)] {
        let (prefix, after) = ("worldcup/".to_owned(), after.to_owned());
        let listed = cluster.topics(TopicsRequest { prefix, after, count_max: 9_999 }).await;
        let listed = listed.expect("answered").into_inner();
        assert_eq!((listed.topics.len(), listed.unknown_shards), (found, vec![3]));
    }
}

#[tokio::test]
async fn operators_drain_and_remove_and_are_told_why_not() {
    let mut cluster = ClusterClient::new(Node::start().await.channel().await);
    cluster.drain(DrainRequest { node: 2, force: false }).await.expect("decided");
    cluster.undrain(UndrainRequest { node: 2 }).await.expect("decided");
    cluster.drain(DrainRequest { node: 1, force: true }).await.expect("meant");
    let last = cluster.drain(DrainRequest { node: 1, force: false }).await.expect_err("the last");
    assert_eq!((last.code(), last.message()), (Code::FailedPrecondition, "n1 is the last"));
    let held = cluster.remove(RemoveRequest { node: 2, force: false }).await.expect_err("holds");
    assert_eq!((held.code(), held.message()), (Code::FailedPrecondition, "n2 holds s3"));
    cluster.remove(RemoveRequest { node: 2, force: true }).await.expect("meant");
    let status = cluster.status(StatusRequest {}).await.expect("answered").into_inner();
    let shard = &status.shards[3];
    assert_eq!((shard.progress.as_str(), shard.progress_node), ("n2 is to lead", 2));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let node = Node::start().await;
    let refused = bind(&node.addr.to_string(), watch::channel(READY).1).await.err().expect("taken");
    let text = refused.to_string();
    assert!(text.contains(&node.addr.to_string()) && text.contains("choose another"), "{text}");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

    let node = Node::start().await;
    let check = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(node.channel().await).check(check).await.expect("answered");
    assert_eq!(health.into_inner().status, 1);

    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let mut reflection = ServerReflectionClient::new(node.channel().await);
    let answers = reflection.server_reflection_info(stream::iter([request])).await.expect("open");
    let answer = answers.into_inner().next().await.expect("one").expect("whole");
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let listed = |name: &str| services.service.contains(&ServiceResponse { name: name.to_owned() });
    assert!(listed("pushonce.publisher.v1.Publisher") && listed("pushonce.cluster.v1.Cluster"));
    let between_nodes = |service: &ServiceResponse| service.name.starts_with("pushonce.peer.");
    assert!(!services.service.iter().any(between_nodes), "{services:?} is not served here");
}

#[tokio::test]
async fn a_heartbeat_says_up_to_where_everything_was_sent() {
    let mut publisher = Node::start().await.publisher().await;
    let request = now("a");
    let mut events = publisher.subscribe(request).await.expect("begun").into_inner();
    let mut said = Vec::new();
    while said.len() < 4 {
        let event = events.message().await.expect("readable").expect("it goes on");
        said.push(publisher::Event::try_from(event).expect("an event"));
    }
    assert!(matches!(said[0], publisher::Event::Subscribed { .. }));
    assert!(matches!(said[2], publisher::Event::Item(Item::Message(_))));
    let position = Some(Position::new(7, 3));
    assert_eq!(said[3], publisher::Event::Heartbeat { position });
}

#[tokio::test]
async fn the_settings_of_a_namespace_are_changed_and_told() {
    let mut cluster = ClusterClient::new(Node::start().await.channel().await);
    let change = NamespaceChange { history_count_max: Some(3), ..NamespaceChange::default() };
    let set = |name: Option<&str>, change: NamespaceChange| SetNamespaceRequest {
        name: name.map(str::to_owned),
        change: Some(change.into()),
        force: false,
    };
    let answer = cluster.set_namespace(set(Some("chat"), change)).await.expect("taken");
    let settings = answer.into_inner().settings.expect("told");
    assert_eq!((settings.history_count_max, settings.history_bytes_max), (3, 1 << 20));

    let known = cluster.namespaces(NamespacesRequest {}).await.expect("answered").into_inner();
    assert_eq!(Namespaces::try_from(known), Ok(Namespaces::default()));

    let over = NamespaceChange { payload_bytes_max: Some(2 << 20), ..change };
    for (refused, code) in [
        (set(None, over), Code::InvalidArgument),
        (set(Some("one more"), change), Code::FailedPrecondition),
        (set(Some("later"), change), Code::Unavailable),
        (set(Some("stored"), change), Code::FailedPrecondition),
    ] {
        let status = cluster.set_namespace(refused).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status:?}");
    }
    let forced = SetNamespaceRequest { force: true, ..set(Some("stored"), change) };
    cluster.set_namespace(forced).await.expect("taken");
}

#[tokio::test]
async fn the_health_service_says_what_the_node_thinks_of_itself() {
    use pushonce_proto::pb::publisher::v1::publisher_server::SERVICE_NAME;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let (thinks, ready) = watch::channel(READY);
    let node = Node::that_is(ready).await;
    let publishes = Ready { publish: true, viewers: false };
    for (service, half) in [("", 2), (SERVICE_NAME, 1)] {
        let mut health = HealthClient::new(node.channel().await);
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut told = health.watch(request).await.expect("answered").into_inner();
        let steps = [(READY, 1), (Ready::default(), 2), (publishes, half), (READY, 1)];
        for (is_ready, status) in steps {
            thinks.send_replace(is_ready);
            while told.message().await.expect("readable").expect("it goes on").status != status {}
        }
    }
}

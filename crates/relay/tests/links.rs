//! Set-up: three relays with real links over loopback; their shards are one log in memory, of which
//! each reads only what it owns. Claims: what is published on any node reaches the sinks of all, in
//! order; the past can be asked for from anywhere; when the owner moves and its node goes away, the
//! others go on without a hole; strangers are refused with what to change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    Addresses, Build, Claim, ClusterId, ClusterVersion, ClusterView, ContentType, FetchError, Gap,
    Member, MemberState, Message, Namespaces, NodeId, Page, Placed, Placement, Position, Publish,
    PublishError, Refusal, Roles, ShardCount, ShardId, Spread, Term, Timestamp, Topic,
    VersionOffer, VersionRange, Want, Watching,
};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::Frame;
use pushonce_relay::{Clocks, Config, Handle, Relay, Sink, Source};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

const CLUSTER: ClusterId = ClusterId(0x5eed);

/// What was committed, and who leads.
#[derive(Clone)]
struct Log(Arc<Mutex<(NodeId, Vec<Arc<Message>>)>>);

struct Shards {
    me: NodeId,
    log: Log,
    handle: Arc<Mutex<Option<Handle>>>,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Live(Position),
    Deliver(Vec<Position>),
    Lost(Gap),
}

struct Edge(mpsc::UnboundedSender<Heard>);

struct Node {
    handle: Handle,
    heard: mpsc::UnboundedReceiver<Heard>,
    clocks: mpsc::UnboundedReceiver<(NodeId, Timestamp)>,
    shutdown: CancellationToken,
    address: String,
}

struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    log: Log,
    topic: Topic,
    term: u64,
    tasks: JoinSet<()>,
}

impl Source for Shards {
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        let (owner, messages) = &mut *self.log.0.lock().expect("no panic");
        if *owner != self.me {
            let refusal = Refusal::NotOwner { owner: Some(*owner) };
            return async move { Err(refusal.into()) }.boxed();
        }
        let position = Position::new(1, messages.len() as u64 + 1);
        let time = Timestamp(7);
        let Publish { topic, content_type, key, stamp: _, payload } = publish;
        let message = Arc::new(Message { position, time, content_type, key, payload });
        messages.push(message.clone());
        if let Some(handle) = &*self.handle.lock().expect("no panic") {
            handle.committed(vec![(topic, message)]);
        }
        async move { Ok(Placed { position, time, durability: Default::default() }) }.boxed()
    }

    fn page(&self, _topic: &Topic, want: Want) -> Result<Page, FetchError> {
        let (owner, messages) = &*self.log.0.lock().expect("no panic");
        if *owner != self.me {
            return Err(FetchError::Unavailable("not the owner".to_owned()));
        }
        let skip = match want {
            Want::After(position) => position.offset.0 as usize,
            Want::Last(count) => messages.len().saturating_sub(count as usize),
            Want::All => 0,
        };
        let head = messages.last().map_or(Position::ZERO, |message| message.position);
        Ok(Page { messages: messages.iter().skip(skip).cloned().collect(), head, gap: None })
    }

    fn log_times(&self) -> Vec<(ShardId, Timestamp)> {
        Vec::new()
    }
}

/// A clock that stands still, and what the peers' clocks show.
struct Clock {
    me: NodeId,
    readings: mpsc::UnboundedSender<(NodeId, Timestamp)>,
}

impl Clocks for Clock {
    fn local(&self) -> Timestamp {
        Timestamp(self.me.0 * 1_000)
    }

    fn on_reading(&self, node: NodeId, time: Timestamp) {
        let _ended = self.readings.send((node, time));
    }
}

impl Sink for Edge {
    fn stale(&self, _: &Topic) {}

    fn fresh(&self, _: &Topic) {}

    fn audience(&self, _: &Topic, _: u64) {}

    fn log_time(&self, _: ShardId, _: Timestamp) {}

    fn watching(&self, _: usize) -> Vec<(Topic, Watching)> {
        Vec::new()
    }

    fn live(&self, _topic: &Topic, head: Position) {
        let _ended = self.0.send(Heard::Live(head));
    }

    fn deliver(&self, _topic: &Topic, messages: Vec<Arc<Message>>) {
        let positions = messages.iter().map(|message| message.position).collect();
        let _ended = self.0.send(Heard::Deliver(positions));
    }

    fn lost(&self, _topic: &Topic, gap: Gap) {
        let _ended = self.0.send(Heard::Lost(gap));
    }
}

impl Node {
    async fn hears(&mut self, wanted: Heard) {
        let heard = timeout(Duration::from_secs(10), self.heard.recv()).await.expect("in time");
        assert_eq!(heard, Some(wanted));
    }

    /// Everything up to `last`, in whatever batches it comes.
    async fn hears_up_to(&mut self, mut next: u64, last: u64) {
        while next <= last {
            let heard = timeout(Duration::from_secs(10), self.heard.recv()).await.expect("in time");
            let Some(Heard::Deliver(positions)) = heard else { panic!("heard {heard:?}") };
            for position in positions {
                assert_eq!(position, Position::new(1, next));
                next += 1;
            }
        }
    }

    async fn reaches(&self, nodes: &[u64]) {
        let wanted: BTreeSet<NodeId> = nodes.iter().copied().map(NodeId).collect();
        let mut reachable = self.handle.reachable();
        let reached = reachable.wait_for(|reached| *reached == wanted);
        timeout(Duration::from_secs(10), reached).await.expect("in time").expect("running");
    }

    async fn hears_owner(&self, cluster_topic: &Topic, owner: u64) {
        let shard = cluster_topic.shard(ShardCount::DEFAULT);
        let mut owners = self.handle.owners();
        let known = owners.wait_for(|owners| owners.of(shard) == Some(NodeId(owner)));
        timeout(Duration::from_secs(10), known).await.expect("in time").expect("running");
    }
}

impl Cluster {
    async fn of(count: u64) -> Cluster {
        Cluster::with(count, |_| {}).await
    }

    async fn with(count: u64, adjust: fn(&mut Config)) -> Cluster {
        let mut listeners = Vec::new();
        for id in (1..=count).map(NodeId) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound").to_string();
            listeners.push((id, listener, address));
        }
        let view = view(listeners.iter().map(|(id, _, address)| (*id, address.clone())));
        let (_never_changes, view) = watch::channel(Arc::new(view));
        let log = Log(Arc::new(Mutex::new((NodeId(1), Vec::new()))));
        let mut tasks = JoinSet::new();
        let mut nodes = BTreeMap::new();
        for (id, listener, address) in listeners {
            let own = Arc::new(Mutex::new(None));
            let shards = Shards { me: id, log: log.clone(), handle: own.clone() };
            let (tell, heard) = mpsc::unbounded_channel();
            let mut config = Config::new(id, CLUSTER);
            adjust(&mut config);
            let (source, sink) = (Arc::new(shards), Arc::new(Edge(tell)));
            let (readings, clocks) = mpsc::unbounded_channel();
            let clock = Arc::new(Clock { me: id, readings });
            let (relay, handle) = Relay::new(config, view.clone(), source, sink, clock);
            *own.lock().expect("no panic") = Some(handle.clone());
            let shutdown = CancellationToken::new();
            let server = pushonce_relay::server().add_service(relay.service());
            let incoming = TcpListenerStream::new(listener);
            let down = shutdown.clone();
            tasks.spawn(async move {
                let serve = server.serve_with_incoming(incoming);
                tokio::select! { _ = serve => {}, () = down.cancelled() => {} }
            });
            tasks.spawn(relay.run(shutdown.clone()));
            nodes.insert(id, Node { handle, heard, clocks, shutdown, address });
        }
        let topic = Topic::new("worldcup/final").expect("valid");
        let mut cluster = Cluster { nodes, log, topic, term: 0, tasks };
        let everybody: Vec<u64> = (1..=count).collect();
        for id in &everybody {
            cluster.node(*id).reaches(&everybody).await;
        }
        cluster
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&NodeId(id)).expect("it runs")
    }

    async fn lead(&mut self, owner: u64) {
        self.term += 1;
        self.log.0.lock().expect("no panic").0 = NodeId(owner);
        let shard = self.topic.shard(ShardCount::DEFAULT);
        let (owner_id, term) = (NodeId(owner), Term(self.term));
        let (voters, learners) = (vec![owner_id], vec![]);
        let claim = Claim { shard, owner: owner_id, term, membership: 1, voters, learners };
        self.node(owner).handle.claim(claim);
        for node in self.nodes.values() {
            node.hears_owner(&self.topic, owner).await;
        }
    }

    fn publish(&self, on: u64, at: u64) -> BoxFuture<'static, Result<Placed, PublishError>> {
        let publish = Publish {
            topic: self.topic.clone(),
            content_type: ContentType::Text,
            key: None,
            stamp: None,
            payload: Bytes::from_static(b"goal!"),
        };
        self.nodes[&NodeId(on)].handle.publish(NodeId(at), publish)
    }

    /// The node is gone, as if its process had died.
    fn kill(&mut self, id: u64) {
        self.nodes.remove(&NodeId(id)).expect("it runs").shutdown.cancel();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

fn view(nodes: impl Iterator<Item = (NodeId, String)>) -> ClusterView {
    let member = |(id, peer): (NodeId, String)| {
        let member = Member {
            id,
            name: id.to_string(),
            addresses: Addresses { peer, ..Addresses::default() },
            region: String::new(),
            zone: String::new(),
            roles: Roles::default(),
            weight: 1,
            state: MemberState::Active,
            build: Build::default(),
        };
        (id, member)
    };
    ClusterView {
        cluster: CLUSTER,
        version: 1,
        shards: ShardCount::DEFAULT,
        replicas: 3,
        spread: Spread::Zones,
        members: nodes.map(member).collect(),
        next_id: NodeId(0),
        placement: Placement::default(),
        namespaces: Namespaces::default(),
        times: Default::default(),
        cluster_version: ClusterVersion::FIRST,
    }
}

#[tokio::test]
async fn what_is_published_on_any_node_reaches_all_and_outlives_the_owner() {
    let mut cluster = Cluster::of(3).await;
    cluster.lead(1).await;
    let topic = cluster.topic.clone();
    for id in 1..=3 {
        cluster.node(id).handle.watch(&topic, None);
        cluster.node(id).hears(Heard::Live(Position::ZERO)).await;
    }
    let placed: Vec<_> = (0..50).map(|n| cluster.publish(2 + n % 2, 1)).collect();
    for placed in futures::future::join_all(placed).await {
        placed.expect("acknowledged");
    }
    for id in 1..=3 {
        cluster.node(id).hears_up_to(1, 50).await;
    }

    let page = cluster.node(3).handle.fetch(topic.clone(), Want::Last(2)).await.expect("answered");
    assert_eq!(page.head, Position::new(1, 50));
    assert_eq!(page.messages.len(), 2);

    cluster.lead(2).await;
    let refused = cluster.publish(3, 1).await;
    let owner = Some(NodeId(2));
    assert_eq!(refused, Err(PublishError::Refused(Refusal::NotOwner { owner })));
    cluster.kill(1);
    cluster.node(3).reaches(&[2, 3]).await;
    let gone = cluster.publish(3, 1).await;
    assert!(matches!(gone, Err(PublishError::Refused(Refusal::Unavailable(_)))), "{gone:?}");
    assert_eq!(cluster.publish(3, 2).await.expect("acknowledged").position, Position::new(1, 51));
    for id in 2..=3 {
        cluster.node(id).hears_up_to(51, 51).await;
    }
}

#[tokio::test]
async fn every_node_hears_of_the_clocks_of_the_others() {
    let mut cluster = Cluster::of(3).await;
    for node in cluster.nodes.values_mut() {
        let mut readings = BTreeMap::new();
        while readings.len() < 2 {
            let heard = timeout(Duration::from_secs(10), node.clocks.recv()).await;
            let (of, time) = heard.expect("in time").expect("running");
            readings.insert(of, time);
        }
        // Links take time, and a stopped clock is carried on by the sender: a second at most.
        for (of, time) in readings {
            let ahead = time.0 - of.0 * 1_000;
            assert!(ahead < 1_000, "{of} showed {time:?}");
        }
    }
}

#[tokio::test]
async fn a_link_over_its_bound_is_reset_and_the_rest_comes_from_history() {
    let mut cluster = Cluster::with(2, |config| config.link_bytes_max = 400 << 10).await;
    cluster.lead(1).await;
    let topic = cluster.topic.clone();
    cluster.node(2).handle.watch(&topic, None);
    cluster.node(2).hears(Heard::Live(Position::ZERO)).await;
    let mut links = cluster.node(1).handle.reachable();
    links.mark_unchanged();
    // Five frames at once; the bound is at two.
    let message = |offset| {
        Arc::new(Message {
            position: Position::new(1, offset),
            time: Timestamp(7),
            content_type: ContentType::Binary,
            key: None,
            payload: Bytes::from(vec![7; 64 << 10]),
        })
    };
    let messages: Vec<_> = (1..=20).map(message).collect();
    cluster.log.0.lock().expect("no panic").1.clone_from(&messages);
    let committed = messages.into_iter().map(|message| (topic.clone(), message));
    cluster.node(1).handle.committed(committed.collect());
    cluster.node(2).hears_up_to(1, 20).await;
    assert!(links.has_changed().expect("running"), "the link was not reset");
}

#[tokio::test]
async fn a_node_that_announces_its_stop_is_known_to_stop_until_its_link_ends() {
    let mut cluster = Cluster::of(3).await;
    cluster.node(2).handle.announce_stop();
    for of in [1, 3] {
        let mut stopping = cluster.node(of).handle.stopping();
        let told = stopping.wait_for(|nodes| *nodes == BTreeSet::from([NodeId(2)]));
        timeout(Duration::from_secs(10), told).await.expect("in time").expect("running");
    }
    assert!(cluster.node(2).handle.stopping().borrow().is_empty());
    cluster.kill(2);
    for of in [1, 3] {
        let mut stopping = cluster.node(of).handle.stopping();
        let gone = stopping.wait_for(BTreeSet::is_empty);
        timeout(Duration::from_secs(10), gone).await.expect("in time").expect("running");
    }
}

#[tokio::test]
async fn publishes_of_one_node_keep_their_order() {
    let mut cluster = Cluster::of(2).await;
    cluster.lead(1).await;
    let placed: Vec<_> = (0..500).map(|_| cluster.publish(2, 1)).collect();
    let placed = futures::future::join_all(placed).await;
    let offsets: Vec<u64> =
        placed.into_iter().map(|placed| placed.expect("acknowledged").position.offset.0).collect();
    assert!(offsets.is_sorted(), "{offsets:?}");
}

/// As an owner places it: the log's lock keeps the order, and is free again when it is passed on.
fn place(log: &Log, handle: &Handle, topic: &Topic) {
    let (_, messages) = &mut *log.0.lock().expect("no panic");
    let message = Arc::new(Message {
        position: Position::new(1, messages.len() as u64 + 1),
        time: Timestamp(7),
        content_type: ContentType::Text,
        key: None,
        payload: Bytes::from_static(b"goal!"),
    });
    messages.push(message.clone());
    handle.placed(vec![(topic.clone(), message)]);
}

#[tokio::test]
async fn what_is_passed_on_to_a_relay_at_rest_is_at_the_sink_at_once() {
    let mut cluster = Cluster::of(1).await;
    cluster.lead(1).await;
    let (log, topic) = (cluster.log.clone(), cluster.topic.clone());
    let node = cluster.node(1);
    node.handle.watch(&topic, None);
    node.hears(Heard::Live(Position::ZERO)).await;
    place(&log, &node.handle, &topic);
    assert!(node.heard.try_recv().is_err(), "it waits");
    node.handle.pass_on();
    assert_eq!(node.heard.try_recv(), Ok(Heard::Deliver(vec![Position::new(1, 1)])));
}

#[tokio::test]
async fn while_something_else_was_said_the_relay_itself_hears_what_is_passed_on() {
    let mut cluster = Cluster::of(1).await;
    cluster.lead(1).await;
    let (log, topic) = (cluster.log.clone(), cluster.topic.clone());
    let node = cluster.node(1);
    node.handle.watch(&topic, None);
    node.hears(Heard::Live(Position::ZERO)).await;
    node.handle.unwatch(&Topic::new("worldcup/semifinal").expect("valid"));
    place(&log, &node.handle, &topic);
    node.handle.pass_on();
    assert!(node.heard.try_recv().is_err(), "not from here");
    node.hears_up_to(1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_place_at_once_reaches_everybody_in_order() {
    const PLACERS: u64 = 3;
    const EACH: u64 = 500;
    let mut cluster = Cluster::of(2).await;
    cluster.lead(1).await;
    let (log, topic) = (cluster.log.clone(), cluster.topic.clone());
    for id in [1, 2] {
        cluster.node(id).handle.watch(&topic, None);
        cluster.node(id).hears(Heard::Live(Position::ZERO)).await;
    }
    for _ in 0..PLACERS {
        let (log, topic, handle) = (log.clone(), topic.clone(), cluster.node(1).handle.clone());
        std::thread::spawn(move || {
            for _ in 0..EACH {
                place(&log, &handle, &topic);
                handle.pass_on();
            }
        });
    }
    for id in [1, 2] {
        cluster.node(id).hears_up_to(1, PLACERS * EACH).await;
    }
}

#[tokio::test]
async fn whoever_asks_a_relay_that_has_ended_is_answered() {
    let mut cluster = Cluster::of(2).await;
    let handle = cluster.node(2).handle.clone();
    cluster.kill(2);
    // Its watch channels close when it has ended.
    let mut reachable = handle.reachable();
    while reachable.changed().await.is_ok() {}
    let fetched = handle.fetch(cluster.topic.clone(), Want::All).await;
    assert!(matches!(fetched, Err(FetchError::Unavailable(_))), "{fetched:?}");
}

#[tokio::test]
async fn a_stranger_is_told_what_to_change() {
    let mut cluster = Cluster::of(2).await;
    let address = format!("http://{}", cluster.node(2).address);
    let offer = |version: ClusterVersion| {
        Some(VersionOffer { supported: VersionRange::only(version), agreed: version })
    };
    let greet = |cluster, node, to, versions| Frame::Hello {
        cluster,
        node: NodeId(node),
        to: Some(to),
        versions,
    };
    let hello = |cluster, node, to| greet(cluster, node, to, offer(VersionRange::SUPPORTED.min));
    let later = offer(VersionRange::SUPPORTED.max.next());
    let cases = [
        (hello(ClusterId(1), 1, NodeId(2)), "not 00000000000000000000000000000001"),
        (hello(CLUSTER, 1, NodeId(3)), "this is n2, not n3"),
        (hello(CLUSTER, 2, NodeId(2)), "opened by the lower node id"),
        (greet(CLUSTER, 1, NodeId(2), None), "older than cluster versions"),
        (greet(CLUSTER, 1, NodeId(2), later), "run a build that supports"),
        (Frame::Withdraw { number: 1 }, "begins with a hello"),
    ];
    for (first, told) in cases {
        let mut client = pb::relay_client::RelayClient::connect(address.clone()).await.expect("up");
        let frames = pb::LinkFrames { frames: vec![first.into()], version: 1 };
        let refused = client.link(tokio_stream::once(frames)).await.expect_err("a stranger");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains(told), "{}", refused.message());
    }
}

//! Set-up: three relays with real links over loopback. Their shards are one log in memory, of which each node
//! reads only what it owns. Expected: messages published on any node reach the sinks of all nodes in order;
//! history can be fetched from any node; when the owner moves and its node stops, the others continue without
//! a hole; unacceptable peers are rejected with the change to make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::{
    Acknowledgement, Addresses, ClusterId, ClusterVersion, ClusterView, CommitAge, ConsensusTimes,
    ContentType, FetchError, Gap, HistoryPage, HistoryRange, Member, Message, NodeId, Position,
    Publish, PublishError, PublishRejection, ShardCount, ShardId, SubscriberCount, Timestamp,
    Topic, UnavailableReason, VersionOffer, VersionRange, test_util,
};
use pushonce_peer::{PeerAddresses, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_relay::{Clocks, Config, Handle, Relay, ShardSource, TopicSink};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

const CLUSTER: ClusterId = ClusterId(0x5eed);

/// The owner and the committed messages.
#[derive(Clone)]
struct SharedLog(Arc<Mutex<(NodeId, Vec<Arc<Message>>)>>);

struct TestShards {
    me: NodeId,
    log: SharedLog,
    handle: Arc<Mutex<Option<Handle>>>,
}

#[derive(Debug, PartialEq)]
enum SinkEvent {
    Live(Position),
    Deliver(Vec<Position>),
    Gap(Gap),
}

struct RecordingSink(mpsc::UnboundedSender<SinkEvent>);

struct RelayNode {
    handle: Handle,
    sink_events: mpsc::UnboundedReceiver<SinkEvent>,
    clock_readings: mpsc::UnboundedReceiver<(NodeId, Timestamp)>,
    shutdown: CancellationToken,
    address: String,
}

struct RelayCluster {
    nodes: BTreeMap<NodeId, RelayNode>,
    log: SharedLog,
    topic: Topic,
    term: u64,
    tasks: JoinSet<()>,
}

impl ShardSource for TestShards {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let (owner, messages) = &mut *self.log.0.lock().expect("no panic");
        if *owner != self.me {
            let refusal = PublishRejection::NotOwner { owner: Some(*owner) };
            return async move { Err(refusal.into()) }.boxed();
        }
        let position = Position::new(1, messages.len() as u64 + 1);
        let time = Timestamp(7);
        let Publish { topic, content_type, key, publish_id: _, payload } = publish;
        let message = Arc::new(Message { position, time, content_type, key, payload });
        messages.push(message.clone());
        if let Some(handle) = &*self.handle.lock().expect("no panic") {
            handle.push_committed(vec![(topic, message)]);
        }
        async move { Ok(Acknowledgement { position, time, durability: Default::default() }) }
            .boxed()
    }

    fn read_history(&self, _topic: &Topic, range: HistoryRange) -> Result<HistoryPage, FetchError> {
        let (owner, messages) = &*self.log.0.lock().expect("no panic");
        if *owner != self.me {
            return Err(UnavailableReason::NotOwner { owner: None }.into());
        }
        let skip = match range {
            HistoryRange::After(position) => position.offset.0 as usize,
            HistoryRange::Last(count) => messages.len().saturating_sub(count as usize),
            HistoryRange::All => 0,
        };
        let head = messages.last().map_or(Position::ZERO, |message| message.position);
        Ok(HistoryPage { messages: messages.iter().skip(skip).cloned().collect(), head, gap: None })
    }

    fn log_times(&self) -> Vec<(ShardId, Timestamp)> {
        Vec::new()
    }
}

/// A clock that stands still, and the recorded clocks of the peers.
struct FixedClock {
    me: NodeId,
    readings: mpsc::UnboundedSender<(NodeId, Timestamp)>,
}

impl Clocks for FixedClock {
    fn local_time(&self) -> Timestamp {
        Timestamp(self.me.0 * 1_000)
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn on_peer_time(&self, node: NodeId, time: Timestamp) {
        let _ended = self.readings.send((node, time));
    }
}

impl TopicSink for RecordingSink {
    fn on_stale(&self, _: &Topic) {}

    fn on_fresh(&self, _: &Topic) {}

    fn on_audience(&self, _: &Topic, _: u64) {}

    fn on_log_time(&self, _: ShardId, _: Timestamp) {}

    fn take_changed_counts(&self, _: usize) -> Vec<(Topic, SubscriberCount)> {
        Vec::new()
    }

    fn on_live(&self, _topic: &Topic, head: Position) {
        let _ended = self.0.send(SinkEvent::Live(head));
    }

    fn deliver(&self, _topic: &Topic, messages: Vec<Arc<Message>>, _age: Option<CommitAge>) {
        let positions = messages.iter().map(|message| message.position).collect();
        let _ended = self.0.send(SinkEvent::Deliver(positions));
    }

    fn on_gap(&self, _topic: &Topic, gap: Gap) {
        let _ended = self.0.send(SinkEvent::Gap(gap));
    }
}

impl RelayNode {
    async fn expect_event(&mut self, expected: SinkEvent) {
        let event =
            timeout(Duration::from_secs(10), self.sink_events.recv()).await.expect("in time");
        assert_eq!(event, Some(expected));
    }

    /// Expects the messages up to `last`, in batches of any size.
    async fn expect_messages(&mut self, mut next: u64, last: u64) {
        while next <= last {
            let event =
                timeout(Duration::from_secs(10), self.sink_events.recv()).await.expect("in time");
            let Some(SinkEvent::Deliver(positions)) = event else { panic!("unexpected {event:?}") };
            for position in positions {
                assert_eq!(position, Position::new(1, next));
                next += 1;
            }
        }
    }

    async fn wait_for_reachable(&self, nodes: &[u64]) {
        let expected: BTreeSet<NodeId> = nodes.iter().copied().map(NodeId).collect();
        let mut reachable = self.handle.reachable();
        let reached = reachable.wait_for(|reached| *reached == expected);
        timeout(Duration::from_secs(10), reached).await.expect("in time").expect("running");
    }

    async fn wait_for_owner(&self, cluster_topic: &Topic, owner: u64) {
        let shard = cluster_topic.shard(ShardCount::DEFAULT);
        let mut owners = self.handle.owners();
        let known = owners.wait_for(|owners| owners.owner_of(shard) == Some(NodeId(owner)));
        timeout(Duration::from_secs(10), known).await.expect("in time").expect("running");
    }
}

impl RelayCluster {
    async fn start(count: u64) -> RelayCluster {
        RelayCluster::start_with(count, |_| {}).await
    }

    async fn start_with(count: u64, adjust: fn(&mut Config)) -> RelayCluster {
        let (mut listeners, addresses) = (Vec::new(), PeerAddresses::default());
        for id in (1..=count).map(NodeId) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound").to_string();
            addresses.set(id, address.clone());
            listeners.push((id, listener, address));
        }
        let view = view(listeners.iter().map(|(id, _, address)| (*id, address.clone())));
        let (_never_changes, view) = watch::channel(Arc::new(view));
        let log = SharedLog(Arc::new(Mutex::new((NodeId(1), Vec::new()))));
        let mut tasks = JoinSet::new();
        let mut nodes = BTreeMap::new();
        for (id, listener, address) in listeners {
            let handle_slot = Arc::new(Mutex::new(None));
            let shards = TestShards { me: id, log: log.clone(), handle: handle_slot.clone() };
            let (sink_sender, sink_events) = mpsc::unbounded_channel();
            let mut config = Config::new(id);
            adjust(&mut config);
            let (source, sink) = (Arc::new(shards), Arc::new(RecordingSink(sink_sender)));
            let (readings, clock_readings) = mpsc::unbounded_channel();
            let clock = Arc::new(FixedClock { me: id, readings });
            let transport =
                PeerTransport::new(CLUSTER, id, addresses.clone(), &ConsensusTimes::LAN);
            let mut server = transport.server();
            let (relay, handle) = Relay::new(config, transport, view.clone(), source, clock);
            *handle_slot.lock().expect("no panic") = Some(handle.clone());
            let shutdown = CancellationToken::new();
            let server = server.add_service(relay.service());
            let incoming = TcpListenerStream::new(listener);
            let down = shutdown.clone();
            tasks.spawn(async move {
                let serve = server.serve_with_incoming(incoming);
                tokio::select! { _ = serve => {}, () = down.cancelled() => {} }
            });
            tasks.spawn(relay.run(sink, shutdown.clone()));
            nodes.insert(id, RelayNode { handle, sink_events, clock_readings, shutdown, address });
        }
        let topic = Topic::new("worldcup/final").expect("valid");
        let mut cluster = RelayCluster { nodes, log, topic, term: 0, tasks };
        let all_nodes: Vec<u64> = (1..=count).collect();
        for id in &all_nodes {
            cluster.node(*id).wait_for_reachable(&all_nodes).await;
        }
        cluster
    }

    fn node(&mut self, id: u64) -> &mut RelayNode {
        self.nodes.get_mut(&NodeId(id)).expect("the node runs")
    }

    async fn set_owner(&mut self, owner: u64) {
        self.term += 1;
        let previous =
            std::mem::replace(&mut self.log.0.lock().expect("no panic").0, NodeId(owner));
        let shard = self.topic.shard(ShardCount::DEFAULT);
        if let Some(previous) = self.nodes.get(&previous) {
            previous.handle.revoke_claim(shard);
        }
        let claim = test_util::claim(shard.0, owner, self.term);
        self.node(owner).handle.announce_claim(claim);
        for node in self.nodes.values() {
            node.wait_for_owner(&self.topic, owner).await;
        }
    }

    fn publish(
        &self,
        via: u64,
        owner: u64,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        let publish = test_util::publish(self.topic.as_str(), "goal!");
        self.nodes[&NodeId(via)].handle.publish(NodeId(owner), publish)
    }

    /// Stops a node without notice, as if its process had died.
    fn kill(&mut self, id: u64) {
        self.nodes.remove(&NodeId(id)).expect("the node runs").shutdown.cancel();
    }
}

impl Drop for RelayCluster {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

fn view(nodes: impl Iterator<Item = (NodeId, String)>) -> ClusterView {
    let member = |(id, peer): (NodeId, String)| {
        let addresses = Addresses { peer, ..Addresses::default() };
        Member { addresses, ..test_util::member(id.0) }
    };
    ClusterView { cluster: CLUSTER, ..test_util::view(nodes.map(member)) }
}

#[tokio::test]
async fn messages_published_on_any_node_reach_all_nodes_and_survive_the_owner() {
    let mut cluster = RelayCluster::start(3).await;
    cluster.set_owner(1).await;
    let topic = cluster.topic.clone();
    for id in 1..=3 {
        cluster.node(id).handle.watch(&topic, None);
        cluster.node(id).expect_event(SinkEvent::Live(Position::ZERO)).await;
    }
    let publishes: Vec<_> = (0..50).map(|n| cluster.publish(2 + n % 2, 1)).collect();
    for outcome in futures::future::join_all(publishes).await {
        outcome.expect("acknowledged");
    }
    for id in 1..=3 {
        cluster.node(id).expect_messages(1, 50).await;
    }

    let page =
        cluster.node(3).handle.fetch(topic.clone(), HistoryRange::Last(2)).await.expect("answered");
    assert_eq!(page.head, Position::new(1, 50));
    assert_eq!(page.messages.len(), 2);

    cluster.set_owner(2).await;
    let refused = cluster.publish(3, 1).await;
    let owner = Some(NodeId(2));
    assert_eq!(refused, Err(PublishError::Rejected(PublishRejection::NotOwner { owner })));
    cluster.kill(1);
    cluster.node(3).wait_for_reachable(&[2, 3]).await;
    let gone = cluster.publish(3, 1).await;
    assert!(
        matches!(gone, Err(PublishError::Rejected(PublishRejection::Unavailable(_)))),
        "{gone:?}"
    );
    assert_eq!(cluster.publish(3, 2).await.expect("acknowledged").position, Position::new(1, 51));
    for id in 2..=3 {
        cluster.node(id).expect_messages(51, 51).await;
    }
}

#[tokio::test]
async fn every_node_receives_the_clocks_of_its_peers() {
    let mut cluster = RelayCluster::start(3).await;
    for node in cluster.nodes.values_mut() {
        let mut readings = BTreeMap::new();
        while readings.len() < 2 {
            let reading = timeout(Duration::from_secs(10), node.clock_readings.recv()).await;
            let (peer, time) = reading.expect("in time").expect("running");
            readings.insert(peer, time);
        }
        // The latency of links and the sender's advance of a stopped clock are below one second.
        for (peer, time) in readings {
            let ahead = time.0 - peer.0 * 1_000;
            assert!(ahead < 1_000, "{peer} showed {time:?}");
        }
    }
}

#[tokio::test]
async fn every_node_measures_the_round_trips_to_its_peers() {
    let cluster = RelayCluster::start(3).await;
    for (me, node) in &cluster.nodes {
        let mut round_trips = node.handle.round_trips();
        let measured = round_trips.wait_for(|known| known.len() == 2);
        let known = timeout(Duration::from_secs(10), measured).await.expect("in time");
        for (peer, time) in &*known.expect("running") {
            assert!(peer != me && *time < Duration::from_millis(500), "{peer}: {time:?}");
        }
    }
}

#[tokio::test]
async fn link_over_its_bound_is_reset_and_history_supplies_the_remainder() {
    let mut cluster = RelayCluster::start_with(2, |config| config.link_bytes_max = 400 << 10).await;
    cluster.set_owner(1).await;
    let topic = cluster.topic.clone();
    cluster.node(2).handle.watch(&topic, None);
    cluster.node(2).expect_event(SinkEvent::Live(Position::ZERO)).await;
    let mut links = cluster.node(1).handle.reachable();
    links.mark_unchanged();
    // Five frames at once; the bound is at two.
    let message = |offset| {
        let payload = Bytes::from(vec![7; 64 << 10]);
        Arc::new(Message { time: Timestamp(7), payload, ..test_util::message(1, offset) })
    };
    let messages: Vec<_> = (1..=20).map(message).collect();
    cluster.log.0.lock().expect("no panic").1.clone_from(&messages);
    let committed = messages.into_iter().map(|message| (topic.clone(), message));
    cluster.node(1).handle.push_committed(committed.collect());
    cluster.node(2).expect_messages(1, 20).await;
    assert!(links.has_changed().expect("running"), "the link was not reset");
}

#[tokio::test]
async fn node_that_announces_its_stop_is_listed_as_stopping_until_its_link_ends() {
    let mut cluster = RelayCluster::start(3).await;
    cluster.node(2).handle.announce_stop();
    for id in [1, 3] {
        let mut stopping = cluster.node(id).handle.stopping();
        let announced = stopping.wait_for(|nodes| *nodes == BTreeSet::from([NodeId(2)]));
        timeout(Duration::from_secs(10), announced).await.expect("in time").expect("running");
    }
    assert!(cluster.node(2).handle.stopping().borrow().is_empty());
    cluster.kill(2);
    for id in [1, 3] {
        let mut stopping = cluster.node(id).handle.stopping();
        let gone = stopping.wait_for(BTreeSet::is_empty);
        timeout(Duration::from_secs(10), gone).await.expect("in time").expect("running");
    }
}

#[tokio::test]
async fn publishes_of_one_node_keep_their_order() {
    let mut cluster = RelayCluster::start(2).await;
    cluster.set_owner(1).await;
    let publishes: Vec<_> = (0..500).map(|_| cluster.publish(2, 1)).collect();
    let outcomes = futures::future::join_all(publishes).await;
    let offsets: Vec<u64> = outcomes
        .into_iter()
        .map(|outcome| outcome.expect("acknowledged").position.offset.0)
        .collect();
    assert!(offsets.is_sorted(), "{offsets:?}");
}

/// Stages a message like an owner: the log's lock keeps the order and is released before the flush.
fn stage_message(log: &SharedLog, handle: &Handle, topic: &Topic) {
    let (_, messages) = &mut *log.0.lock().expect("no panic");
    let message = Arc::new(Message {
        position: Position::new(1, messages.len() as u64 + 1),
        time: Timestamp(7),
        content_type: ContentType::Text,
        key: None,
        payload: Bytes::from_static(b"goal!"),
    });
    messages.push(message.clone());
    handle.stage_committed(vec![(topic.clone(), message)]);
}

#[tokio::test]
async fn flushed_message_reaches_the_sink_at_once_when_the_relay_is_idle() {
    let mut cluster = RelayCluster::start(1).await;
    cluster.set_owner(1).await;
    let (log, topic) = (cluster.log.clone(), cluster.topic.clone());
    let node = cluster.node(1);
    node.handle.watch(&topic, None);
    node.expect_event(SinkEvent::Live(Position::ZERO)).await;
    stage_message(&log, &node.handle, &topic);
    assert!(node.sink_events.try_recv().is_err(), "the message is only staged");
    node.handle.flush_committed();
    assert_eq!(node.sink_events.try_recv(), Ok(SinkEvent::Deliver(vec![Position::new(1, 1)])));
}

#[tokio::test]
async fn flushed_message_is_left_to_the_relay_task_when_other_events_are_queued() {
    let mut cluster = RelayCluster::start(1).await;
    cluster.set_owner(1).await;
    let (log, topic) = (cluster.log.clone(), cluster.topic.clone());
    let node = cluster.node(1);
    node.handle.watch(&topic, None);
    node.expect_event(SinkEvent::Live(Position::ZERO)).await;
    node.handle.unwatch(&Topic::new("worldcup/semifinal").expect("valid"));
    stage_message(&log, &node.handle, &topic);
    node.handle.flush_committed();
    assert!(node.sink_events.try_recv().is_err(), "the flush does not deliver here");
    node.expect_messages(1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_staged_by_several_threads_reach_all_nodes_in_order() {
    const THREADS: u64 = 3;
    const MESSAGES_PER_THREAD: u64 = 500;
    let mut cluster = RelayCluster::start(2).await;
    cluster.set_owner(1).await;
    let (log, topic) = (cluster.log.clone(), cluster.topic.clone());
    for id in [1, 2] {
        cluster.node(id).handle.watch(&topic, None);
        cluster.node(id).expect_event(SinkEvent::Live(Position::ZERO)).await;
    }
    for _ in 0..THREADS {
        let (log, topic, handle) = (log.clone(), topic.clone(), cluster.node(1).handle.clone());
        std::thread::spawn(move || {
            for _ in 0..MESSAGES_PER_THREAD {
                stage_message(&log, &handle, &topic);
                handle.flush_committed();
            }
        });
    }
    for id in [1, 2] {
        cluster.node(id).expect_messages(1, THREADS * MESSAGES_PER_THREAD).await;
    }
}

#[tokio::test]
async fn fetch_from_a_stopped_relay_fails_as_unavailable() {
    let mut cluster = RelayCluster::start(2).await;
    let handle = cluster.node(2).handle.clone();
    cluster.kill(2);
    // Its watch channels close when the relay has stopped.
    let mut reachable = handle.reachable();
    while reachable.changed().await.is_ok() {}
    let fetched = handle.fetch(cluster.topic.clone(), HistoryRange::All).await;
    assert!(matches!(fetched, Err(FetchError::Unavailable(_))), "{fetched:?}");
}

#[tokio::test]
async fn unacceptable_peer_is_rejected_with_what_to_change() {
    let mut cluster = RelayCluster::start(2).await;
    let address = format!("http://{}", cluster.node(2).address);
    let offer = |version: ClusterVersion| {
        Some(VersionOffer { supported: VersionRange::single(version), agreed: version }.to_string())
    };
    let (current, later) =
        (offer(VersionRange::supported().min), offer(VersionRange::supported().max.next()));
    let cases = [
        (ClusterId(1), "n1", "n2", &current, "not 00000000000000000000000000000001"),
        (CLUSTER, "n1", "n3", &current, "this is n2, not n3"),
        (CLUSTER, "n2", "n2", &current, "opened by the lower node id"),
        (CLUSTER, "n1", "n2", &None, "older than cluster versions"),
        (CLUSTER, "n1", "n2", &later, "run a build that supports"),
        (CLUSTER, "nobody", "n2", &current, "sent no greeting"),
    ];
    for (cluster, from, to, versions, expected) in cases {
        let mut client = pb::relay_service_client::RelayServiceClient::connect(address.clone())
            .await
            .expect("up");
        let request = greeted(tokio_stream::pending(), cluster, from, to, versions.as_deref());
        let refused = client.link(request).await.expect_err("the peer is unacceptable");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains(expected), "{}", refused.message());
    }
}

fn greeted<T>(
    body: T,
    cluster: ClusterId,
    from: &str,
    to: &str,
    versions: Option<&str>,
) -> tonic::Request<T> {
    let mut request = tonic::Request::new(body);
    let metadata = request.metadata_mut();
    metadata.insert("pushonce-cluster", cluster.to_string().parse().expect("ASCII"));
    metadata.insert("pushonce-from", from.parse().expect("ASCII"));
    metadata.insert("pushonce-to", to.parse().expect("ASCII"));
    if let Some(versions) = versions {
        metadata.insert("pushonce-versions", versions.parse().expect("ASCII"));
    }
    request
}

/// Node 1 is stopped, and a process with its id sends forged frames to node 3. Node 2 owns the topic.
#[tokio::test]
async fn forged_frames_of_a_member_change_nothing_and_an_oversized_one_ends_its_link() {
    use pb::link_frame::Frame;
    let mut cluster = RelayCluster::start(3).await;
    cluster.set_owner(2).await;
    let topic = cluster.topic.clone();
    cluster.node(3).handle.watch(&topic, None);
    cluster.node(3).expect_event(SinkEvent::Live(Position::ZERO)).await;
    cluster.kill(1);
    cluster.node(3).wait_for_reachable(&[2, 3]).await;

    let address = format!("http://{}", cluster.node(3).address);
    let mut client =
        pb::relay_service_client::RelayServiceClient::connect(address).await.expect("up");
    let version = VersionRange::supported().min;
    let offer = VersionOffer { supported: VersionRange::single(version), agreed: version };
    let (frames, receiver) = mpsc::channel(8);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let request = greeted(stream, CLUSTER, "n1", "n3", Some(&offer.to_string()));
    let mut replies = client.link(request).await.expect("a member").into_inner();
    let send = async |sent: Vec<Frame>| {
        let sent = sent.into_iter().map(|frame| pb::LinkFrame { frame: Some(frame) }).collect();
        let version = version.0.into();
        frames.send(pb::LinkFrames { frames: sent, version }).await.expect("the link is up");
    };
    let shard = topic.shard(ShardCount::DEFAULT).0.into();
    let claim = |owner, term| {
        let (voters, membership) = (vec![1, owner], 1);
        Frame::Claim(pb::OwnershipClaim {
            shard,
            owner,
            term,
            membership,
            voters,
            learners: vec![],
        })
    };
    let absurd = pb::Position { epoch: u64::MAX, offset: u64::MAX };
    let head = Some(absurd);
    let message =
        pb::Message { position: head, content_type: "text".to_owned(), ..Default::default() };
    let forged = vec![
        claim(1, u64::MAX),
        claim(2, u64::MAX),
        claim(3, 9),
        Frame::ClaimRefuted(pb::ClaimRefuted { shard, owner: 2, term: 1 }),
        Frame::Interested(pb::Interested {
            number: 1,
            answer: Some(pb::interested::Answer::Head(absurd)),
        }),
        Frame::Deliver(pb::Deliver { number: 1, messages: vec![message], age_us: None }),
        Frame::Heartbeat(pb::Heartbeat {
            heads: vec![pb::Head { number: 1, position: head }],
            ..Default::default()
        }),
    ];
    send(forged).await;
    // The reply shows that the frames before were handled.
    let topic_name = topic.as_str().to_owned();
    send(vec![Frame::Fetch(pb::Fetch { id: 7, topic: topic_name, range: None })]).await;
    let range = Some(pb::fetch::Range::All(true));
    let topic_name = topic.as_str().to_owned();
    send(vec![Frame::Fetch(pb::Fetch { id: 8, topic: topic_name, range })]).await;
    let is_reply = |frame: &pb::LinkFrame| matches!(&frame.frame, Some(Frame::Fetched(fetched)) if fetched.id == 8);
    let replied = async {
        while !replies.message().await.expect("up").expect("up").frames.iter().any(is_reply) {}
    };
    timeout(Duration::from_secs(10), replied).await.expect("in time");
    cluster.node(3).wait_for_owner(&topic, 2).await;
    let publish = cluster.publish(3, 2).await;
    assert!(publish.is_ok(), "{publish:?}");
    cluster.node(3).expect_messages(1, 1).await;

    let publish = pb::PublishRequest { payload: vec![0; 5 << 20].into(), ..Default::default() };
    send(vec![Frame::Publish(publish)]).await;
    let ended = async { while let Ok(Some(_)) = replies.message().await {} };
    timeout(Duration::from_secs(10), ended).await.expect("the link ends");
    cluster.node(3).wait_for_reachable(&[2, 3]).await;
}

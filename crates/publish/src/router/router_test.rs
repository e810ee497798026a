//! The router with nodes that do as they are told.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use futures::FutureExt;
use pushonce_core::{
    Claim, ClusterId, ContentType, Namespaces, Placement, Position, Refusal, ShardCount, Spread,
    Term, Timestamp, Topic,
};

use super::*;

const ME: NodeId = NodeId(1);

type Answer = Box<dyn FnOnce(Publish) -> BoxFuture<'static, Result<Placed, PublishError>> + Send>;

/// Answers as scripted; what it has no script for is placed in the order it came.
#[derive(Default)]
struct World {
    script: Mutex<VecDeque<Answer>>,
    taken: Mutex<Vec<(NodeId, Bytes)>>,
}

impl World {
    fn answer(
        &self,
        node: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Placed, PublishError>> {
        if let Some(answer) = self.script.lock().expect("whole").pop_front() {
            return answer(publish);
        }
        let mut taken = self.taken.lock().expect("whole");
        taken.push((node, publish.payload));
        let position = Position::new(1, taken.len() as u64);
        async move { Ok(Placed { position, time: Timestamp(0), durability: Default::default() }) }
            .boxed()
    }

    fn then(&self, result: Result<Placed, PublishError>) {
        let answer: Answer = Box::new(move |_| async move { result }.boxed());
        self.script.lock().expect("whole").push_back(answer);
    }

    fn payloads(&self) -> Vec<Bytes> {
        self.taken.lock().expect("whole").iter().map(|(_, payload)| payload.clone()).collect()
    }
}

impl Shards for World {
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>> {
        self.answer(ME, publish)
    }
}

impl Peers for World {
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Placed, PublishError>> {
        self.answer(owner, publish)
    }
}

struct Stage {
    world: Arc<World>,
    router: Router,
    owners: watch::Sender<Arc<Owners>>,
    view: watch::Sender<Option<Arc<ClusterView>>>,
}

/// A node with a current view of a cluster of one shard.
fn stage() -> Stage {
    let stage = starting();
    stage.view.send_replace(Some(view(1)));
    stage
}

fn view(shards: u16) -> Arc<ClusterView> {
    Arc::new(ClusterView {
        cluster: ClusterId(1),
        version: 1,
        shards: ShardCount::new(shards).expect("not zero"),
        replicas: 3,
        spread: Spread::Zones,
        members: Default::default(),
        next_id: NodeId(0),
        placement: Placement::default(),
        namespaces: Namespaces::default(),
        times: Default::default(),
        cluster_version: Default::default(),
    })
}

/// A node that has no current view yet.
fn starting() -> Stage {
    let world = Arc::new(World::default());
    let (owners, owners_seen) = watch::channel(Arc::new(Owners::default()));
    let (view, view_seen) = watch::channel(None);
    let parts = Parts {
        me: ME,
        view: view_seen,
        owners: owners_seen,
        shards: world.clone(),
        peers: world.clone(),
    };
    Stage { world, router: Router::new(Config::default(), parts), owners, view }
}

impl Stage {
    fn claim(&self, owner: u64, term: u64) {
        self.claim_shard(ShardId(0), owner, term);
    }

    fn claim_shard(&self, shard: ShardId, owner: u64, term: u64) {
        let mut owners = Owners::default();
        owners.hear(Claim {
            shard,
            owner: NodeId(owner),
            term: Term(term),
            membership: 1,
            voters: vec![],
            learners: vec![],
        });
        self.owners.send_replace(Arc::new(owners));
    }

    fn askers(&self) -> Vec<u64> {
        self.world.taken.lock().expect("whole").iter().map(|(node, _)| node.0).collect()
    }
}

fn publish(payload: &str) -> Publish {
    Publish {
        topic: Topic::new("a").expect("valid"),
        content_type: ContentType::Binary,
        key: None,
        stamp: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

fn not_owner(owner: Option<u64>) -> Result<Placed, PublishError> {
    Err(Refusal::NotOwner { owner: owner.map(NodeId) }.into())
}

#[tokio::test(start_paused = true)]
async fn the_owner_is_asked_whether_it_is_this_node_or_another() {
    let stage = stage();
    stage.claim(1, 1);
    assert!(stage.router.publish(publish("x")).await.is_ok());
    stage.claim(2, 2);
    assert!(stage.router.publish(publish("y")).await.is_ok());
    assert_eq!(stage.askers(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_follows_an_owner_that_moves_under_it() {
    let stage = stage();
    stage.claim(2, 1);
    stage.world.then(not_owner(Some(3)));
    assert!(stage.router.publish(publish("x")).await.is_ok());
    assert_eq!(stage.askers(), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_waits_for_a_claim() {
    let stage = stage();
    let router = stage.router.clone();
    let waiting = tokio::spawn(async move { router.publish(publish("x")).await });
    tokio::task::yield_now().await;
    stage.claim(2, 1);
    assert!(waiting.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_publish_waits_for_the_first_current_view_and_goes_to_the_shard_of_that_view() {
    let stage = starting();
    let topic = publish("x").topic;
    let shard = topic.shard(ShardCount::new(64).expect("not zero"));
    assert_ne!(shard, topic.shard(ShardCount::DEFAULT), "the test needs a topic that moves");
    stage.claim_shard(topic.shard(ShardCount::DEFAULT), 3, 1);
    let router = stage.router.clone();
    let messages: Vec<_> = (0..3).map(|n| publish(&n.to_string())).collect();
    let input = stream::iter(messages.clone().into_iter().map(Ok));
    let waiting = tokio::spawn(async move { router.ordered(input).collect::<Vec<_>>().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.askers(), Vec::<u64>::new());
    stage.claim_shard(shard, 2, 1);
    stage.view.send_replace(Some(view(64)));
    let answers = waiting.await.expect("no panic");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(stage.askers(), [2, 2, 2]);
    let wanted: Vec<_> = messages.into_iter().map(|message| message.payload).collect();
    assert_eq!(stage.world.payloads(), wanted);
}

#[tokio::test(start_paused = true)]
async fn without_a_current_view_a_publish_is_refused_at_its_deadline() {
    let stage = starting();
    stage.claim(2, 1);
    let begun = tokio::time::Instant::now();
    let refused = stage.router.publish(publish("x")).await;
    assert!(matches!(refused, Err(PublishError::Refused(Refusal::Unavailable(_)))));
    assert_eq!((begun.elapsed().as_secs(), stage.askers()), (5, vec![]));
}

#[tokio::test(start_paused = true)]
async fn without_an_owner_a_publish_is_refused_at_its_deadline() {
    let stage = stage();
    let begun = tokio::time::Instant::now();
    let refused = stage.router.publish(publish("x")).await;
    assert!(matches!(refused, Err(PublishError::Refused(Refusal::Unavailable(_)))));
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_passed_on_and_never_tried_again() {
    let stage = stage();
    stage.claim(2, 1);
    stage.world.then(Err(PublishError::unknown("the link broke")));
    let unknown = stage.router.publish(publish("x")).await;
    assert_eq!(unknown, Err(PublishError::unknown("the link broke")));
    assert_eq!(stage.askers(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_name_each_other_are_not_asked_in_a_circle() {
    let stage = stage();
    stage.claim(2, 1);
    for _ in 0..10_000 {
        stage.world.then(not_owner(Some(3)));
        stage.world.then(not_owner(Some(2)));
    }
    assert!(stage.router.publish(publish("x")).await.is_err());
    let asked = 20_000 - stage.world.script.lock().expect("whole").len();
    assert!(asked < 200, "{asked} times in five seconds");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_a_rule_goes_nowhere() {
    let stage = stage();
    stage.claim(1, 1);
    let large = publish(&"x".repeat(Publish::PAYLOAD_BYTES_DEFAULT + 1));
    let refused = stage.router.publish(large).await;
    assert!(matches!(refused, Err(PublishError::Refused(Refusal::Invalid(_)))));
    assert_eq!(stage.askers(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_its_order_while_the_owner_moves() {
    let stage = stage();
    stage.claim(2, 1);
    (0..50).for_each(|_| stage.world.then(not_owner(Some(3))));
    let messages: Vec<_> = (0..100).map(|n| publish(&n.to_string())).collect();
    let input = stream::iter(messages.clone().into_iter().map(Ok));
    let answers: Vec<_> = stage.router.ordered(input).collect().await;
    let wanted: Vec<_> = messages.into_iter().map(|message| message.payload).collect();
    assert_eq!(stage.world.payloads(), wanted);
    let offsets: Vec<_> = answers.iter().map(|a| a.as_ref().map(|p| p.position.offset.0)).collect();
    assert_eq!(offsets, (1..=100).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn answers_keep_the_order_of_the_stream_and_a_refusal_does_not_end_it() {
    let stage = stage();
    stage.claim(1, 1);
    let busy = Err(PublishError::Refused(Refusal::Overloaded("full".to_owned())));
    stage.world.then(busy.clone());
    let mut other = publish("no");
    other.topic = Topic::new("$sys/a").expect("valid");
    let input = stream::iter([Ok(publish("0")), Ok(other), Ok(publish("2"))]);
    let answers: Vec<_> = stage.router.ordered(input).collect().await;
    assert_eq!(answers[0], busy);
    assert!(matches!(answers[1], Err(PublishError::Refused(Refusal::Invalid(_)))));
    assert!(answers[2].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_not_read_past_its_bounds() {
    let stage = stage();
    let read = Cell::new(0);
    let message = || {
        read.set(read.get() + 1);
        Some(Ok(publish(&"x".repeat(64 << 10))))
    };
    let mut answers = stage.router.ordered(stream::iter(std::iter::from_fn(message)));
    assert!(answers.next().now_or_never().is_none(), "nobody owns the shard yet");
    assert_eq!(read.get(), Ordered::<()>::WAITING_BYTES_MAX >> 16);
}

//! Tests of the router with scripted nodes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use futures::FutureExt;
use pushonce_core::test_util::{self, acknowledgement, owners};
use pushonce_core::{OverloadReason, PublishRejection, ShardCount, Topic};

use super::*;

const ME: NodeId = NodeId(1);

type ScriptedReply =
    Box<dyn FnOnce(Publish) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> + Send>;

/// Replies as scripted; messages without a script are stored in the order of arrival.
#[derive(Default)]
struct ScriptedNodes {
    script: Mutex<VecDeque<ScriptedReply>>,
    accepted: Mutex<Vec<(NodeId, Bytes)>>,
}

impl ScriptedNodes {
    fn next_reply(
        &self,
        node: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        if let Some(reply) = self.script.lock().expect("not poisoned").pop_front() {
            return reply(publish);
        }
        let mut accepted = self.accepted.lock().expect("not poisoned");
        accepted.push((node, publish.payload));
        let result = Ok(acknowledgement(1, accepted.len() as u64));
        async move { result }.boxed()
    }

    fn script_reply(&self, result: Result<Acknowledgement, PublishError>) {
        let reply: ScriptedReply = Box::new(move |_| async move { result }.boxed());
        self.script.lock().expect("not poisoned").push_back(reply);
    }

    fn payloads(&self) -> Vec<Bytes> {
        self.accepted
            .lock()
            .expect("not poisoned")
            .iter()
            .map(|(_, payload)| payload.clone())
            .collect()
    }
}

impl LocalPublisher for ScriptedNodes {
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        self.next_reply(ME, publish)
    }
}

impl PeerPublisher for ScriptedNodes {
    fn publish(
        &self,
        owner: NodeId,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>> {
        self.next_reply(owner, publish)
    }
}

struct TestRouter {
    nodes: Arc<ScriptedNodes>,
    router: Router,
    owners: watch::Sender<Arc<ShardOwners>>,
    view: watch::Sender<Option<Arc<ClusterView>>>,
}

/// A node with a current view of a cluster of one shard.
fn router_with_view() -> TestRouter {
    let test = router_without_view();
    test.view.send_replace(Some(view(1)));
    test
}

fn view(shards: u16) -> Arc<ClusterView> {
    let shards = ShardCount::new(shards).expect("not zero");
    Arc::new(ClusterView { shards, ..test_util::view([]) })
}

/// A node that has no current view yet.
fn router_without_view() -> TestRouter {
    let nodes = Arc::new(ScriptedNodes::default());
    let (owners, owners_receiver) = watch::channel(Arc::new(ShardOwners::default()));
    let (view, view_receiver) = watch::channel(None);
    let parts = RouterParts {
        node_id: ME,
        view: view_receiver,
        owners: owners_receiver,
        shards: nodes.clone(),
        peers: nodes.clone(),
    };
    TestRouter { nodes, router: Router::new(Config::default(), parts), owners, view }
}

impl TestRouter {
    fn claim(&self, owner: u64, term: u64) {
        self.claim_shard(ShardId(0), owner, term);
    }

    fn claim_shard(&self, shard: ShardId, owner: u64, term: u64) {
        self.owners.send_replace(Arc::new(owners([test_util::claim(shard.0, owner, term)])));
    }

    fn publishing_nodes(&self) -> Vec<u64> {
        self.nodes.accepted.lock().expect("not poisoned").iter().map(|(node, _)| node.0).collect()
    }
}

fn publish(payload: &str) -> Publish {
    test_util::publish("a", payload.to_owned())
}

fn not_owner(owner: Option<u64>) -> Result<Acknowledgement, PublishError> {
    Err(PublishRejection::NotOwner { owner: owner.map(NodeId) }.into())
}

#[tokio::test(start_paused = true)]
async fn publish_is_sent_to_the_owner_local_or_remote() {
    let test = router_with_view();
    test.claim(1, 1);
    assert!(test.router.publish(publish("x")).await.is_ok());
    test.claim(2, 2);
    assert!(test.router.publish(publish("y")).await.is_ok());
    assert_eq!(test.publishing_nodes(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn publish_follows_an_owner_change_in_flight() {
    let test = router_with_view();
    test.claim(2, 1);
    test.nodes.script_reply(not_owner(Some(3)));
    assert!(test.router.publish(publish("x")).await.is_ok());
    assert_eq!(test.publishing_nodes(), [3]);
}

#[tokio::test(start_paused = true)]
async fn publish_waits_for_an_ownership_claim() {
    let test = router_with_view();
    let router = test.router.clone();
    let waiting = tokio::spawn(async move { router.publish(publish("x")).await });
    tokio::task::yield_now().await;
    test.claim(2, 1);
    assert!(waiting.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn publish_waits_for_the_first_current_view_and_uses_its_shard() {
    let test = router_without_view();
    let topic = publish("x").topic;
    let shard = topic.shard(ShardCount::new(64).expect("not zero"));
    assert_ne!(shard, topic.shard(ShardCount::DEFAULT), "the test needs a topic that moves");
    test.claim_shard(topic.shard(ShardCount::DEFAULT), 3, 1);
    let router = test.router.clone();
    let messages: Vec<_> = (0..3).map(|n| publish(&n.to_string())).collect();
    let input = stream::iter(messages.clone().into_iter().map(Ok));
    let waiting =
        tokio::spawn(async move { router.publish_ordered(input).collect::<Vec<_>>().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(test.publishing_nodes(), Vec::<u64>::new());
    test.claim_shard(shard, 2, 1);
    test.view.send_replace(Some(view(64)));
    let replies = waiting.await.expect("no panic");
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    assert_eq!(test.publishing_nodes(), [2, 2, 2]);
    let expected: Vec<_> = messages.into_iter().map(|message| message.payload).collect();
    assert_eq!(test.nodes.payloads(), expected);
}

#[tokio::test(start_paused = true)]
async fn publish_without_a_current_view_is_rejected_at_its_deadline() {
    let test = router_without_view();
    test.claim(2, 1);
    let started_at = tokio::time::Instant::now();
    let rejected = test.router.publish(publish("x")).await;
    assert!(matches!(rejected, Err(PublishError::Rejected(PublishRejection::Unavailable(_)))));
    assert_eq!((started_at.elapsed().as_secs(), test.publishing_nodes()), (5, vec![]));
}

#[tokio::test(start_paused = true)]
async fn publish_without_an_owner_is_rejected_at_its_deadline() {
    let test = router_with_view();
    let started_at = tokio::time::Instant::now();
    let rejected = test.router.publish(publish("x")).await;
    assert!(matches!(rejected, Err(PublishError::Rejected(PublishRejection::Unavailable(_)))));
    assert_eq!(started_at.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn unknown_outcome_is_returned_and_never_retried() {
    let test = router_with_view();
    test.claim(2, 1);
    test.nodes.script_reply(Err(PublishError::unknown("the link broke")));
    let unknown = test.router.publish(publish("x")).await;
    assert_eq!(unknown, Err(PublishError::unknown("the link broke")));
    assert_eq!(test.publishing_nodes(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_hint_at_each_other_are_not_retried_in_a_loop() {
    let test = router_with_view();
    test.claim(2, 1);
    for _ in 0..10_000 {
        test.nodes.script_reply(not_owner(Some(3)));
        test.nodes.script_reply(not_owner(Some(2)));
    }
    assert!(test.router.publish(publish("x")).await.is_err());
    let attempts = 20_000 - test.nodes.script.lock().expect("not poisoned").len();
    assert!(attempts < 200, "{attempts} attempts in five seconds");
}

#[tokio::test(start_paused = true)]
async fn invalid_message_is_rejected_without_sending() {
    let test = router_with_view();
    test.claim(1, 1);
    let large = publish(&"x".repeat(Publish::PAYLOAD_BYTES_DEFAULT + 1));
    let rejected = test.router.publish(large).await;
    assert!(matches!(rejected, Err(PublishError::Rejected(PublishRejection::Invalid(_)))));
    assert_eq!(test.publishing_nodes(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn stream_keeps_its_order_while_the_owner_changes() {
    let test = router_with_view();
    test.claim(2, 1);
    (0..50).for_each(|_| test.nodes.script_reply(not_owner(Some(3))));
    let messages: Vec<_> = (0..100).map(|n| publish(&n.to_string())).collect();
    let input = stream::iter(messages.clone().into_iter().map(Ok));
    let replies: Vec<_> = test.router.publish_ordered(input).collect().await;
    let expected: Vec<_> = messages.into_iter().map(|message| message.payload).collect();
    assert_eq!(test.nodes.payloads(), expected);
    let offsets: Vec<_> = replies.iter().map(|a| a.as_ref().map(|p| p.position.offset.0)).collect();
    assert_eq!(offsets, (1..=100).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn replies_keep_stream_order_and_a_rejection_does_not_end_the_stream() {
    let test = router_with_view();
    test.claim(1, 1);
    let overloaded = Err(PublishError::from(OverloadReason::Producers));
    test.nodes.script_reply(overloaded.clone());
    let mut system_topic = publish("no");
    system_topic.topic = Topic::new("$sys/a").expect("valid");
    let input = stream::iter([Ok(publish("0")), Ok(system_topic), Ok(publish("2"))]);
    let replies: Vec<_> = test.router.publish_ordered(input).collect().await;
    assert_eq!(replies[0], overloaded);
    assert!(matches!(replies[1], Err(PublishError::Rejected(PublishRejection::Invalid(_)))));
    assert!(replies[2].is_ok());
}

#[tokio::test(start_paused = true)]
async fn stream_input_is_not_read_past_the_pending_limits() {
    let test = router_with_view();
    let read_count = Cell::new(0);
    let message = || {
        read_count.set(read_count.get() + 1);
        Some(Ok(publish(&"x".repeat(64 << 10))))
    };
    let mut replies = test.router.publish_ordered(stream::iter(std::iter::from_fn(message)));
    assert!(replies.next().now_or_never().is_none(), "the shard has no owner yet");
    assert_eq!(read_count.get(), OrderedPublish::<()>::PENDING_BYTES_MAX >> 16);
}

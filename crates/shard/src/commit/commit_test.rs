use std::pin::Pin;

use futures::FutureExt;
use pushonce_core::{
    AgreedVersion, ContentType, History, InvalidPublish, Message, NodeId, ShardId, Timestamp,
    Topic, UnavailableReason, test_util,
};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::entry::encode_outcomes;
use crate::{CommitListener, ItemRejection, ShardState};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

type ProposedEntry = (EntryBatch, oneshot::Sender<Result<Bytes, ProposeError>>);

/// A group whose test decides the outcome of each proposal.
struct FakeGroup(mpsc::UnboundedSender<ProposedEntry>);

impl Proposer for FakeGroup {
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        let (reply, receiver) = oneshot::channel();
        self.0.send((EntryBatch::decode(&entry).unwrap().1, reply)).unwrap();
        receiver.await.unwrap()
    }
}

struct NoopListener;

impl CommitListener for NoopListener {
    fn on_committed(&self, _: ShardId, _: Vec<(Topic, Arc<Message>)>) {}

    fn on_placed_in_memory(&self, _: ShardId, _: Topic, _: Arc<Message>) {}

    fn on_removed(&self, _: ShardId, _: Vec<Topic>) {}

    fn flush_placed(&self) {}
}

/// A running commit loop and the test's side of its queue and its group.
struct CommitFixture {
    proposal_queue: Arc<ProposalQueue>,
    proposed: mpsc::UnboundedReceiver<ProposedEntry>,
    permits: Arc<Semaphore>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl CommitFixture {
    fn start() -> CommitFixture {
        let (group, proposed) = mpsc::unbounded_channel();
        let (proposal_queue, permits) =
            (Arc::new(ProposalQueue::default()), Arc::new(Semaphore::new(1)));
        let shared = Arc::new(ShardShared::new(
            ShardId(0),
            NodeId(1),
            AgreedVersion::default(),
            Arc::new(NoopListener),
            Arc::new(|| NOW),
            Arc::new(crate::NodeTopics::new(0)),
        ));
        shared.set_state(ShardState::with_history(History::default()));
        let commit = CommitLoop {
            shared,
            proposer: FakeGroup(group),
            proposal_queue: proposal_queue.clone(),
            permits: permits.clone(),
            metrics: ShardMetrics::new(),
        };
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let running = tokio::spawn(async move { commit.run(&token).await });
        CommitFixture { proposal_queue, proposed, permits, shutdown, running }
    }

    /// Queues a publish; it waits in the queue when this returns.
    fn publish(&self, payload: &'static [u8]) -> Pin<Box<dyn Future<Output = PublishResult>>> {
        let proposal_queue = self.proposal_queue.clone();
        let mut waiter = Box::pin(async move { proposal_queue.publish(publish(payload)).await });
        assert_eq!(waiter.as_mut().now_or_never(), None);
        waiter
    }

    async fn next_proposed(
        &mut self,
    ) -> (Vec<Bytes>, oneshot::Sender<Result<Bytes, ProposeError>>) {
        let (batch, end) = self.proposed.recv().await.unwrap();
        assert_eq!(batch.time, NOW);
        (batch.items.into_iter().map(|item| item.payload).collect(), end)
    }
}

fn publish(payload: &'static [u8]) -> Publish {
    Publish { content_type: ContentType::Binary, ..test_util::publish("a", payload) }
}

fn ack(offset: u64) -> Acknowledgement {
    Acknowledgement { time: NOW, ..test_util::acknowledgement(1, offset) }
}

fn reply(offsets: &[u64]) -> Result<Bytes, ProposeError> {
    Ok(encode_outcomes(&offsets.iter().map(|&offset| Ok(ack(offset))).collect()))
}

#[tokio::test]
async fn publishes_during_an_entry_are_batched_into_the_next() {
    let mut fixture = CommitFixture::start();
    let a = fixture.publish(b"a");
    let (entry, end) = fixture.next_proposed().await;
    assert_eq!(entry, ["a"]);

    let (b, c) = (fixture.publish(b"b"), fixture.publish(b"c"));
    assert!(fixture.proposed.try_recv().is_err(), "two entries are in flight");
    end.send(reply(&[1])).unwrap();
    assert_eq!(a.await, Ok(ack(1)));

    let (entry, end) = fixture.next_proposed().await;
    assert_eq!(entry, ["b", "c"]);
    end.send(reply(&[2, 3])).unwrap();
    assert_eq!(b.await, Ok(ack(2)));
    assert_eq!(c.await, Ok(ack(3)));
}

#[tokio::test]
async fn publishes_during_the_wait_for_a_permit_join_the_entry() {
    let mut fixture = CommitFixture::start();
    let permits = fixture.permits.clone();
    let permit = permits.acquire().await.unwrap();
    let a = fixture.publish(b"a");
    yield_now().await; // The loop has seen `a` and waits for the permit.
    let b = fixture.publish(b"b");
    assert!(fixture.proposed.try_recv().is_err(), "proposed without a permit");
    drop(permit);
    let (entry, end) = fixture.next_proposed().await;
    assert_eq!(entry, ["a", "b"]);
    end.send(reply(&[1, 2])).unwrap();
    assert_eq!((a.await, b.await), (Ok(ack(1)), Ok(ack(2))));
    assert_eq!(
        fixture.permits.acquire().await.map(|_| ()).ok(),
        Some(()),
        "the permit was returned"
    );
}

#[tokio::test]
async fn rejected_entry_rejects_all_its_publishes() {
    for leader in [Some(NodeId(2)), None] {
        let mut fixture = CommitFixture::start();
        let permits = fixture.permits.clone();
        let permit = permits.acquire().await.unwrap();
        let (a, b) = (fixture.publish(b"a"), fixture.publish(b"b"));
        drop(permit);
        let (_, end) = fixture.next_proposed().await;
        end.send(Err(ProposeError::Rejected { leader })).unwrap();
        let rejection = Err(PublishRejection::NotOwner { owner: leader }.into());
        assert_eq!((a.await, b.await), (rejection.clone(), rejection));
    }
}

#[tokio::test]
async fn entry_with_an_unknown_outcome_is_reported_and_the_next_is_committed() {
    let mut fixture = CommitFixture::start();
    let a = fixture.publish(b"a");
    let (_, end) = fixture.next_proposed().await;
    end.send(Err(ProposeError::Unknown("no majority in time".to_owned()))).unwrap();
    assert_eq!(a.await, Err(PublishError::unknown("no majority in time")));

    let b = fixture.publish(b"b");
    let (_, end) = fixture.next_proposed().await;
    end.send(reply(&[7])).unwrap();
    assert_eq!(b.await, Ok(ack(7)));
}

#[test]
fn publishes_of_one_entry_get_individual_outcomes() {
    let reply = encode_outcomes(&vec![Ok(ack(1)), Err(ItemRejection::KeyReused)]);
    let rejection = Err(InvalidPublish::KeyReused.into());
    assert_eq!(
        commit_outcomes(Ok(reply), 2),
        [CommitOutcome::Settled(Ok(ack(1))), CommitOutcome::Settled(rejection)]
    );
}

#[tokio::test]
async fn message_whose_namespace_moved_to_memory_is_not_acknowledged_from_the_log() {
    let mut fixture = CommitFixture::start();
    let a = fixture.publish(b"a");
    let (_, end) = fixture.next_proposed().await;
    end.send(Ok(encode_outcomes(&vec![Err(ItemRejection::NamespaceInMemory)]))).unwrap();
    // The settings here do not change, so the message is proposed again, up to the maximum.
    for _ in 1..DURABILITY_CHANGES_MAX {
        let (entry, end) = fixture.next_proposed().await;
        assert_eq!(entry, ["a"]);
        end.send(Ok(encode_outcomes(&vec![Err(ItemRejection::NamespaceInMemory)]))).unwrap();
    }
    assert_eq!(a.await, Err(PublishRejection::NotOwner { owner: None }.into()));
}

#[test]
fn reply_that_does_not_match_the_entry_acknowledges_nothing() {
    for reply in [reply(&[1]), reply(&[1, 2, 3]), Ok(Bytes::from_static(b"\x01\xff"))] {
        let outcomes = commit_outcomes(reply, 2);
        assert_eq!(outcomes.len(), 2);
        let is_unknown = |outcome: &CommitOutcome| {
            matches!(outcome, CommitOutcome::Settled(Err(PublishError::Unknown { .. })))
        };
        assert!(outcomes.iter().all(is_unknown));
    }
}

#[tokio::test]
async fn shutdown_waits_for_the_entry_in_flight_and_rejects_the_queue() {
    let mut fixture = CommitFixture::start();
    let a = fixture.publish(b"a");
    let (_, end) = fixture.next_proposed().await;
    let b = fixture.publish(b"b");
    fixture.shutdown.cancel();
    end.send(reply(&[1])).unwrap();
    assert_eq!(a.await, Ok(ack(1)));
    let stopping = Err(UnavailableReason::Stopping.into());
    assert_eq!(b.await, stopping);
    fixture.running.await.unwrap();
    assert_eq!(fixture.proposal_queue.publish(publish(b"c")).await, stopping);
}

#[tokio::test]
async fn aborted_loop_fails_all_waiting_publishes() {
    let mut fixture = CommitFixture::start();
    let a = fixture.publish(b"a");
    let (_, _end) = fixture.next_proposed().await;
    let b = fixture.publish(b"b");
    fixture.running.abort();
    assert!(matches!(a.await, Err(PublishError::Unknown { .. })));
    assert!(matches!(b.await, Err(PublishError::Rejected(PublishRejection::Unavailable(_)))));
}

#[tokio::test]
async fn full_queue_rejects_new_publishes_and_keeps_the_waiting_ones() {
    static LARGE: [u8; 1 << 20] = [0; 1 << 20];
    let mut fixture = CommitFixture::start();
    let first = fixture.publish(b"");
    let (_, end) = fixture.next_proposed().await;
    let mut waiting = vec![];
    for _ in 0..7 {
        waiting.push(fixture.publish(&LARGE));
    }
    let full = fixture.proposal_queue.publish(publish(&LARGE)).await;
    assert!(matches!(full, Err(PublishError::Rejected(PublishRejection::Overloaded(_)))));

    end.send(reply(&[1])).unwrap();
    first.await.unwrap();
    for (nth, waiter) in waiting.into_iter().enumerate() {
        let (entry, end) = fixture.next_proposed().await;
        assert_eq!(entry.len(), 1, "an entry above the byte limit");
        end.send(reply(&[nth as u64 + 2])).unwrap();
        assert_eq!(waiter.await, Ok(ack(nth as u64 + 2)));
    }
}

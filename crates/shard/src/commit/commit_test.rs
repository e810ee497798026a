use std::pin::Pin;

use futures::FutureExt;
use pushonce_core::{
    AgreedVersion, ContentType, History, InvalidPublish, Message, NodeId, Position, ShardId,
    Timestamp, Topic,
};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::entry::encode_answer;
use crate::{Committed, Rejected, State};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

type Proposed = (Batch, oneshot::Sender<Result<Bytes, ProposeError>>);

/// A group that lets the test say how each proposal ends.
struct Group(mpsc::UnboundedSender<Proposed>);

impl Propose for Group {
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        let (end, ended) = oneshot::channel();
        self.0.send((Batch::decode(&entry).unwrap().1, end)).unwrap();
        ended.await.unwrap()
    }
}

struct Nobody;

impl Committed for Nobody {
    fn committed(&self, _: ShardId, _: Vec<(Topic, Arc<Message>)>) {}

    fn placed(&self, _: ShardId, _: Topic, _: Arc<Message>) {}

    fn pass_on(&self) {}
}

/// A commit loop that runs, and both of its ends.
struct Rig {
    intake: Arc<Intake>,
    proposed: mpsc::UnboundedReceiver<Proposed>,
    permits: Arc<Semaphore>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Rig {
    fn start() -> Rig {
        let (group, proposed) = mpsc::unbounded_channel();
        let (intake, permits) = (Arc::new(Intake::default()), Arc::new(Semaphore::new(1)));
        let shared = Arc::new(Shared::new(
            ShardId(0),
            NodeId(1),
            AgreedVersion::default(),
            Arc::new(Nobody),
            Arc::new(|| NOW),
            Arc::new(crate::NodeTopics::new(0)),
        ));
        shared.begin(State::under(History::default()));
        let commit = Commit {
            shared,
            proposer: Group(group),
            intake: intake.clone(),
            permits: permits.clone(),
        };
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let running = tokio::spawn(async move { commit.run(&token).await });
        Rig { intake, proposed, permits, shutdown, running }
    }

    /// Publishes: the message waits in the queue when this returns.
    fn publish(&self, payload: &'static [u8]) -> Pin<Box<dyn Future<Output = Outcome>>> {
        let intake = self.intake.clone();
        let mut waiter = Box::pin(async move { intake.publish(publish(payload)).await });
        assert_eq!(waiter.as_mut().now_or_never(), None);
        waiter
    }

    async fn proposed(&mut self) -> (Vec<Bytes>, oneshot::Sender<Result<Bytes, ProposeError>>) {
        let (batch, end) = self.proposed.recv().await.unwrap();
        assert_eq!(batch.time, NOW);
        (batch.items.into_iter().map(|item| item.payload).collect(), end)
    }
}

fn publish(payload: &'static [u8]) -> Publish {
    Publish {
        topic: Topic::new("a").unwrap(),
        content_type: ContentType::Binary,
        key: None,
        stamp: None,
        payload: Bytes::from_static(payload),
    }
}

fn placed(offset: u64) -> Placed {
    Placed { position: Position::new(1, offset), time: NOW, durability: Default::default() }
}

fn answer(offsets: &[u64]) -> Result<Bytes, ProposeError> {
    Ok(encode_answer(&offsets.iter().map(|&offset| Ok(placed(offset))).collect()))
}

#[tokio::test]
async fn what_waits_while_an_entry_is_under_way_goes_into_the_next_together() {
    let mut rig = Rig::start();
    let a = rig.publish(b"a");
    let (entry, end) = rig.proposed().await;
    assert_eq!(entry, ["a"]);

    let (b, c) = (rig.publish(b"b"), rig.publish(b"c"));
    assert!(rig.proposed.try_recv().is_err(), "two entries under way");
    end.send(answer(&[1])).unwrap();
    assert_eq!(a.await, Ok(placed(1)));

    let (entry, end) = rig.proposed().await;
    assert_eq!(entry, ["b", "c"]);
    end.send(answer(&[2, 3])).unwrap();
    assert_eq!(b.await, Ok(placed(2)));
    assert_eq!(c.await, Ok(placed(3)));
}

#[tokio::test]
async fn who_arrives_while_the_permit_is_waited_for_rides_along() {
    let mut rig = Rig::start();
    let permits = rig.permits.clone();
    let permit = permits.acquire().await.unwrap();
    let a = rig.publish(b"a");
    yield_now().await; // The loop has seen it, and waits for the permit.
    let b = rig.publish(b"b");
    assert!(rig.proposed.try_recv().is_err(), "proposed without a permit");
    drop(permit);
    let (entry, end) = rig.proposed().await;
    assert_eq!(entry, ["a", "b"]);
    end.send(answer(&[1, 2])).unwrap();
    assert_eq!((a.await, b.await), (Ok(placed(1)), Ok(placed(2))));
    assert_eq!(rig.permits.acquire().await.map(|_| ()).ok(), Some(()), "the permit came back");
}

#[tokio::test]
async fn an_entry_that_was_refused_happened_for_nobody_in_it() {
    for leader in [Some(NodeId(2)), None] {
        let mut rig = Rig::start();
        let permits = rig.permits.clone();
        let permit = permits.acquire().await.unwrap();
        let (a, b) = (rig.publish(b"a"), rig.publish(b"b"));
        drop(permit);
        let (_, end) = rig.proposed().await;
        end.send(Err(ProposeError::Refused { leader })).unwrap();
        let refused = Err(Refusal::NotOwner { owner: leader }.into());
        assert_eq!((a.await, b.await), (refused.clone(), refused));
    }
}

#[tokio::test]
async fn an_entry_whose_end_nobody_knows_is_unknown_and_the_next_goes_on() {
    let mut rig = Rig::start();
    let a = rig.publish(b"a");
    let (_, end) = rig.proposed().await;
    end.send(Err(ProposeError::Unknown("no majority in time".to_owned()))).unwrap();
    assert_eq!(a.await, Err(PublishError::unknown("no majority in time")));

    let b = rig.publish(b"b");
    let (_, end) = rig.proposed().await;
    end.send(answer(&[7])).unwrap();
    assert_eq!(b.await, Ok(placed(7)));
}

#[test]
fn messages_of_one_entry_end_each_in_its_own_way() {
    let end = encode_answer(&vec![Ok(placed(1)), Err(Rejected::KeyReused)]);
    let refused = Err(InvalidPublish::KeyReused.into());
    assert_eq!(ends(Ok(end), 2), [End::Settled(Ok(placed(1))), End::Settled(refused)]);
}

#[tokio::test]
async fn a_message_whose_namespace_went_into_memory_under_it_is_not_acknowledged_from_the_log() {
    let mut rig = Rig::start();
    let a = rig.publish(b"a");
    let (_, end) = rig.proposed().await;
    end.send(Ok(encode_answer(&vec![Err(Rejected::InMemory)]))).unwrap();
    // The replica here has not changed, so the message is proposed again, a bounded number of times.
    for _ in 1..CHANGES_MAX {
        let (entry, end) = rig.proposed().await;
        assert_eq!(entry, ["a"]);
        end.send(Ok(encode_answer(&vec![Err(Rejected::InMemory)]))).unwrap();
    }
    assert_eq!(a.await, Err(Refusal::NotOwner { owner: None }.into()));
}

#[test]
fn an_answer_that_does_not_fit_the_entry_acknowledges_nothing() {
    for end in [answer(&[1]), answer(&[1, 2, 3]), Ok(Bytes::from_static(b"\x01\xff"))] {
        let ends = ends(end, 2);
        assert_eq!(ends.len(), 2);
        let is_unknown = |end: &End| matches!(end, End::Settled(Err(PublishError::Unknown { .. })));
        assert!(ends.iter().all(is_unknown));
    }
}

#[tokio::test]
async fn at_the_end_the_entry_under_way_is_waited_for_and_the_rest_is_refused() {
    let mut rig = Rig::start();
    let a = rig.publish(b"a");
    let (_, end) = rig.proposed().await;
    let b = rig.publish(b"b");
    rig.shutdown.cancel();
    end.send(answer(&[1])).unwrap();
    assert_eq!(a.await, Ok(placed(1)));
    let stopping = Err(Refusal::Unavailable("the node is stopping".to_owned()).into());
    assert_eq!(b.await, stopping);
    rig.running.await.unwrap();
    assert_eq!(rig.intake.publish(publish(b"c")).await, stopping);
}

#[tokio::test]
async fn a_loop_that_is_cut_off_leaves_nobody_waiting() {
    let mut rig = Rig::start();
    let a = rig.publish(b"a");
    let (_, _end) = rig.proposed().await;
    let b = rig.publish(b"b");
    rig.running.abort();
    assert!(matches!(a.await, Err(PublishError::Unknown { .. })));
    assert!(matches!(b.await, Err(PublishError::Refused(Refusal::Unavailable(_)))));
}

#[tokio::test]
async fn a_full_queue_refuses_the_newcomer_and_keeps_who_waits() {
    static LARGE: [u8; 1 << 20] = [0; 1 << 20];
    let mut rig = Rig::start();
    let first = rig.publish(b"");
    let (_, end) = rig.proposed().await;
    let mut waiting = vec![];
    for _ in 0..7 {
        waiting.push(rig.publish(&LARGE));
    }
    let full = rig.intake.publish(publish(&LARGE)).await;
    assert!(matches!(full, Err(PublishError::Refused(Refusal::Overloaded(_)))));

    end.send(answer(&[1])).unwrap();
    first.await.unwrap();
    for (nth, waiter) in waiting.into_iter().enumerate() {
        let (entry, end) = rig.proposed().await;
        assert_eq!(entry.len(), 1, "an entry is bounded in bytes");
        end.send(answer(&[nth as u64 + 2])).unwrap();
        assert_eq!(waiter.await, Ok(placed(nth as u64 + 2)));
    }
}

//! What a session with many topics meets: all that is due to it in one turn comes by one offer, and
//! whatever of that is not taken stays with its topic.

mod stage;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use proptest::prelude::*;
use pushonce_core::test_util::topic;
use pushonce_core::{StartFrom, SubscribeOptions, Topic};
use pushonce_fanout::{
    FrameRun, FrameSink, Hub, Lane, OfferOutcome, SessionKey, SinkClosed, TopicHealth, hub,
};
use stage::{JSON, Owner, Stage, Viewer, frames, play, yields};

fn topics(count: usize) -> Vec<Topic> {
    (0..count).map(|nth| topic(&format!("t{nth}"))).collect()
}

async fn subscribe_to_all(stage: &Stage, topics: &[Topic]) -> Viewer {
    let viewer = stage.viewer(JSON);
    for topic in topics {
        viewer.subscribe(stage, topic, StartFrom::Now).await.expect("subscribed");
    }
    viewer
}

/// Publishes once in each topic, and brings all of it at once.
async fn publish(stage: &Stage, topics: &[Topic]) {
    for topic in topics {
        stage.owner.publish(topic);
    }
    stage.settle().await;
}

fn first_frames(topics: &[Topic]) -> Vec<String> {
    topics.iter().flat_map(|topic| frames(topic, 1..=1)).collect()
}

#[test]
fn messages_of_many_topics_are_sent_in_one_offer_per_session() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(60));
        let viewers = [
            subscribe_to_all(&stage, &topics).await,
            subscribe_to_all(&stage, &topics[..40]).await,
        ];
        let before = viewers.each_ref().map(|viewer| viewer.socket.borrow().offers);
        publish(&stage, &topics).await;
        for ((viewer, before), count) in viewers.iter().zip(before).zip([60, 40]) {
            assert_eq!(viewer.socket.borrow().offers, before + 1);
            assert_eq!(viewer.got(), first_frames(&topics[..count]));
        }
    });
}

#[test]
fn session_with_more_topics_than_offers_per_turn_receives_one_offer() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(600));
        let viewer = subscribe_to_all(&stage, &topics).await;
        let before = viewer.socket.borrow().offers;
        publish(&stage, &topics).await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        // The first topic is walked over first; the others come along as the session has them.
        let (mut got, mut expected) = (viewer.got(), first_frames(&topics));
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected);
    });
}

#[test]
fn each_session_receives_one_offer_if_sessions_exceed_offers_per_turn() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(3));
        let mut viewers = Vec::new();
        for _ in 0..400 {
            viewers.push(subscribe_to_all(&stage, &topics).await);
        }
        for round in 1..=3 {
            let before: Vec<_> =
                viewers.iter().map(|viewer| viewer.socket.borrow().offers).collect();
            publish(&stage, &topics).await;
            for (viewer, before) in viewers.iter().zip(before) {
                assert_eq!(viewer.socket.borrow().offers, before + 1);
                let mut got = viewer.got();
                got.sort_unstable();
                let all = topics.iter().flat_map(|topic| frames(topic, round..=round));
                assert_eq!(got, all.collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn gap_messages_and_stale_notice_are_sent_in_order_in_one_offer() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(2));
        let viewer = subscribe_to_all(&stage, &topics).await;
        publish(&stage, &topics).await;
        viewer.got();
        let before = viewer.socket.borrow().offers;
        for topic in &topics {
            stage.owner.renew(topic, 0);
            stage.owner.publish(topic);
            stage.owner.stand(topic, TopicHealth::Stale);
        }
        stage.settle().await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        let expected_frames = |t: &str| {
            [format!("{t} gap 1:2 2:0 epoch"), format!("{t} 2:1"), format!("{t} stale 2:1")]
        };
        assert_eq!(viewer.got(), [expected_frames("t0"), expected_frames("t1")].concat());
    });
}

#[test]
fn full_sink_leaves_the_cursor_of_each_topic_unchanged() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(10));
        let viewer = subscribe_to_all(&stage, &topics).await;
        viewer.socket.borrow_mut().room = 4;
        publish(&stage, &topics).await;
        assert_eq!(viewer.got(), first_frames(&topics[..4]));
        publish(&stage, &topics).await;
        let offers = viewer.socket.borrow().offers;
        publish(&stage, &topics).await;
        assert_eq!(viewer.socket.borrow().offers, offers, "a blocked session is left alone");
        viewer.go_on(usize::MAX);
        stage.settle().await;
        let mut got = viewer.got();
        got.sort();
        let first = topics[..4].iter().flat_map(|topic| frames(topic, 2..=3));
        let expected: Vec<_> =
            first.chain(topics[4..].iter().flat_map(|topic| frames(topic, 1..=3))).collect();
        assert_eq!(got, expected);
    });
}

#[test]
fn closed_session_is_removed_from_all_its_topics() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(10));
        let viewer = subscribe_to_all(&stage, &topics).await;
        viewer.socket.borrow_mut().closed = true;
        let before = viewer.socket.borrow().offers;
        publish(&stage, &topics).await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        assert!(stage.owner.watched().is_empty());
    });
}

/// Publishes and brings one message more, at its first offer.
struct PublishingSink {
    owner: std::sync::Arc<Owner>,
    hub: Hub,
    publish: Option<Topic>,
}

impl FrameSink for PublishingSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        if let Some(topic) = self.publish.take() {
            self.owner.publish(&topic);
            self.owner.bring(&self.hub, usize::MAX);
        }
        let taken = runs.iter().map(|run| run.frames.len()).sum();
        Ok(OfferOutcome { accepted: taken, is_blocked: false })
    }
}

#[test]
fn message_that_arrives_while_a_delivery_is_pending_is_sent() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(3));
        let viewer = subscribe_to_all(&stage, &topics[1..]).await;
        viewer.socket.borrow_mut().room = 1;
        publish(&stage, &topics[1..]).await;
        assert_eq!(viewer.got(), frames(&topics[1], 1..=1));
        let (owner, hub) = (stage.owner.clone(), stage.hub.clone());
        let sink = PublishingSink { owner, hub, publish: Some(topics[2].clone()) };
        let session = stage.lane.open_session(JSON, Rc::new(RefCell::new(sink)));
        let subscribing = stage.lane.subscribe(
            session,
            1,
            topics[0].clone(),
            StartFrom::Now,
            SubscribeOptions::default(),
        );
        let (subscribed, ()) = futures::join!(subscribing, stage.settle());
        subscribed.expect("subscribed");
        stage.lane.start_delivery(session, &topics[0]);
        stage.settle().await;
        // In one turn: the second topic of the viewer goes on by itself and is gathered, the meddler is
        // offered its own and publishes in it, and it is walked over.
        for topic in [&topics[0], &topics[2]] {
            stage.owner.publish(topic);
        }
        stage.owner.bring(&stage.hub, usize::MAX);
        viewer.go_on(usize::MAX);
        yields(20).await;
        assert_eq!(viewer.got(), frames(&topics[2], 1..=3));
    });
}

/// A session's socket, or sockets: one for all its topics, or one for each by the token.
struct PerTopicSink {
    is_per_topic: bool,
    capacities: HashMap<u32, usize>,
    received: HashMap<u32, Vec<Bytes>>,
}

impl PerTopicSink {
    fn capacity(&mut self, token: u32) -> &mut usize {
        let key = if self.is_per_topic { token } else { 0 };
        self.capacities.entry(key).or_insert(usize::MAX)
    }
}

impl FrameSink for PerTopicSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        let mut taken = 0;
        for run in runs {
            for frame in run.frames {
                let capacity = self.capacity(run.token);
                if *capacity == 0 {
                    return Ok(OfferOutcome { accepted: taken, is_blocked: false });
                }
                *capacity -= 1;
                let full = *capacity == 0;
                taken += 1;
                self.received.entry(run.token).or_default().push(frame.clone());
                if full {
                    return Ok(OfferOutcome { accepted: taken, is_blocked: true });
                }
            }
        }
        Ok(OfferOutcome { accepted: taken, is_blocked: false })
    }
}

const TOPICS: u32 = 4;

/// A session that watches every topic, each under its number as the token.
struct MultiTopicSession {
    key: SessionKey,
    sink: Rc<RefCell<PerTopicSink>>,
}

impl MultiTopicSession {
    async fn new(
        stage: &Stage,
        topics: &[Topic],
        is_per_topic: bool,
        delta: bool,
    ) -> MultiTopicSession {
        let sink =
            PerTopicSink { is_per_topic, capacities: HashMap::new(), received: HashMap::new() };
        let sink = Rc::new(RefCell::new(sink));
        let key = stage.lane.open_session(JSON, Rc::clone(&sink) as Rc<RefCell<dyn FrameSink>>);
        for (token, topic) in (0..TOPICS).zip(topics) {
            let options = SubscribeOptions { accept_deltas: delta, ..SubscribeOptions::default() };
            let subscribing =
                stage.lane.subscribe(key, token, topic.clone(), StartFrom::Now, options);
            let (subscribed, ()) = futures::join!(subscribing, stage.settle());
            subscribed.expect("subscribed");
            stage.lane.start_delivery(key, topic);
        }
        MultiTopicSession { key, sink }
    }

    fn set_capacity(&self, lane: &Lane, token: u32, capacity: usize) {
        *self.sink.borrow_mut().capacity(token) = capacity;
        lane.on_writable(self.key);
    }

    /// The positions that a topic's frames show, of which a difference must follow what it is of; and
    /// whether the topic was told to be stale last.
    fn received(&self, token: u32) -> (Vec<String>, bool) {
        let (mut positions, mut stale): (Vec<String>, _) = (Vec::new(), false);
        for frame in self.sink.borrow().received.get(&token).into_iter().flatten() {
            let frame = String::from_utf8_lossy(frame).into_owned();
            let words: Vec<&str> = frame.split(' ').skip(1).collect();
            match words[..] {
                ["stale", at] | ["live", at] => {
                    let last = positions.last().map_or("0:0", String::as_str);
                    assert!(last == at || positions.is_empty(), "{frame} behind {last}");
                    assert_ne!(stale, words[0] == "stale", "told what it knows");
                    stale = words[0] == "stale";
                }
                [at, "on", base] => {
                    assert_eq!(positions.last().map(String::as_str), Some(base));
                    positions.push(at.to_owned());
                }
                [at] => positions.push(at.to_owned()),
                _ => panic!("not expected: {frame}"),
            }
        }
        (positions, stale)
    }
}

#[derive(Clone, Debug)]
enum SessionOp {
    Publish(u32),
    DeliverEvents(usize),
    Yield(usize),
    /// A way of one of the watchers takes so many frames more, then blocks.
    SetCapacity(usize, u32, usize),
    SetHealth(u32, TopicHealth),
}

fn op() -> impl Strategy<Value = SessionOp> {
    prop_oneof![
        8 => (0..TOPICS).prop_map(SessionOp::Publish),
        3 => (1usize..9).prop_map(SessionOp::DeliverEvents),
        3 => (1usize..4).prop_map(SessionOp::Yield),
        3 => (0usize..3, 0..TOPICS, 0usize..6).prop_map(|(index, token, capacity)| SessionOp::SetCapacity(index, token, capacity)),
        1 => (0..TOPICS, prop_oneof![Just(TopicHealth::Stale), Just(TopicHealth::Live)])
            .prop_map(|(topic, health)| SessionOp::SetHealth(topic, health)),
    ]
}

fn run_ops(ops: Vec<SessionOp>) {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(TOPICS as usize));
        let sessions = [
            MultiTopicSession::new(&stage, &topics, false, false).await,
            MultiTopicSession::new(&stage, &topics, false, true).await,
            MultiTopicSession::new(&stage, &topics, true, true).await,
        ];
        for op in ops {
            match op {
                SessionOp::Publish(topic) => drop(stage.owner.publish(&topics[topic as usize])),
                SessionOp::DeliverEvents(n) => stage.owner.bring(&stage.hub, n),
                SessionOp::Yield(n) => yields(n).await,
                SessionOp::SetCapacity(index, token, capacity) => {
                    sessions[index].set_capacity(&stage.lane, token, capacity)
                }
                SessionOp::SetHealth(topic, health) => {
                    stage.owner.stand(&topics[topic as usize], health)
                }
            }
        }
        for topic in &topics {
            stage.owner.stand(topic, TopicHealth::Live);
        }
        stage.settle().await;
        for session in &sessions {
            (0..TOPICS).for_each(|token| session.set_capacity(&stage.lane, token, usize::MAX));
        }
        stage.settle().await;
        for (token, topic) in (0..TOPICS).zip(&topics) {
            let published = stage.owner.head(topic).offset.0;
            let expected: Vec<_> = (1..=published).map(|offset| format!("1:{offset}")).collect();
            for session in &sessions {
                assert_eq!(session.received(token), (expected.clone(), false), "{topic}");
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_topic_of_every_session_is_complete_wherever_sinks_block(
        ops in proptest::collection::vec(op(), 1..80)
    ) {
        run_ops(ops);
    }
}

//! Sessions with many topics: all pending frames of a turn are sent in one offer, and frames that are not
//! accepted stay pending in their topic.

mod support;

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
use support::{JSON, TestHub, TestOwner, TestSession, frames, run_local, yield_times};

fn topics(count: usize) -> Vec<Topic> {
    (0..count).map(|nth| topic(&format!("t{nth}"))).collect()
}

async fn subscribe_to_all(test_hub: &TestHub, topics: &[Topic]) -> TestSession {
    let session = test_hub.new_session(JSON);
    for topic in topics {
        session.subscribe(test_hub, topic, StartFrom::Now).await.expect("subscribed");
    }
    session
}

/// Publishes once in each topic, and delivers all of it at once.
async fn publish(test_hub: &TestHub, topics: &[Topic]) {
    for topic in topics {
        test_hub.owner.publish(topic);
    }
    test_hub.run_until_idle().await;
}

fn first_frames(topics: &[Topic]) -> Vec<String> {
    topics.iter().flat_map(|topic| frames(topic, 1..=1)).collect()
}

#[test]
fn messages_of_many_topics_are_sent_in_one_offer_per_session() {
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(60));
        let sessions = [
            subscribe_to_all(&test_hub, &topics).await,
            subscribe_to_all(&test_hub, &topics[..40]).await,
        ];
        let before = sessions.each_ref().map(|session| session.sink.borrow().offers);
        publish(&test_hub, &topics).await;
        for ((session, before), count) in sessions.iter().zip(before).zip([60, 40]) {
            assert_eq!(session.sink.borrow().offers, before + 1);
            assert_eq!(session.take_frames(), first_frames(&topics[..count]));
        }
    });
}

#[test]
fn session_with_more_topics_than_offers_per_turn_receives_one_offer() {
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(600));
        let session = subscribe_to_all(&test_hub, &topics).await;
        let before = session.sink.borrow().offers;
        publish(&test_hub, &topics).await;
        assert_eq!(session.sink.borrow().offers, before + 1);
        // The first topic is walked first; the others follow in the session's own order.
        let (mut received, mut expected) = (session.take_frames(), first_frames(&topics));
        received.sort_unstable();
        expected.sort_unstable();
        assert_eq!(received, expected);
    });
}

#[test]
fn each_session_receives_one_offer_if_sessions_exceed_offers_per_turn() {
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(3));
        let mut sessions = Vec::new();
        for _ in 0..400 {
            sessions.push(subscribe_to_all(&test_hub, &topics).await);
        }
        for round in 1..=3 {
            let before: Vec<_> =
                sessions.iter().map(|session| session.sink.borrow().offers).collect();
            publish(&test_hub, &topics).await;
            for (session, before) in sessions.iter().zip(before) {
                assert_eq!(session.sink.borrow().offers, before + 1);
                let mut received = session.take_frames();
                received.sort_unstable();
                let all = topics.iter().flat_map(|topic| frames(topic, round..=round));
                assert_eq!(received, all.collect::<Vec<_>>());
            }
        }
    });
}

#[test]
fn gap_messages_and_stale_notice_are_sent_in_order_in_one_offer() {
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(2));
        let session = subscribe_to_all(&test_hub, &topics).await;
        publish(&test_hub, &topics).await;
        session.take_frames();
        let before = session.sink.borrow().offers;
        for topic in &topics {
            test_hub.owner.start_new_epoch(topic, 0);
            test_hub.owner.publish(topic);
            test_hub.owner.set_health(topic, TopicHealth::Stale);
        }
        test_hub.run_until_idle().await;
        assert_eq!(session.sink.borrow().offers, before + 1);
        let expected_frames = |t: &str| {
            [format!("{t} gap 1:2 2:0 epoch"), format!("{t} 2:1"), format!("{t} stale 2:1")]
        };
        assert_eq!(session.take_frames(), [expected_frames("t0"), expected_frames("t1")].concat());
    });
}

#[test]
fn full_sink_leaves_the_cursor_of_each_topic_unchanged() {
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(10));
        let session = subscribe_to_all(&test_hub, &topics).await;
        session.sink.borrow_mut().capacity = 4;
        publish(&test_hub, &topics).await;
        assert_eq!(session.take_frames(), first_frames(&topics[..4]));
        publish(&test_hub, &topics).await;
        let offers = session.sink.borrow().offers;
        publish(&test_hub, &topics).await;
        assert_eq!(session.sink.borrow().offers, offers, "a blocked session is not offered frames");
        session.set_capacity(usize::MAX);
        test_hub.run_until_idle().await;
        let mut received = session.take_frames();
        received.sort();
        let first = topics[..4].iter().flat_map(|topic| frames(topic, 2..=3));
        let expected: Vec<_> =
            first.chain(topics[4..].iter().flat_map(|topic| frames(topic, 1..=3))).collect();
        assert_eq!(received, expected);
    });
}

#[test]
fn closed_session_is_removed_from_all_its_topics() {
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(10));
        let session = subscribe_to_all(&test_hub, &topics).await;
        session.sink.borrow_mut().closed = true;
        let before = session.sink.borrow().offers;
        publish(&test_hub, &topics).await;
        assert_eq!(session.sink.borrow().offers, before + 1);
        assert!(test_hub.owner.watched().is_empty());
    });
}

/// At its first offer, publishes and delivers one more message.
struct PublishingSink {
    owner: std::sync::Arc<TestOwner>,
    hub: Hub,
    publish: Option<Topic>,
}

impl FrameSink for PublishingSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        if let Some(topic) = self.publish.take() {
            self.owner.publish(&topic);
            self.owner.deliver_events(&self.hub, usize::MAX);
        }
        let taken = runs.iter().map(|run| run.frames.len()).sum();
        Ok(OfferOutcome { accepted: taken, is_blocked: false })
    }
}

#[test]
fn message_that_arrives_while_a_delivery_is_pending_is_sent() {
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(3));
        let session = subscribe_to_all(&test_hub, &topics[1..]).await;
        session.sink.borrow_mut().capacity = 1;
        publish(&test_hub, &topics[1..]).await;
        assert_eq!(session.take_frames(), frames(&topics[1], 1..=1));
        let (owner, hub) = (test_hub.owner.clone(), test_hub.hub.clone());
        let sink = PublishingSink { owner, hub, publish: Some(topics[2].clone()) };
        let publishing_session = test_hub.lane.open_session(JSON, Rc::new(RefCell::new(sink)));
        let subscribing = test_hub.lane.subscribe(
            publishing_session,
            1,
            topics[0].clone(),
            StartFrom::Now,
            SubscribeOptions::default(),
        );
        let (subscribed, ()) = futures::join!(subscribing, test_hub.run_until_idle());
        subscribed.expect("subscribed");
        test_hub.lane.start_delivery(publishing_session, &topics[0]);
        test_hub.run_until_idle().await;
        // In one turn: the second topic of the session is served outside of a walk and deferred; the
        // publishing session is offered its frames and publishes in that topic; then the topic is walked.
        for topic in [&topics[0], &topics[2]] {
            test_hub.owner.publish(topic);
        }
        test_hub.owner.deliver_events(&test_hub.hub, usize::MAX);
        session.set_capacity(usize::MAX);
        yield_times(20).await;
        assert_eq!(session.take_frames(), frames(&topics[2], 1..=3));
    });
}

/// The sinks of a session: one for all its topics, or one for each token.
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

/// A session that is subscribed to every topic, with the index of the topic as the token.
struct MultiTopicSession {
    key: SessionKey,
    sink: Rc<RefCell<PerTopicSink>>,
}

impl MultiTopicSession {
    async fn new(
        test_hub: &TestHub,
        topics: &[Topic],
        is_per_topic: bool,
        delta: bool,
    ) -> MultiTopicSession {
        let sink =
            PerTopicSink { is_per_topic, capacities: HashMap::new(), received: HashMap::new() };
        let sink = Rc::new(RefCell::new(sink));
        let key = test_hub.lane.open_session(JSON, Rc::clone(&sink) as Rc<RefCell<dyn FrameSink>>);
        for (token, topic) in (0..TOPICS).zip(topics) {
            let options = SubscribeOptions { accept_deltas: delta, ..SubscribeOptions::default() };
            let subscribing =
                test_hub.lane.subscribe(key, token, topic.clone(), StartFrom::Now, options);
            let (subscribed, ()) = futures::join!(subscribing, test_hub.run_until_idle());
            subscribed.expect("subscribed");
            test_hub.lane.start_delivery(key, topic);
        }
        MultiTopicSession { key, sink }
    }

    fn set_capacity(&self, lane: &Lane, token: u32, capacity: usize) {
        *self.sink.borrow_mut().capacity(token) = capacity;
        lane.on_writable(self.key);
    }

    /// The positions of a topic's frames, each delta of which must follow its base; and whether the topic
    /// was last reported as stale.
    fn received(&self, token: u32) -> (Vec<String>, bool) {
        let (mut positions, mut stale): (Vec<String>, _) = (Vec::new(), false);
        for frame in self.sink.borrow().received.get(&token).into_iter().flatten() {
            let frame = String::from_utf8_lossy(frame).into_owned();
            let words: Vec<&str> = frame.split(' ').skip(1).collect();
            match words[..] {
                ["stale", at] | ["live", at] => {
                    let last = positions.last().map_or("0:0", String::as_str);
                    assert!(last == at || positions.is_empty(), "{frame} behind {last}");
                    assert_ne!(stale, words[0] == "stale", "health was reported twice");
                    stale = words[0] == "stale";
                }
                [at, "on", base] => {
                    assert_eq!(positions.last().map(String::as_str), Some(base));
                    positions.push(at.to_owned());
                }
                [at] => positions.push(at.to_owned()),
                _ => panic!("unexpected frame: {frame}"),
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
    /// A sink of one of the sessions accepts this many frames more, then blocks.
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
    run_local(async || {
        let (test_hub, topics) = (TestHub::new(hub::Config::default()), topics(TOPICS as usize));
        let sessions = [
            MultiTopicSession::new(&test_hub, &topics, false, false).await,
            MultiTopicSession::new(&test_hub, &topics, false, true).await,
            MultiTopicSession::new(&test_hub, &topics, true, true).await,
        ];
        for op in ops {
            match op {
                SessionOp::Publish(topic) => drop(test_hub.owner.publish(&topics[topic as usize])),
                SessionOp::DeliverEvents(n) => test_hub.owner.deliver_events(&test_hub.hub, n),
                SessionOp::Yield(n) => yield_times(n).await,
                SessionOp::SetCapacity(index, token, capacity) => {
                    sessions[index].set_capacity(&test_hub.lane, token, capacity)
                }
                SessionOp::SetHealth(topic, health) => {
                    test_hub.owner.set_health(&topics[topic as usize], health)
                }
            }
        }
        for topic in &topics {
            test_hub.owner.set_health(topic, TopicHealth::Live);
        }
        test_hub.run_until_idle().await;
        for session in &sessions {
            (0..TOPICS).for_each(|token| session.set_capacity(&test_hub.lane, token, usize::MAX));
        }
        test_hub.run_until_idle().await;
        for (token, topic) in (0..TOPICS).zip(&topics) {
            let published = test_hub.owner.head(topic).offset.0;
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

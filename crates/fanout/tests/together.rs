//! What a session with many topics meets: all that is due to it in one turn comes by one offer, and
//! whatever of that is not taken stays with its topic.

mod stage;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use proptest::prelude::*;
use pushonce_core::{From, Options, Topic};
use pushonce_fanout::{Closed, Hub, Lane, Offered, Outlet, Run, SessionKey, Standing, hub};
use stage::{JSON, Owner, Stage, Viewer, frames, play, topic, yields};

fn topics(count: usize) -> Vec<Topic> {
    (0..count).map(|nth| topic(&format!("t{nth}"))).collect()
}

async fn viewer_of(stage: &Stage, topics: &[Topic]) -> Viewer {
    let viewer = stage.viewer(JSON);
    for topic in topics {
        viewer.subscribe(stage, topic, From::Now).await.expect("subscribed");
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

fn first_of(topics: &[Topic]) -> Vec<String> {
    topics.iter().flat_map(|topic| frames(topic, 1..=1)).collect()
}

#[test]
fn news_of_many_topics_is_one_offer_to_each_session() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(60));
        let viewers = [viewer_of(&stage, &topics).await, viewer_of(&stage, &topics[..40]).await];
        let before = viewers.each_ref().map(|viewer| viewer.socket.borrow().offers);
        publish(&stage, &topics).await;
        for ((viewer, before), count) in viewers.iter().zip(before).zip([60, 40]) {
            assert_eq!(viewer.socket.borrow().offers, before + 1);
            assert_eq!(viewer.got(), first_of(&topics[..count]));
        }
    });
}

#[test]
fn a_session_with_more_topics_than_a_turn_has_offers_still_has_one() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(600));
        let viewer = viewer_of(&stage, &topics).await;
        let before = viewer.socket.borrow().offers;
        publish(&stage, &topics).await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        // The first topic is walked over first; the others come along as the session has them.
        let (mut got, mut wanted) = (viewer.got(), first_of(&topics));
        got.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(got, wanted);
    });
}

#[test]
fn more_sessions_of_a_few_topics_than_a_turn_has_offers_have_one_each() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(3));
        let mut viewers = Vec::new();
        for _ in 0..400 {
            viewers.push(viewer_of(&stage, &topics).await);
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
fn a_gap_messages_and_what_holds_then_come_in_order_and_together() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(2));
        let viewer = viewer_of(&stage, &topics).await;
        publish(&stage, &topics).await;
        viewer.got();
        let before = viewer.socket.borrow().offers;
        for topic in &topics {
            stage.owner.renew(topic, 0);
            stage.owner.publish(topic);
            stage.owner.stand(topic, Standing::Stale);
        }
        stage.settle().await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        let of = |t: &str| {
            [format!("{t} gap 1:2 2:0 epoch"), format!("{t} 2:1"), format!("{t} stale 2:1")]
        };
        assert_eq!(viewer.got(), [of("t0"), of("t1")].concat());
    });
}

#[test]
fn a_full_socket_leaves_each_topic_where_it_was() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(10));
        let viewer = viewer_of(&stage, &topics).await;
        viewer.socket.borrow_mut().room = 4;
        publish(&stage, &topics).await;
        assert_eq!(viewer.got(), first_of(&topics[..4]));
        publish(&stage, &topics).await;
        let offers = viewer.socket.borrow().offers;
        publish(&stage, &topics).await;
        assert_eq!(viewer.socket.borrow().offers, offers, "a blocked session is left alone");
        viewer.go_on(usize::MAX);
        stage.settle().await;
        let mut got = viewer.got();
        got.sort();
        let first = topics[..4].iter().flat_map(|topic| frames(topic, 2..=3));
        let wanted: Vec<_> =
            first.chain(topics[4..].iter().flat_map(|topic| frames(topic, 1..=3))).collect();
        assert_eq!(got, wanted);
    });
}

#[test]
fn a_session_that_is_over_is_over_for_all_its_topics() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(10));
        let viewer = viewer_of(&stage, &topics).await;
        viewer.socket.borrow_mut().closed = true;
        let before = viewer.socket.borrow().offers;
        publish(&stage, &topics).await;
        assert_eq!(viewer.socket.borrow().offers, before + 1);
        assert!(stage.owner.watched().is_empty());
    });
}

/// Publishes and brings one message more, at its first offer.
struct Meddler {
    owner: std::sync::Arc<Owner>,
    hub: Hub,
    publish: Option<Topic>,
}

impl Outlet for Meddler {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        if let Some(topic) = self.publish.take() {
            self.owner.publish(&topic);
            self.owner.bring(&self.hub, usize::MAX);
        }
        let taken = runs.iter().map(|run| run.frames.len()).sum();
        Ok(Offered { taken, blocked: false })
    }
}

#[test]
fn what_comes_while_a_topic_waits_for_the_end_of_the_turn_is_not_forgotten() {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(3));
        let viewer = viewer_of(&stage, &topics[1..]).await;
        viewer.socket.borrow_mut().room = 1;
        publish(&stage, &topics[1..]).await;
        assert_eq!(viewer.got(), frames(&topics[1], 1..=1));
        let (owner, hub) = (stage.owner.clone(), stage.hub.clone());
        let meddler = Meddler { owner, hub, publish: Some(topics[2].clone()) };
        let meddler = stage.lane.open(JSON, Rc::new(RefCell::new(meddler)));
        let subscribing =
            stage.lane.subscribe(meddler, 1, topics[0].clone(), From::Now, Options::default());
        let (subscribed, ()) = futures::join!(subscribing, stage.settle());
        subscribed.expect("subscribed");
        stage.lane.start(meddler, &topics[0]);
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
struct Ways {
    own: bool,
    rooms: HashMap<u32, usize>,
    got: HashMap<u32, Vec<Bytes>>,
}

impl Ways {
    fn room(&mut self, token: u32) -> &mut usize {
        let way = if self.own { token } else { 0 };
        self.rooms.entry(way).or_insert(usize::MAX)
    }
}

impl Outlet for Ways {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        let mut taken = 0;
        for run in runs {
            for frame in run.frames {
                let room = self.room(run.token);
                if *room == 0 {
                    return Ok(Offered { taken, blocked: false });
                }
                *room -= 1;
                let full = *room == 0;
                taken += 1;
                self.got.entry(run.token).or_default().push(frame.clone());
                if full {
                    return Ok(Offered { taken, blocked: true });
                }
            }
        }
        Ok(Offered { taken, blocked: false })
    }
}

const TOPICS: u32 = 4;

/// A session that watches every topic, each under its number as the token.
struct Watcher {
    key: SessionKey,
    ways: Rc<RefCell<Ways>>,
}

impl Watcher {
    async fn new(stage: &Stage, topics: &[Topic], own: bool, delta: bool) -> Watcher {
        let ways = Ways { own, rooms: HashMap::new(), got: HashMap::new() };
        let ways = Rc::new(RefCell::new(ways));
        let key = stage.lane.open(JSON, Rc::clone(&ways) as Rc<RefCell<dyn Outlet>>);
        for (token, topic) in (0..TOPICS).zip(topics) {
            let options = Options { delta, ..Options::default() };
            let subscribing = stage.lane.subscribe(key, token, topic.clone(), From::Now, options);
            let (subscribed, ()) = futures::join!(subscribing, stage.settle());
            subscribed.expect("subscribed");
            stage.lane.start(key, topic);
        }
        Watcher { key, ways }
    }

    fn go_on(&self, lane: &Lane, token: u32, room: usize) {
        *self.ways.borrow_mut().room(token) = room;
        lane.writable(self.key);
    }

    /// The positions that a topic's frames show, of which a difference must follow what it is of; and
    /// whether the topic was told to be stale last.
    fn shown(&self, token: u32) -> (Vec<String>, bool) {
        let (mut shown, mut stale): (Vec<String>, _) = (Vec::new(), false);
        for frame in self.ways.borrow().got.get(&token).into_iter().flatten() {
            let frame = String::from_utf8_lossy(frame).into_owned();
            let words: Vec<&str> = frame.split(' ').skip(1).collect();
            match words[..] {
                ["stale", at] | ["live", at] => {
                    let last = shown.last().map_or("0:0", String::as_str);
                    assert!(last == at || shown.is_empty(), "{frame} behind {last}");
                    assert_ne!(stale, words[0] == "stale", "told what it knows");
                    stale = words[0] == "stale";
                }
                [at, "on", base] => {
                    assert_eq!(shown.last().map(String::as_str), Some(base));
                    shown.push(at.to_owned());
                }
                [at] => shown.push(at.to_owned()),
                _ => panic!("not expected: {frame}"),
            }
        }
        (shown, stale)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u32),
    Bring(usize),
    Turns(usize),
    /// A way of one of the watchers takes so many frames more, then blocks.
    Room(usize, u32, usize),
    Stand(u32, Standing),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..TOPICS).prop_map(Step::Publish),
        3 => (1usize..9).prop_map(Step::Bring),
        3 => (1usize..4).prop_map(Step::Turns),
        3 => (0usize..3, 0..TOPICS, 0usize..6).prop_map(|(who, way, room)| Step::Room(who, way, room)),
        1 => (0..TOPICS, prop_oneof![Just(Standing::Stale), Just(Standing::Live)])
            .prop_map(|(topic, standing)| Step::Stand(topic, standing)),
    ]
}

fn run(steps: Vec<Step>) {
    play(async || {
        let (stage, topics) = (Stage::new(hub::Config::default()), topics(TOPICS as usize));
        let watchers = [
            Watcher::new(&stage, &topics, false, false).await,
            Watcher::new(&stage, &topics, false, true).await,
            Watcher::new(&stage, &topics, true, true).await,
        ];
        for step in steps {
            match step {
                Step::Publish(topic) => drop(stage.owner.publish(&topics[topic as usize])),
                Step::Bring(n) => stage.owner.bring(&stage.hub, n),
                Step::Turns(n) => yields(n).await,
                Step::Room(who, way, room) => watchers[who].go_on(&stage.lane, way, room),
                Step::Stand(topic, standing) => {
                    stage.owner.stand(&topics[topic as usize], standing)
                }
            }
        }
        for topic in &topics {
            stage.owner.stand(topic, Standing::Live);
        }
        stage.settle().await;
        for watcher in &watchers {
            (0..TOPICS).for_each(|way| watcher.go_on(&stage.lane, way, usize::MAX));
        }
        stage.settle().await;
        for (token, topic) in (0..TOPICS).zip(&topics) {
            let published = stage.owner.head(topic).offset.0;
            let wanted: Vec<_> = (1..=published).map(|offset| format!("1:{offset}")).collect();
            for watcher in &watchers {
                assert_eq!(watcher.shown(token), (wanted.clone(), false), "{topic}");
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wherever_sockets_block_each_topic_of_each_session_is_one_unbroken_line(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        run(steps);
    }
}

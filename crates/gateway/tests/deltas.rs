//! Whatever a topic's payloads are and however slowly somebody reads, what its frames make, deflated or
//! not, with deltas or without, is every message as it was published, or a gap.

mod support;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use proptest::sample::Index;
use pushonce_core::{
    ContentType, FetchError, From, Message, Options, Page, Position, Timestamp, Topic, Want,
};
use pushonce_fanout::{
    Closed, Hub, Offered, Outlet, Retention, Run, SessionKey, Upstream, Wire, hub,
};
use pushonce_gateway::Encoder;
use pushonce_proto::client::{Encoding, Event};
use tokio::runtime::{Builder, LocalOptions};
use tokio_util::sync::CancellationToken;

use support::raw::inflated;

#[derive(Clone, Debug)]
enum Step {
    /// A payload that differs from the last by so much cut out at a place, and this put in.
    Publish(Index, usize, String),
    /// A viewer takes so many frames more, then blocks.
    Room(usize, usize),
    /// A viewer subscribes again.
    Again(usize),
    /// The lane gets some turns.
    Turns,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<Index>(), 0_usize..20, "[a-c \\n\"ü]{0,30}")
            .prop_map(|(at, cut, put)| Step::Publish(at, cut, put)),
        1 => (0..VIEWERS.len(), 0_usize..9).prop_map(|(who, room)| Step::Room(who, room)),
        1 => (0..VIEWERS.len()).prop_map(Step::Again),
        2 => Just(Step::Turns),
    ]
}

/// WebSocket in JSON and protobuf and the same deflated, with deltas and without.
const VIEWERS: [(Wire, bool); 6] = [
    (Wire(0), true),
    (Wire(0), false),
    (Wire(1), true),
    (Wire(3), true),
    (Wire(4), true),
    (Wire(4), false),
];

struct Nowhere;

impl Upstream for Nowhere {
    fn watch(&self, _: &Topic, _: Option<Position>) {}

    fn unwatch(&self, _: &Topic) {}

    fn fetch(&self, _: Topic, _: Want) -> BoxFuture<'static, Result<Page, FetchError>> {
        std::future::ready(Err(FetchError::Unavailable("no past".to_owned()))).boxed()
    }

    fn retention(&self, _: &Topic) -> Retention {
        Retention::default()
    }
}

struct Socket {
    frames: Vec<Bytes>,
    room: usize,
}

impl Outlet for Socket {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        let frames = runs.iter().flat_map(|run| run.frames).take(self.room);
        let before = self.frames.len();
        self.frames.extend(frames.cloned());
        let taken = self.frames.len() - before;
        self.room -= taken;
        Ok(Offered { taken, blocked: self.room == 0 })
    }
}

struct Viewer {
    wire: Wire,
    delta: bool,
    key: SessionKey,
    socket: Rc<RefCell<Socket>>,
    /// Where its subscription began.
    since: Position,
}

/// What a frame says, out of its WebSocket message.
fn event(wire: Wire, frame: &Bytes) -> Event {
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let payload = match frame[0] & 0x40 {
        0 => frame.slice(header..),
        _ => inflated(&frame[header..]).into(),
    };
    let json = matches!(wire, Wire(0 | 3));
    let encoding = if json { Encoding::Json } else { Encoding::Proto };
    encoding.decode_event(&payload).expect("an event")
}

/// Whether what a viewer was sent is what was published. Returns how far it got.
fn check(viewer: &Viewer, published: &HashMap<Position, Bytes>) -> Position {
    let mut reached = viewer.since;
    let mut last: Option<Bytes> = None;
    for frame in &viewer.socket.borrow().frames {
        let (position, payload) = match event(viewer.wire, frame) {
            Event::Message { message, .. } => (message.position, message.payload.clone()),
            Event::Difference { difference, .. } => {
                assert!(viewer.delta, "nobody asked for a difference");
                let base = last.expect("the message before was sent right before");
                let payload = fossil_delta::deltainv(base, difference.delta);
                (difference.position, payload.into())
            }
            Event::Gap { gap, .. } => {
                (reached, last) = (gap.to, None);
                continue;
            }
            other => panic!("{other:?}"),
        };
        assert!(position.follows(reached), "{position} does not follow {reached}");
        assert_eq!(published.get(&position), Some(&payload), "{position}");
        (reached, last) = (position, Some(payload));
    }
    reached
}

fn options(delta: bool) -> Options {
    Options { delta, ..Options::default() }
}

async fn turns() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn run(steps: Vec<Step>) {
    let config = hub::Config { ring_messages_max: 3, ..hub::Config::default() };
    let hub = Hub::new(config, Arc::new(Nowhere), Arc::new(Encoder));
    let (topic, end) = (Topic::new("a").expect("valid"), CancellationToken::new());
    let (lane, driver) = hub.lane();
    tokio::task::spawn_local(driver.run(end.clone()));
    let mut viewers = Vec::new();
    for (wire, delta) in VIEWERS {
        let socket = Rc::new(RefCell::new(Socket { frames: Vec::new(), room: usize::MAX }));
        let key = lane.open(wire, socket.clone());
        let subscribing = lane.subscribe(key, 0, topic.clone(), From::Now, options(delta));
        let (subscribed, ()) =
            tokio::join!(subscribing, async { hub.live(&topic, Position::ZERO) });
        subscribed.expect("subscribed");
        lane.start(key, &topic);
        viewers.push(Viewer { wire, delta, key, socket, since: Position::ZERO });
    }
    let (mut published, mut head) = (HashMap::new(), Position::ZERO);
    let mut text: Vec<char> =
        "Germany against Brazil, Estadio Azteca, Mexico City".chars().collect();
    for step in steps {
        match step {
            Step::Publish(at, cut, put) => {
                let at = at.index(text.len() + 1);
                text.splice(at..(at + cut).min(text.len()), put.chars());
                let payload = Bytes::from(text.iter().collect::<String>());
                head = Position::new(7, head.offset.0 + 1);
                published.insert(head, payload.clone());
                let (time, content_type) = (Timestamp(0), ContentType::Text);
                let message = Message { position: head, time, content_type, key: None, payload };
                hub.deliver(&topic, &[Arc::new(message)]);
            }
            Step::Room(who, room) => {
                viewers[who].socket.borrow_mut().room = room;
                lane.writable(viewers[who].key);
            }
            Step::Again(who) => {
                let Viewer { key, delta, .. } = viewers[who];
                check(&viewers[who], &published);
                lane.unsubscribe(key, &topic);
                let subscribing = lane.subscribe(key, 0, topic.clone(), From::Now, options(delta));
                subscribing.await.expect("subscribed");
                lane.start(key, &topic);
                viewers[who].socket.borrow_mut().frames.clear();
                viewers[who].since = head;
            }
            Step::Turns => turns().await,
        }
    }
    for viewer in &viewers {
        viewer.socket.borrow_mut().room = usize::MAX;
        lane.writable(viewer.key);
    }
    turns().await;
    for viewer in &viewers {
        assert_eq!(check(viewer, &published), head);
    }
    end.cancel();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_makes_what_was_published(steps in proptest::collection::vec(step(), 1..80)) {
        let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(run(steps));
    }
}
